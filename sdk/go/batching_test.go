package raftkv_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

// Many callers share messages.
func TestAdaptiveBatching(t *testing.T) {
	cluster, client := open(t, 1, 1)
	ctx := within(t, time.Minute)
	const callers = 200
	var started sync.WaitGroup
	started.Add(callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			started.Done()
			started.Wait()
			for range 20 {
				if _, err := client.Put(ctx, fmt.Sprint(i), nil); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	messages, operations := cluster.Messages(0)
	if operations != callers*20 || messages*2 > operations {
		t.Errorf("%d operations in %d messages", operations, messages)
	}
}

// A message that is stuck behind one shard does not hold up the others for long, and is still answered in the end.
func TestStuckShardDoesNotHoldUpOthers(t *testing.T) {
	cluster, client := open(t, 1, 2)
	ctx := within(t, time.Minute)
	release := make(chan struct{})
	arrived := make(chan struct{}, 16)
	stuck := keyOn(t, cluster, 1)
	cluster.SetHook(func(o raftkvtest.Operation) raftkvtest.Action {
		if o.Request.GetPut().GetKey() == stuck {
			arrived <- struct{}{}
			return raftkvtest.Action{Wait: release}
		}
		return raftkvtest.Action{}
	})
	var wg sync.WaitGroup
	for range 2 { // both messages that may be in flight
		wg.Go(func() {
			if _, err := client.Put(ctx, stuck, nil); err != nil {
				t.Error(err)
			}
		})
		<-arrived
	}
	for range 10 {
		if _, err := client.Put(within(t, 10*time.Second), keyOn(t, cluster, 2), nil); err != nil {
			t.Fatal(err)
		}
	}
	close(release)
	wg.Wait()
}

// Cancelled calls return at once and leave the stream in order for the others.
func TestCancelledCalls(t *testing.T) {
	cluster, client := open(t, 1, 1)
	release, arrived := make(chan struct{}), make(chan struct{})
	var held atomic.Int32
	cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
		switch held.Add(1) {
		case 1:
			return raftkvtest.Action{Wait: release}
		case 2:
			close(arrived)
			return raftkvtest.Action{Wait: release}
		}
		return raftkvtest.Action{}
	})
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error, 50)
	for i := range 50 {
		go func() { _, err := client.Put(ctx, fmt.Sprint(i), []byte("value")); results <- err }()
	}
	<-arrived
	cancel()
	for range 50 {
		err := <-results
		var unknown *raftkv.OutcomeUnknownError
		var call *raftkv.CallError
		if err != nil && (!errors.Is(err, context.Canceled) || !errors.As(err, &unknown) && !errors.As(err, &call)) {
			t.Errorf("%v", err)
		}
	}
	close(release)
	for range 10 {
		if _, err := client.Put(t.Context(), "k", []byte("v")); err != nil {
			t.Fatal(err)
		}
	}
}

// The results of answered writes are forgotten by the cluster as the client goes on, also after it lost track of one.
func TestAnsweredWritesAreForgotten(t *testing.T) {
	cluster, client := open(t, 1, 1)
	ctx := within(t, time.Minute)
	for range 100 {
		if _, err := client.Put(ctx, "k", nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := cluster.Kept(1); n > 2 {
		t.Errorf("%d results are kept", n)
	}
	cluster.SetHook(times(1, raftkvtest.Action{DropAfter: true}))
	for range 100 {
		if _, err := client.Put(ctx, "k", nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := cluster.Kept(1); n > 4 {
		t.Errorf("%d results are kept after a lost answer", n)
	}
}
