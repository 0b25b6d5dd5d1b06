package main

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/raftkv/raftkv/raftnode/nodetest"
)

func TestRecorder(t *testing.T) {
	r := newRecorder()
	write := func(value string) *nodetest.Operation {
		return &nodetest.Operation{Kind: nodetest.Write, Shard: 2, Origin: 7, Revision: 7, Attempts: 1, Changes: []nodetest.Change{{Value: value}}, Cells: make([]nodetest.Cell, 1)}
	}
	done, unknown, refused := write("v1-0"), write("v2-0"), write("v3-0")
	r.finish(done, nodetest.Done)
	r.lose(unknown)
	r.refuse(refused)
	read := &nodetest.Operation{Kind: nodetest.Read, Shard: 2, Origin: 9, Attempts: 2, Cells: []nodetest.Cell{{Value: "v1-0"}}}
	r.finish(read, nodetest.Done)
	r.lose(&nodetest.Operation{Kind: nodetest.Read})
	if len(r.history.Operations) != 3 || r.history.Refused["v3-0"] != refused {
		t.Fatalf("%+v", r.history)
	}
	if r.done != 1 || r.unknown != 1 || r.refused != 1 || r.read != 1 || r.unread != 1 || r.retried != 1 || r.seen(2) != 9 || len(r.acked[2]) != 1 {
		t.Errorf("%+v", r)
	}
	if unknown.Outcome != nodetest.Unknown || unknown.Return <= done.Return {
		t.Errorf("an unknown outcome: %s", unknown)
	}
	if c := r.known(0, 0); c.Value != "v1-0" {
		t.Errorf("a key that was read is known as %+v", c)
	}
	stopped := write("v4-0")
	stopped.Cells = nil
	r.finish(stopped, nodetest.CompareFailed)
	if c := r.known(0, 0); r.failed != 1 || r.done != 1 || c.Value != "v1-0" {
		t.Errorf("after a write that its condition has stopped: %d, %d, %+v", r.failed, r.done, c)
	}
	r.history.Operations = r.history.Operations[:3]
	path := filepath.Join(t.TempDir(), "history.jsonl")
	if err := r.save(path); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := 0
	for s := bufio.NewScanner(f); s.Scan(); lines++ {
		var op nodetest.Operation
		if err := json.Unmarshal(s.Bytes(), &op); err != nil {
			t.Fatal(err)
		}
		if lines == 0 && op.String() != done.String() {
			t.Errorf("%s was written, %s read", done, &op)
		}
	}
	if lines != 5 { // three operations, and the values of the write that was refused and of the one that was stopped
		t.Errorf("%d lines", lines)
	}
}

func TestValues(t *testing.T) {
	var v values
	for _, size := range append([]int{1, 7}, sizes...) {
		name := v.next(size)
		value := encode(name)
		if got, err := decode(value); err != nil || got != name || len(value) != max(size, len(name)) {
			t.Errorf("%s: %d bytes, %q, %v", name, len(value), got, err)
		}
		if size > len(name) {
			if _, err := decode(value[:len(value)-1]); err == nil {
				t.Errorf("half of %s passes", name)
			}
		}
	}
	if _, err := decode([]byte("v1-3.x")); err == nil {
		t.Error("a foreign value passes")
	}
}
