package main

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/nodetest"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// quarters is a keyspace of which each shard serves a quarter.
func quarters() *keyspace {
	s := &keyspace{}
	for i := range uint32(shards) {
		const run = placement.SlotCount / shards
		s.shards = append(s.shards, &raftkvv1.Shard{Id: 1 + i, Slots: []*raftkvv1.SlotRange{{First: i * run, Last: (i+1)*run - 1}}})
	}
	return s
}

// Every shard has groups at all times, new ones after every window, and old ones are not forgotten.
func TestKeyspace(t *testing.T) {
	s := quarters()
	var before []int
	for range 3 {
		s.renew()
		each := make(map[placement.ShardID]int)
		for _, g := range s.active {
			each[s.shard(g)]++
			if slices.Contains(before, g) {
				t.Errorf("group %d is not new", g)
			}
		}
		for shard := range placement.ShardID(shards) {
			if each[1+shard] != groupsEach {
				t.Errorf("shard %d has %d groups", 1+shard, each[1+shard])
			}
		}
		before = append(before, s.active...)
	}
	one := s.one(3)
	if s.shard(one) != 3 || slices.Contains(before, one) {
		t.Errorf("group %d of shard %d", one, s.shard(one))
	}
	if got := s.groups(); !slices.Equal(got, append(before, one)) {
		t.Errorf("all groups: %v", got)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 100 {
		if g := s.pick(r, false); !slices.Contains(s.active, g) {
			t.Errorf("group %d is not written any more", g)
		}
	}
}

// A page shows the keys of a group as far as it goes: those that are missing on it do not exist.
func TestCellsOf(t *testing.T) {
	kv := func(group, k int, value string) *raftkvv1.KeyValue {
		return &raftkvv1.KeyValue{Key: keyName(group, k), Value: encode(value), Version: 2, ModRevision: 7}
	}
	has := func(value string) nodetest.Cell { return nodetest.Cell{Value: value, Version: 2, Revision: 7} }
	for name, test := range map[string]struct {
		page []*raftkvv1.KeyValue
		more bool
		want []nodetest.Cell
	}{
		"whole":               {[]*raftkvv1.KeyValue{kv(4, 1, "v1-0")}, false, []nodetest.Cell{{}, has("v1-0"), {}}},
		"empty":               {nil, false, make([]nodetest.Cell, nodetest.GroupKeys)},
		"ends in the group":   {[]*raftkvv1.KeyValue{kv(4, 1, "v1-0")}, true, []nodetest.Cell{{}, has("v1-0")}},
		"ends behind it":      {[]*raftkvv1.KeyValue{kv(4, 0, "v1-0"), kv(5, 0, "v2-0")}, true, []nodetest.Cell{has("v1-0"), {}, {}}},
		"backwards and whole": {[]*raftkvv1.KeyValue{kv(4, 2, "v3-0"), kv(4, 0, "v1-900")}, false, []nodetest.Cell{has("v1-900"), {}, has("v3-0")}},
	} {
		got, err := cellsOf(4, test.page, test.more)
		if err != nil || cmp.Diff(test.want, got) != "" {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := cellsOf(4, []*raftkvv1.KeyValue{{Key: keyName(4, 0), Value: []byte("half.")}}, false); err == nil {
		t.Error("a broken value passes")
	}
}

// answerTo is what a node says to a write that it has done: it has found every key at version 2, written by revision 5.
func answerTo(ask *call, header *raftkvv1.ResponseHeader, failed *raftkvv1.FailedCompare) *result {
	found := func(asked bool, key string) *raftkvv1.KeyValue {
		if !asked {
			return nil
		}
		return &raftkvv1.KeyValue{Key: key, Value: encode("v1-200"), Version: 2, ModRevision: 5}
	}
	switch {
	case ask.put != nil:
		return &result{put: &raftkvv1.PutResponse{Header: header, Version: 3, PrevKv: found(ask.put.GetPrevKv(), ask.put.GetKey())}}
	case ask.delete != nil:
		return &result{delete: &raftkvv1.DeleteResponse{Header: header, Deleted: true, PrevKv: found(ask.delete.GetPrevKv(), ask.delete.GetKey())}}
	case ask.txn != nil:
		answer, asked := &raftkvv1.TxnResponse{Header: header, Succeeded: failed == nil, Failed: failed}, ask.txn.GetThen()
		if failed != nil {
			asked = ask.txn.GetElse()
		}
		for _, o := range asked {
			one := &raftkvv1.TxnResult{Result: &raftkvv1.TxnResult_Get_{Get: &raftkvv1.TxnResult_Get{Kv: found(true, o.GetGet().GetKey())}}}
			if p := o.GetPut(); p != nil {
				one.Result = &raftkvv1.TxnResult_Put_{Put: &raftkvv1.TxnResult_Put{Version: 3, PrevKv: found(p.GetPrevKv(), p.GetKey())}}
			} else if d := o.GetDelete(); d != nil {
				one.Result = &raftkvv1.TxnResult_Delete_{Delete: &raftkvv1.TxnResult_Delete{Deleted: true, PrevKv: found(d.GetPrevKv(), d.GetKey())}}
			}
			answer.Results = append(answer.Results, one)
		}
		return &result{txn: answer}
	}
	batch := &raftkvv1.BatchResponse{Header: header}
	for _, o := range ask.batch.GetOperations() {
		one := &raftkvv1.BatchResult{Result: &raftkvv1.BatchResult_Put{Put: &raftkvv1.PutResponse{Version: 3}}}
		if o.GetDelete() != nil {
			one.Result = &raftkvv1.BatchResult_Delete{Delete: &raftkvv1.DeleteResponse{Deleted: true}}
		}
		batch.Results = append(batch.Results, one)
	}
	return &result{batch: batch}
}

// What is drawn, put into the form of the contract and answered comes back as the operation that it was.
func TestTake(t *testing.T) {
	r, v, rec, txns := rand.New(rand.NewPCG(7, 7)), &values{}, newRecorder(), 0
	for i := range 500 {
		op := &nodetest.Operation{Group: 4, Shard: 2}
		d := drawWrite(r, v, rec, op)
		ask := d.call(nil)
		header := &raftkvv1.ResponseHeader{Shard: 2, Revision: 9}
		var failed *raftkvv1.FailedCompare
		if d.txn && op.Condition != nil && i%2 == 0 {
			failed = &raftkvv1.FailedCompare{Current: 5}
		}
		answer := answerTo(ask, header, failed)
		if err := answer.take(op, ask); err != nil || op.Revision != 9 {
			t.Fatalf("%s: %v", op, err)
		}
		done, _ := op.Branches()
		if d.txn {
			txns++
			if (op.Outcome == nodetest.CompareFailed) != (failed != nil) || failed != nil && op.Current != 5 {
				t.Errorf("%s, failed at %d", op, op.Current)
			}
			if seen := answer.glimpses(op, ask); len(seen) != len(d.glimpse) {
				t.Errorf("%d glimpses of %v", len(seen), d.glimpse)
			} else if len(seen) > 0 && (seen[0].err != nil || seen[0].From != d.glimpse[0] || seen[0].Cells[0].Value != "v1-200" || seen[0].Origin != 9) {
				t.Errorf("%+v", seen[0])
			}
		}
		if len(op.Cells) != len(done) || (op.Before != nil) != (d.previous && len(done) > 0 && ask.batch == nil) {
			t.Fatalf("%s: %d cells, before %v", op, len(op.Cells), op.Before)
		}
		for i, c := range done {
			want := nodetest.Cell{Value: c.Value, Version: 3, Existed: true}
			if c.Delete {
				want.Version = 0
			}
			if op.Cells[i] != want {
				t.Errorf("%s: %+v, want %+v", op, op.Cells[i], want)
			}
			if was := (nodetest.Cell{Value: "v1-200", Version: 2, Revision: 5}); op.Before != nil && op.Before[i] != was {
				t.Errorf("%s: it has found %+v", op, op.Before[i])
			}
		}
		header.Shard = 3
		if err := answer.take(op, ask); err == nil {
			t.Error("an answer of another shard passes")
		}
		if err := (&result{}).take(op, ask); err == nil {
			t.Error("no answer passes")
		}
	}
	if txns < 100 {
		t.Errorf("%d transactions", txns)
	}
}
