package raftkv_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

func TestAsync(t *testing.T) {
	_, client := open(t, 3, 4)
	ctx, async := within(t, time.Minute), client.Async()
	puts := make([]*raftkv.Future[raftkv.Result], 100)
	for i := range puts {
		puts[i] = async.Put(ctx, fmt.Sprint(i), []byte(fmt.Sprint("value ", i)), raftkv.IfAbsent())
	}
	for i, f := range puts {
		if r, err := f.Wait(ctx); err != nil || r.Version != 1 {
			t.Fatalf("put %d: %+v, %v", i, r, err)
		}
		<-f.Done() // which is over, too
		if item, err := async.Get(ctx, fmt.Sprint(i)).Wait(ctx); err != nil || string(item.Value) != fmt.Sprint("value ", i) {
			t.Fatalf("get %d: %+v, %v", i, item, err)
		}
	}
	if r, err := async.Batch(ctx, raftkv.PutOp("{a}1", nil), raftkv.DeleteOp("{a}2")).Wait(ctx); err != nil || len(r.Results) != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	txn := raftkv.Txn{If: []raftkv.Compare{raftkv.Exists("{a}1")}, Then: []raftkv.Op{raftkv.GetOp("{a}1")}}
	if r, err := async.Txn(ctx, txn).Wait(ctx); err != nil || !r.Succeeded || r.Results[0].Item == nil {
		t.Fatalf("%+v, %v", r, err)
	}
	if r, err := async.Delete(ctx, "{a}1").Wait(ctx); err != nil || !r.Deleted {
		t.Fatalf("%+v, %v", r, err)
	}
	var missing *raftkv.KeyNotFoundError
	if _, err := async.Get(ctx, "{a}1").Wait(ctx); !errors.As(err, &missing) || missing.Key != "{a}1" {
		t.Fatalf("%v", err)
	}
	var invalid *raftkv.InvalidError
	for _, f := range []interface {
		Done() <-chan struct{}
	}{async.Get(ctx, ""), async.Put(ctx, "", nil), async.Delete(ctx, ""), async.Batch(ctx), async.Txn(ctx, raftkv.Txn{})} {
		<-f.Done()
	}
	if _, err := async.Put(ctx, "", nil).Wait(ctx); !errors.As(err, &invalid) {
		t.Fatalf("%v", err)
	}
	var failed *raftkv.PreconditionFailedError
	if _, err := async.Put(ctx, "1", nil, raftkv.IfAbsent()).Wait(ctx); !errors.As(err, &failed) {
		t.Fatalf("%v", err)
	}
}

// Calls that nobody waits for share messages with all others and cost no goroutine.
func TestAsyncSharesMessages(t *testing.T) {
	cluster, client := open(t, 1, 1)
	ctx := within(t, time.Minute)
	release := make(chan struct{})
	cluster.SetHook(func(o raftkvtest.Operation) raftkvtest.Action {
		if o.Request.GetPut().GetKey() == "0" {
			return raftkvtest.Action{Wait: release}
		}
		return raftkvtest.Action{}
	})
	before := runtime.NumGoroutine()
	const calls = 2000
	futures := make([]*raftkv.Future[raftkv.Result], calls)
	for i := range futures {
		futures[i] = client.Async().Put(ctx, fmt.Sprint(i), nil)
	}
	if _, err := futures[calls-1].Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if n := runtime.NumGoroutine() - before; n > 50 {
		t.Errorf("%d goroutines more", n)
	}
	waiting, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := futures[0].Wait(waiting); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	close(release)
	for _, f := range futures {
		if _, err := f.Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if messages, operations := cluster.Messages(0); operations != calls || messages*2 > operations {
		t.Errorf("%d operations in %d messages", operations, messages)
	}
}

// Past the bound, starting a call waits for another to end, or for its own end.
func TestAsyncIsBounded(t *testing.T) {
	cluster, client := open(t, 1, 1, raftkv.WithAsyncLimit(2))
	ctx := within(t, time.Minute)
	release := make(chan struct{})
	cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action { return raftkvtest.Action{Wait: release} })
	one, two := client.Async().Put(ctx, "1", nil), client.Async().Put(ctx, "2", nil)
	short := within(t, 20*time.Millisecond)
	var call *raftkv.CallError
	if _, err := client.Async().Put(short, "3", nil).Wait(ctx); !errors.As(err, &call) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
	third := make(chan *raftkv.Future[raftkv.Result])
	go func() { third <- client.Async().Put(ctx, "4", nil) }()
	close(release)
	for _, f := range []*raftkv.Future[raftkv.Result]{one, two, <-third} {
		if _, err := f.Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if n := cluster.Applied("3"); n != 0 {
		t.Errorf("the call that was not started was applied %d times", n)
	}
	if c, err := raftkv.Open(t.Context(), cluster.Endpoints(), raftkv.WithAsyncLimit(0)); err == nil {
		c.Close()
		t.Error("a limit of 0 was taken")
	}
}

// A call ends with the context that started it, with the default timeout, or with the client; the error says whether it may have been applied.
func TestAsyncEnds(t *testing.T) {
	var unknown *raftkv.OutcomeUnknownError
	t.Run("cancelled", func(t *testing.T) {
		cluster, client := open(t, 1, 1)
		arrived := make(chan struct{})
		cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
			close(arrived)
			return raftkvtest.Action{Wait: make(chan struct{})}
		})
		ctx, cancel := context.WithCancel(t.Context())
		f := client.Async().Put(ctx, "k", nil)
		<-arrived
		cancel()
		if _, err := f.Wait(t.Context()); !errors.As(err, &unknown) || !errors.Is(err, context.Canceled) {
			t.Fatalf("%v", err)
		}
		var call *raftkv.CallError
		if _, err := client.Async().Get(ctx, "k").Wait(t.Context()); !errors.As(err, &call) || !errors.Is(err, context.Canceled) {
			t.Fatalf("%v", err)
		}
	})
	t.Run("timed out", func(t *testing.T) {
		cluster, client := open(t, 1, 1, raftkv.WithTimeout(50*time.Millisecond))
		cluster.SetHook(times(1, raftkvtest.Action{Wait: make(chan struct{})}))
		if _, err := client.Async().Put(t.Context(), "k", nil).Wait(t.Context()); !errors.As(err, &unknown) || !errors.Is(err, raftkv.ErrTimeout) {
			t.Fatalf("%v", err)
		}
		if _, err := client.Async().Put(within(t, time.Minute), "k", nil).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("given up at one node", func(t *testing.T) {
		cluster, client := open(t, 2, 1, raftkv.WithTimeout(1600*time.Millisecond))
		cluster.SetHook(holds)
		if r, err := client.Async().Batch(t.Context(), raftkv.PutOp("k", nil)).Wait(t.Context()); err != nil || len(r.Results) != 1 {
			t.Fatalf("%+v, %v", r, err)
		}
		if n := cluster.Applied("k"); n != 1 {
			t.Fatalf("applied %d times", n)
		}
	})
	t.Run("closed", func(t *testing.T) {
		cluster, client := open(t, 1, 1)
		arrived := make(chan struct{}, 100)
		cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
			arrived <- struct{}{}
			return raftkvtest.Action{Wait: make(chan struct{})}
		})
		under := client.Async().Put(t.Context(), "k", nil)
		<-arrived
		var starting sync.WaitGroup
		futures := make(chan *raftkv.Future[raftkv.Result], 400)
		for range 4 {
			starting.Go(func() {
				for range 100 {
					futures <- client.Async().Put(t.Context(), "k", nil)
				}
			})
		}
		client.Close()
		starting.Wait()
		if _, err := under.Wait(t.Context()); !errors.As(err, &unknown) || !errors.Is(err, raftkv.ErrClosed) {
			t.Fatalf("%v", err)
		}
		for range 400 {
			if _, err := (<-futures).Wait(t.Context()); !errors.Is(err, raftkv.ErrClosed) {
				t.Fatalf("%v", err)
			}
		}
	})
}

// Every write is applied exactly once, whatever happens to its attempts, and whether or not somebody waits.
func TestAsyncExactlyOnceUnderFaults(t *testing.T) {
	cluster, client := open(t, 3, 2)
	cluster.Redirect(true)
	var count atomic.Uint64
	cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
		switch n := count.Add(1); {
		case n%97 == 0:
			return raftkvtest.Action{DropAfter: true}
		case n%89 == 0:
			return raftkvtest.Action{DropBefore: true}
		case n%61 == 0:
			return raftkvtest.Action{Refuse: raftkvtest.Overloaded(time.Millisecond)}
		case n%53 == 0:
			return raftkvtest.Action{Refuse: raftkvtest.Unknown("a test")}
		case n%500 == 0:
			cluster.SetLeader(1, int(n/500)%3)
		}
		return raftkvtest.Action{}
	})
	ctx := within(t, time.Minute)
	const keys, writes = 16, 40
	futures := make([]*raftkv.Future[raftkv.Result], 0, keys*writes)
	for range writes {
		for k := range keys {
			futures = append(futures, client.Async().Put(ctx, fmt.Sprintf("key-%d", k), nil))
		}
	}
	for _, f := range futures {
		if _, err := f.Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for k := range keys {
		if item, err := client.Get(ctx, fmt.Sprintf("key-%d", k)); err != nil || item.Version != writes {
			t.Errorf("%s: %d versions, %v", item.Key, item.Version, err)
		}
	}
}
