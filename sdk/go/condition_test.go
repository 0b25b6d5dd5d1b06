package raftkv_test

import (
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

// refusedAt checks that a write was refused because its key is at a revision.
func refusedAt(t *testing.T, err error, current uint64) {
	t.Helper()
	var failed *raftkv.PreconditionFailedError
	var call *raftkv.CallError
	if !errors.As(err, &failed) || failed.Key != "k" || failed.Current != current || failed.Shard != 1 || !errors.As(err, &call) {
		t.Errorf("%v, want a condition that fails at revision %d", err, current)
	}
}

func TestConditions(t *testing.T) {
	_, client := open(t, 3, 1)
	ctx := within(t, time.Minute)
	put := func(options ...raftkv.PutOption) (raftkv.Result, error) { return client.Put(ctx, "k", nil, options...) }
	remove := func(options ...raftkv.DeleteOption) (raftkv.Result, error) {
		return client.Delete(ctx, "k", options...)
	}
	var last uint64
	done := func(r raftkv.Result, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		last = r.Revision
	}
	refused := func(current uint64) func(raftkv.Result, error) {
		return func(_ raftkv.Result, err error) {
			t.Helper()
			refusedAt(t, err, current)
		}
	}
	refused(0)(put(raftkv.IfExists()))
	refused(0)(put(raftkv.IfRevision(9)))
	refused(0)(remove(raftkv.IfExists()))
	done(put(raftkv.IfAbsent()))
	refused(last)(put(raftkv.IfAbsent()))
	refused(last)(put(raftkv.IfRevision(0)))
	refused(last)(put(raftkv.IfRevision(last + 1)))
	done(put(raftkv.IfRevision(last)))
	done(put(raftkv.IfExists()))
	done(put()) // no condition stays with the operation that is used again
	refused(last)(remove(raftkv.IfAbsent()))
	refused(last)(remove(raftkv.IfRevision(last - 1)))
	done(remove(raftkv.IfRevision(last)))
	done(remove())
	done(put(raftkv.IfRevision(0)))
	done(remove(raftkv.IfExists()))
}

func TestConditionsThatAreNone(t *testing.T) {
	cluster, client := open(t, 1, 1)
	var invalid *raftkv.InvalidError
	if _, err := client.Put(t.Context(), "k", nil, raftkv.IfExists(), raftkv.IfRevision(1)); !errors.As(err, &invalid) {
		t.Errorf("two conditions: %v", err)
	}
	if _, err := client.Delete(t.Context(), "k", raftkv.IfExists(), raftkv.IfRevision(1)); !errors.As(err, &invalid) {
		t.Errorf("two conditions: %v", err)
	}
	if _, err := client.Put(t.Context(), "k", nil, raftkv.Condition{}); !errors.As(err, &invalid) {
		t.Errorf("an empty condition: %v", err)
	}
	if n := cluster.Applied("k"); n != 0 {
		t.Errorf("applied %d times", n)
	}
}

// A conditional write whose answer is lost is retried, and is told what came of the first attempt: what it has written itself does not fail its
// condition, and a condition that failed stays failed, even if it would hold by now.
func TestLostAnswersOfConditions(t *testing.T) {
	cluster, client := open(t, 3, 1)
	ctx := within(t, time.Minute)
	cluster.SetHook(times(2, raftkvtest.Action{DropAfter: true}))
	first, err := client.Put(ctx, "k", nil, raftkv.IfAbsent())
	if err != nil || cluster.Applied("k") != 1 {
		t.Fatalf("%v, applied %d times", err, cluster.Applied("k"))
	}

	other, err := raftkv.Open(ctx, cluster.Endpoints())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var operations atomic.Int32
	cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
		switch operations.Add(1) {
		case 1: // of client
			return raftkvtest.Action{DropAfter: true}
		case 2: // the second attempt; the third operation is that of other
			if _, err := other.Put(ctx, "k", nil); err != nil {
				t.Error(err)
			}
		}
		return raftkvtest.Action{}
	})
	_, err = client.Put(ctx, "k", nil, raftkv.IfRevision(first.Revision+1))
	refusedAt(t, err, first.Revision)
	if n := cluster.Applied("k"); n != 2 {
		t.Errorf("applied %d times", n)
	}
}

// Counting by compare-and-set on a cluster that loses streams and answers: every success has counted once.
func TestCompareAndSetUnderFaults(t *testing.T) {
	cluster, client := open(t, 3, 1)
	ctx := within(t, time.Minute)
	if _, err := client.Put(ctx, "k", []byte("0")); err != nil {
		t.Fatal(err)
	}
	var count atomic.Uint64
	cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
		switch n := count.Add(1); {
		case n%23 == 0:
			return raftkvtest.Action{DropAfter: true}
		case n%19 == 0:
			return raftkvtest.Action{DropBefore: true}
		case n%17 == 0:
			return raftkvtest.Action{Refuse: raftkvtest.Unknown("a test")}
		}
		return raftkvtest.Action{}
	})
	const clients, rounds = 4, 25
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for n := 0; n < rounds; {
				item, err := client.Get(ctx, "k")
				if err != nil {
					t.Error(err)
					return
				}
				counted, _ := strconv.Atoi(string(item.Value))
				_, err = client.Put(ctx, "k", []byte(strconv.Itoa(counted+1)), raftkv.IfRevision(item.ModRevision))
				var failed *raftkv.PreconditionFailedError
				switch {
				case err == nil:
					n++
				case !errors.As(err, &failed) || failed.Current <= item.ModRevision:
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	cluster.SetHook(nil)
	if item, err := client.Get(ctx, "k"); err != nil || string(item.Value) != strconv.Itoa(clients*rounds) {
		t.Errorf("counted %s, %v", item.Value, err)
	}
}
