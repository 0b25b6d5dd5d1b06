package transport

import (
	"testing"
)

func TestOutboxBounds(t *testing.T) {
	m := raftMessage(1, "x")
	o := newOutbox(3, 100)
	if o.put(m, 1) {
		t.Fatal("taken without a connection")
	}
	o.open()
	if !o.put(m, 1000) {
		t.Fatal("a message over the bound must pass when nothing else waits")
	}
	if o.put(m, 1) {
		t.Fatal("taken beyond the bytes")
	}
	spent := o.take(nil)
	if o.put(m, 1) {
		t.Fatal("what is being written still counts")
	}
	o.release(1, 1000)
	for range 3 {
		if !o.put(m, 1) {
			t.Fatal("refused within the bounds")
		}
	}
	if o.put(m, 1) {
		t.Fatal("taken beyond the messages")
	}
	if got := o.take(spent); len(got) != 3 {
		t.Fatalf("%d taken", len(got))
	}
	if lost := o.shut(); lost != 3 {
		t.Fatalf("%d lost", lost)
	}
	o.open()
	if got := o.take(nil); len(got) != 0 {
		t.Fatal("a message outlived its connection")
	}
	if !o.put(m, 100) {
		t.Fatal("the bounds of an earlier connection still hold")
	}
}
