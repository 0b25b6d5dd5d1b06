package state

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
)

func traced(e *storev1.Entry, n int) *storev1.Entry {
	for i := range n {
		e.Traces = append(e.Traces, &storev1.TraceContext{
			Command: uint32(i), TraceId: bytes.Repeat([]byte{byte(i + 1)}, 16), SpanId: bytes.Repeat([]byte{byte(i + 1)}, 8), Flags: 1,
		})
	}
	return e
}

// The traces of an entry are found without its commands, and damage makes them none.
func TestEntryTraces(t *testing.T) {
	e := traced(entry(putCommand("a", "1"), putCommand("b", "2")), 3)
	b, err := EncodeEntry(e)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(e.Traces, EntryTraces(b, 10), protocmp.Transform()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if d := cmp.Diff(e.Traces[:2], EntryTraces(b, 2), protocmp.Transform()); d != "" {
		t.Errorf("at most two, -want +got:\n%s", d)
	}
	for n := range b {
		if got := EntryTraces(b[:n], 10); len(got) > 3 {
			t.Errorf("%d traces of %d bytes", len(got), n)
		}
	}
	plain, err := EncodeEntry(entry(putCommand("a", "1"), putCommand("b", "2")))
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if EntryTraces(plain, 10) != nil {
			t.Error("an entry without traces has some")
		}
	}); n != 0 {
		t.Errorf("%v allocations to find that an entry has no traces", n)
	}
}

// Traces are beside what is applied: with or without them the state is the same, byte for byte (R20, R21).
func TestTracesChangeNothing(t *testing.T) {
	var images [2][]byte
	for i := range images {
		m := newServing(t, testOptions(newDisk()))
		for n := range 5 {
			e := entry(putCommand(keyName(n), "v"), writeCommand(deleteOp(keyName(n/2))))
			traced(e, 2*i)
			if _, err := m.shard.Apply(m.batch, m.shard.meta.AppliedIndex+1, 1, e); err != nil {
				t.Fatal(err)
			}
			if err := m.batch.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		checkDigests(t, m.store, testShard)
		images[i] = exportOf(t, m.store, testShard)
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("the state is another one with traces")
	}
}
