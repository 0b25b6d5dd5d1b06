package raftkv_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

// holds makes node 0 never answer what it gets.
func holds(o raftkvtest.Operation) raftkvtest.Action {
	if o.Node == 0 {
		return raftkvtest.Action{Wait: make(chan struct{})}
	}
	return raftkvtest.Action{}
}

// An attempt that is not answered is given up in time for another at another node. A write keeps its identity.
func TestAttemptsAreGivenUp(t *testing.T) {
	cluster, client := open(t, 2, 1, raftkv.WithTimeout(1600*time.Millisecond))
	if _, err := client.Put(t.Context(), "k", []byte("old")); err != nil {
		t.Fatal(err)
	}
	cluster.SetHook(holds)
	if item, err := client.Get(t.Context(), "k"); err != nil || string(item.Value) != "old" {
		t.Fatalf("%+v, %v", item, err)
	}
	ids := make(chan string, 10)
	cluster.SetHook(func(o raftkvtest.Operation) raftkvtest.Action {
		id := o.Request.GetBatch().GetRequestId()
		ids <- string(id.GetClientId()) + "/" + id.String()
		return holds(o)
	})
	ctx := within(t, 1600*time.Millisecond) // the same with the deadline of a context
	if r, err := client.Batch(ctx, raftkv.PutOp("k", []byte("new"))); err != nil || r.Results[0].Version != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	if first, second := <-ids, <-ids; first != second {
		t.Errorf("the attempts have ids %q and %q", first, second)
	}
}

// The time of an attempt ends no pause after it.
func TestPausesMayBeLongerThanAttempts(t *testing.T) {
	for name, bounded := range map[string]bool{"context": true, "timeout": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster, client := open(t, 1, 1, raftkv.WithTimeout(3*time.Second))
			cluster.SetHook(times(1, raftkvtest.Action{Refuse: raftkvtest.Overloaded(1100 * time.Millisecond)}))
			ctx := t.Context()
			if bounded {
				ctx = within(t, 3*time.Second)
			}
			if _, err := client.Put(ctx, "k", nil); err != nil { // after 1.1 to 1.65 s; an attempt may take 1 s
				t.Fatal(err)
			}
		})
	}
}

// When every attempt goes unanswered, the error lists them and says that the outcome is unknown.
func TestUnansweredAttemptsAreListed(t *testing.T) {
	cluster, client := open(t, 1, 1, raftkv.WithTimeout(1600*time.Millisecond))
	cluster.SetHook(holds)
	_, err := client.Put(t.Context(), "k", nil)
	var unknown *raftkv.OutcomeUnknownError
	if !errors.As(err, &unknown) || !errors.Is(err, raftkv.ErrTimeout) || !errors.Is(err, raftkv.ErrNoAnswer) || len(unknown.Attempts) < 2 {
		t.Fatalf("%v", err)
	}
	for _, a := range unknown.Attempts {
		if a.Endpoint != cluster.Endpoints()[0] || !strings.Contains(err.Error(), a.Err.Error()) {
			t.Errorf("%v is not in %v", a, err)
		}
	}
}

// A call outside the streams turns to another node, too.
func TestUnaryAttemptsAreGivenUp(t *testing.T) {
	_, p, client := proxied(t, 2, raftkv.WithTimeout(1600*time.Millisecond))
	p.silent.Store(true)
	for range 2 { // one of them begins at the silent node
		if nodes, err := client.Cluster().Nodes(t.Context()); err != nil || len(nodes) != 2 {
			t.Fatalf("%v, %v", nodes, err)
		}
	}
}

// A change of the cluster carries no identity: it has one attempt for all of its time.
func TestClusterChangesAreNotGivenUp(t *testing.T) {
	_, p, client := proxied(t, 1, raftkv.WithTimeout(1600*time.Millisecond))
	p.silent.Store(true)
	_, err := client.Cluster().TransferLeader(t.Context(), 1, "n1")
	var unknown *raftkv.OutcomeUnknownError
	if !errors.As(err, &unknown) || len(unknown.Attempts) != 1 || unknown.Write != nil {
		t.Fatalf("%v", err)
	}
}

// A client whose retries are used up says so.
func TestRetryBudget(t *testing.T) {
	cluster, client := open(t, 1, 1, raftkv.WithTimeout(2*time.Second), raftkv.WithRetryBudget(0, 1))
	cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
		return raftkvtest.Action{Refuse: raftkvtest.Overloaded(time.Millisecond)}
	})
	_, err := client.Put(t.Context(), "k", nil)
	var budget *raftkv.RetryBudgetError
	var overloaded *raftkv.OverloadedError
	var call *raftkv.CallError
	if !errors.As(err, &budget) || !errors.As(err, &overloaded) || !errors.As(err, &call) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
	if len(call.Attempts) != 2 {
		t.Fatalf("%d attempts with a budget of one retry: %v", len(call.Attempts), err)
	}
	// Finding the leader is free.
	cluster.SetHook(times(5, raftkvtest.Action{Refuse: raftkvtest.Stale(1, 7)}))
	if _, err := client.Put(within(t, time.Minute), "k", nil); err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][2]int{{-1, 1}, {101, 1}, {10, 0}, {10, 1_000_001}} {
		if c, err := raftkv.Open(t.Context(), cluster.Endpoints(), raftkv.WithRetryBudget(bad[0], bad[1])); err == nil {
			c.Close()
			t.Errorf("a budget of %v was taken", bad)
		}
	}
}

// A node that refuses everything because it stops is passed over, although it leads.
func TestStoppingNodeIsPassedOver(t *testing.T) {
	cluster, client := open(t, 3, 1)
	ctx := within(t, time.Minute)
	cluster.SetHook(func(o raftkvtest.Operation) raftkvtest.Action {
		if o.Node == 0 {
			return raftkvtest.Action{Refuse: raftkvtest.Stopping()}
		}
		return raftkvtest.Action{}
	})
	const writes = 200
	for range writes {
		if _, err := client.Put(ctx, "k", nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, operations := cluster.Messages(0); operations > writes/2 {
		t.Errorf("%d of %d operations went to the node that stops", operations, writes)
	}
}

// A full disk ejects no node at once, and is told to the caller.
func TestFullDisk(t *testing.T) {
	cluster, client := open(t, 2, 1)
	ctx := within(t, time.Minute)
	cluster.SetHook(func(o raftkvtest.Operation) raftkvtest.Action {
		if o.Request.GetPut() != nil {
			return raftkvtest.Action{Refuse: raftkvtest.DiskFull("n1", 1)}
		}
		return raftkvtest.Action{}
	})
	for range 10 {
		var full *raftkv.DiskFullError
		if _, err := client.Put(ctx, "k", nil); !errors.As(err, &full) || full.Node != "n1" {
			t.Fatalf("%v", err)
		}
		if _, err := client.Delete(ctx, "k"); err != nil {
			t.Fatal(err)
		}
	}
	if _, operations := cluster.Messages(1); operations != 0 {
		t.Errorf("%d operations went to the other node, although the first one answers", operations)
	}
}
