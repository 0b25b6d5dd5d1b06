package raftkv_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

func TestTxn(t *testing.T) {
	_, client := open(t, 3, 1)
	ctx := within(t, time.Minute)
	txn := func(x raftkv.Txn) raftkv.TxnResult {
		t.Helper()
		r, err := client.Txn(ctx, x)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := txn(raftkv.Txn{
		If:   []raftkv.Compare{raftkv.Absent("a"), raftkv.Absent("b")},
		Then: []raftkv.Op{raftkv.PutOp("a", []byte("1")), raftkv.PutOp("b", []byte("2")).WithPrevious(), raftkv.GetOp("c")},
		Else: []raftkv.Op{raftkv.GetOp("a")},
	})
	at := first.Revision
	want := raftkv.TxnResult{Revision: at, Shard: 1, Succeeded: true, Results: []raftkv.Result{
		{Revision: at, Shard: 1, CreateRevision: at, Version: 1}, {Revision: at, Shard: 1, CreateRevision: at, Version: 1}, {Revision: at, Shard: 1},
	}}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Error(diff)
	}
	a := &raftkv.Item{Key: "a", Value: []byte("1"), CreateRevision: at, ModRevision: at, Version: 1}
	second := txn(raftkv.Txn{
		If:   []raftkv.Compare{raftkv.Exists("b"), raftkv.RevisionIs("a", at+9)},
		Else: []raftkv.Op{raftkv.GetOp("a")},
	})
	want = raftkv.TxnResult{Revision: at, Shard: 1, Failed: 1, Current: at, Results: []raftkv.Result{{Revision: at, Shard: 1, Item: a}}}
	if diff := cmp.Diff(want, second); diff != "" {
		t.Error(diff)
	}
	third := txn(raftkv.Txn{
		If:   []raftkv.Compare{raftkv.ValueIs("a", []byte("1")), raftkv.RevisionIs("b", at)},
		Then: []raftkv.Op{raftkv.DeleteOp("a").WithPrevious(), raftkv.PutOp("b", []byte("3")).WithPrevious()},
	})
	b := &raftkv.Item{Key: "b", Value: []byte("2"), CreateRevision: at, ModRevision: at, Version: 1}
	if r := third.Results; !third.Succeeded || len(r) != 2 || !r[0].Deleted || cmp.Diff(a, r[0].Previous) != "" || cmp.Diff(b, r[1].Previous) != "" || r[1].Version != 2 {
		t.Errorf("%+v", third)
	}
	if item, err := client.Get(ctx, "a", raftkv.AtRevision(at)); err != nil || string(item.Value) != "1" {
		t.Errorf("a at revision %d: %+v, %v", at, item, err)
	}
	if _, err := client.Get(ctx, "a"); !errors.Is(err, raftkv.ErrNotFound) { // no revision stays with the operation that is used again
		t.Errorf("a now: %v", err)
	}
	var future *raftkv.FutureRevisionError
	if _, err := client.Get(ctx, "a", raftkv.AtRevision(at+9)); !errors.As(err, &future) || future.Current != third.Revision || future.Revision != at+9 {
		t.Errorf("a in the future: %v", err)
	}
}

func TestPrevious(t *testing.T) {
	_, client := open(t, 1, 1)
	ctx := within(t, time.Minute)
	if r, err := client.Put(ctx, "a", []byte("1"), raftkv.Previous()); err != nil || r.Previous != nil {
		t.Errorf("a new key: %+v, %v", r, err)
	}
	if r, err := client.Put(ctx, "a", []byte("2"), raftkv.Previous(), raftkv.IfExists()); err != nil || r.Previous == nil || string(r.Previous.Value) != "1" {
		t.Errorf("overwritten: %+v, %v", r, err)
	}
	if r, err := client.Put(ctx, "a", []byte("3")); err != nil || r.Previous != nil {
		t.Errorf("not asked for: %+v, %v", r, err)
	}
	if r, err := client.Delete(ctx, "a", raftkv.Previous()); err != nil || r.Previous == nil || string(r.Previous.Value) != "3" {
		t.Errorf("deleted: %+v, %v", r, err)
	}
	if r, err := client.Delete(ctx, "a"); err != nil || r.Previous != nil {
		t.Errorf("deleted again: %+v, %v", r, err)
	}
}

// A transaction is applied once whatever happens to its answer, and a retry hears what the first attempt has found.
func TestTxnIsRetriedSafely(t *testing.T) {
	cluster, client := open(t, 3, 1)
	ctx := within(t, time.Minute)
	cluster.SetHook(times(2, raftkvtest.Action{DropAfter: true}))
	r, err := client.Txn(ctx, raftkv.Txn{If: []raftkv.Compare{raftkv.Absent("n")}, Then: []raftkv.Op{raftkv.PutOp("n", []byte("1"))}})
	if err != nil || !r.Succeeded || cluster.Applied("n") != 1 {
		t.Errorf("%+v, %v, applied %d times", r, err, cluster.Applied("n"))
	}
}

func TestBadTxn(t *testing.T) {
	cluster, client := open(t, 1, 2)
	get := []raftkv.Op{raftkv.GetOp("a")}
	var many, large []raftkv.Op
	for i := range 129 {
		many = append(many, raftkv.GetOp(strings.Repeat("k", i+1)))
	}
	for i := range 5 {
		large = append(large, raftkv.PutOp(strings.Repeat("k", i+1), bytes.Repeat([]byte("v"), 1<<20)))
	}
	for name, bad := range map[string]raftkv.Txn{
		"nothing": {}, "else of nothing": {Then: get, Else: get}, "a compare of nothing": {If: []raftkv.Compare{{}}, Then: get},
		"no key": {Then: []raftkv.Op{raftkv.GetOp("")}}, "no key in else": {If: []raftkv.Compare{raftkv.Exists("a")}, Else: []raftkv.Op{raftkv.PutOp("", nil)}},
		"a key twice": {Then: []raftkv.Op{raftkv.GetOp("a"), raftkv.GetOp("b"), raftkv.PutOp("a", nil)}},
		"a key twice in else": {
			If: []raftkv.Compare{raftkv.Exists("a"), raftkv.RevisionIs("a", 1)}, Then: get, Else: []raftkv.Op{raftkv.DeleteOp("a"), raftkv.GetOp("a")},
		},
	} {
		var invalid *raftkv.InvalidError
		if _, err := client.Txn(t.Context(), bad); !errors.As(err, &invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, bad := range map[string]raftkv.Txn{
		"too many": {Then: many}, "too much": {Then: large}, "a long value": {Then: []raftkv.Op{raftkv.PutOp("a", make([]byte, 1<<20+1))}},
	} {
		var limit *raftkv.LimitError
		if _, err := client.Txn(t.Context(), bad); !errors.As(err, &limit) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var cross *raftkv.CrossShardError
	all := raftkv.Txn{If: []raftkv.Compare{raftkv.Exists("a")}}
	for i := range 20 {
		all.Then = append(all.Then, raftkv.GetOp(strings.Repeat("x", i+1)))
	}
	if _, err := client.Txn(t.Context(), all); !errors.As(err, &cross) || len(cross.Groups) != 2 {
		t.Errorf("keys of two shards: %v", err)
	}
	if _, err := client.Batch(t.Context(), raftkv.GetOp("a")); err == nil {
		t.Error("a batch reads")
	}
	var invalid *raftkv.InvalidError
	if _, err := client.Batch(t.Context(), raftkv.PutOp("a", nil), raftkv.DeleteOp("a")); !errors.As(err, &invalid) {
		t.Errorf("a batch of a key twice: %v", err)
	}
	if n := cluster.Applied("a"); n != 0 {
		t.Errorf("applied %d times", n)
	}
	once := raftkv.Txn{If: []raftkv.Compare{raftkv.Exists("a"), raftkv.RevisionIs("a", 1)}, Then: get, Else: get}
	if _, err := client.Txn(t.Context(), once); err != nil {
		t.Errorf("a key in both branches and in compares: %v", err)
	}
}
