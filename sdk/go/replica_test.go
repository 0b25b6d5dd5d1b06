package raftkv_test

import (
	"testing"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

// Reads go to all replicas in turn if that is asked for, and to the others when one fails; writes go to the leader.
func TestFollowerReads(t *testing.T) {
	cluster, client := open(t, 3, 1, raftkv.WithFollowerReads())
	ctx := within(t, time.Minute)
	const calls = 30
	for range calls {
		if _, err := client.Put(ctx, "k", nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, operations := cluster.Messages(0); operations != calls {
		t.Errorf("%d of %d writes went to the leader", operations, calls)
	}
	for range calls {
		if _, err := client.Get(ctx, "k"); err != nil {
			t.Fatal(err)
		}
	}
	for node, want := range []int{calls + calls/3, calls / 3, calls / 3} {
		if _, operations := cluster.Messages(node); operations != want {
			t.Errorf("node %d got %d operations, want %d", node, operations, want)
		}
	}
	cluster.SetHook(func(o raftkvtest.Operation) raftkvtest.Action {
		if o.Node == 2 {
			return raftkvtest.Action{Refuse: raftkvtest.Stopping()}
		}
		return raftkvtest.Action{}
	})
	for range calls {
		if _, err := client.Get(ctx, "k"); err != nil {
			t.Fatal(err)
		}
	}
	if _, operations := cluster.Messages(2); operations > calls {
		t.Errorf("the node that stops got %d operations", operations-calls/3)
	}
}

// Without the option, reads go to the leader.
func TestLeaderReads(t *testing.T) {
	cluster, client := open(t, 3, 1)
	for range 10 {
		if _, err := client.Get(within(t, time.Minute), "k"); err == nil {
			t.Fatal("no error")
		}
	}
	if _, operations := cluster.Messages(0); operations != 10 {
		t.Errorf("%d of 10 reads went to the leader", operations)
	}
}
