package raftkv_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

// A time to live goes with a put of every kind, is rounded up to milliseconds, and is shown by every read.
func TestTTL(t *testing.T) {
	cluster, client := open(t, 3, 1)
	ctx := within(t, time.Minute)
	if _, err := client.Put(ctx, "put", nil, raftkv.WithTTL(1500*time.Microsecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Batch(ctx, raftkv.PutOp("batch", nil, raftkv.WithTTL(time.Second)), raftkv.PutOp("ever", nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Txn(ctx, raftkv.Txn{
		If:   []raftkv.Compare{raftkv.Exists("nothing")},
		Then: []raftkv.Op{raftkv.PutOp("then", nil)},
		Else: []raftkv.Op{raftkv.PutOp("else", nil, raftkv.WithTTL(time.Minute))},
	}); err != nil {
		t.Fatal(err)
	}
	want := map[string]time.Duration{"put": 2 * time.Millisecond, "batch": time.Second, "else": time.Minute, "ever": 0}
	left := func() map[string]time.Duration {
		got := map[string]time.Duration{}
		for item, err := range client.Scan(ctx, raftkv.Range{}, raftkv.ScanOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			one, err := client.Get(ctx, item.Key)
			if err != nil || one.TTL != item.TTL {
				t.Errorf("get %s: %s, scan %s (%v)", item.Key, one.TTL, item.TTL, err)
			}
			got[item.Key] = item.TTL
		}
		return got
	}
	if got := left(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("left: %v, want %v", got, want)
	}
	cluster.Advance(time.Second)
	want = map[string]time.Duration{"else": 59 * time.Second, "ever": 0}
	if got := left(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("left after a second: %v, want %v", got, want)
	}
	if _, err := client.Put(ctx, "else", nil); err != nil { // for ever, from now on
		t.Fatal(err)
	}
	cluster.Advance(time.Hour)
	if got := left(); fmt.Sprint(got) != fmt.Sprint(map[string]time.Duration{"else": 0, "ever": 0}) {
		t.Errorf("left after an hour: %v", got)
	}
}

// A put on a lease is refused where there is no such lease, and nothing is retried.
func TestPutOnALeaseThatIsNot(t *testing.T) {
	cluster, client := open(t, 3, 1)
	ctx := within(t, time.Minute)
	for name, put := range map[string]func(raftkv.Life) error{
		"put":   func(l raftkv.Life) error { _, err := client.Put(ctx, "k", nil, l); return err },
		"batch": func(l raftkv.Life) error { _, err := client.Batch(ctx, raftkv.PutOp("k", nil, l)); return err },
		"txn": func(l raftkv.Life) error {
			_, err := client.Txn(ctx, raftkv.Txn{Then: []raftkv.Op{raftkv.PutOp("k", nil, l)}})
			return err
		},
	} {
		err := put(raftkv.WithLease(raftkv.LeaseID(77)))
		var missing *raftkv.LeaseNotFoundError
		var definite *raftkv.CallError
		if !errors.As(err, &missing) || missing.ID != 77 || !errors.As(err, &definite) || len(definite.Attempts) != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := cluster.Applied("k"); n != 0 {
		t.Errorf("%d writes were applied", n)
	}
}

// A put whose first attempt was lost, and whose lease has ended before the second, was not applied, and the error says so.
func TestPutOnALeaseThatEnds(t *testing.T) {
	cluster, client := open(t, 3, 1)
	l, err := client.Grant(within(t, time.Minute), time.Hour, raftkv.WithoutKeepAlive())
	if err != nil {
		t.Fatal(err)
	}
	var attempts atomic.Int32
	cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
		if attempts.Add(1) == 1 {
			return raftkvtest.Action{DropBefore: true}
		}
		cluster.EndLease(uint64(l.ID()))
		return raftkvtest.Action{}
	})
	_, err = client.Put(within(t, time.Minute), "k", nil, raftkv.WithLease(l))
	if !errors.As(err, new(*raftkv.LeaseNotFoundError)) || errors.As(err, new(*raftkv.OutcomeUnknownError)) || cluster.Applied("k") != 0 {
		t.Error(err)
	}
}

// What no server would take does not travel.
func TestLivesThatCannotBe(t *testing.T) {
	cluster, client := open(t, 1, 1)
	ctx := within(t, time.Minute)
	var none *raftkv.Lease
	for _, c := range []struct {
		lives []raftkv.Life
		want  string
	}{
		{[]raftkv.Life{raftkv.WithTTL(0)}, "ttl must be more than 0, it is 0s"},
		{[]raftkv.Life{raftkv.WithTTL(-time.Second)}, "ttl must be more than 0, it is -1s"},
		{[]raftkv.Life{raftkv.WithTTL(87600*time.Hour + 1)}, "at most ten years (87600h0m0s) are possible"},
		{[]raftkv.Life{raftkv.WithTTL(time.Second), raftkv.WithTTL(time.Second)}, "one of WithTTL and WithLease, once"},
		{[]raftkv.Life{raftkv.WithTTL(time.Second), raftkv.WithLease(raftkv.LeaseID(1))}, "one of WithTTL and WithLease, once"},
		{[]raftkv.Life{raftkv.WithLease(nil)}, "lease is nil"},
		{[]raftkv.Life{raftkv.WithLease(none)}, "lease is nil"},
		{[]raftkv.Life{raftkv.WithLease(raftkv.LeaseID(0))}, "lease is 0: the id of a lease is not 0"},
		{[]raftkv.Life{raftkv.WithLease(raftkv.LeaseID(1 << 63))}, "at most 9223372036854775807"},
	} {
		var options []raftkv.PutOption
		for _, l := range c.lives {
			options = append(options, l)
		}
		_, put := client.Put(ctx, "k", nil, options...)
		_, batch := client.Batch(ctx, raftkv.DeleteOp("a"), raftkv.PutOp("k", nil, c.lives...))
		_, txn := client.Txn(ctx, raftkv.Txn{Then: []raftkv.Op{raftkv.PutOp("k", nil, c.lives...)}})
		for at, err := range map[string]error{"invalid request:": put, "operations[1].": batch, "then[0].": txn} {
			var invalid *raftkv.InvalidError
			if !errors.As(err, &invalid) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), at) {
				t.Errorf("%q lacks %q or %q", err, at, c.want)
			}
		}
	}
	if _, err := client.Put(ctx, "k", nil, raftkv.WithTTL(87600*time.Hour)); err != nil {
		t.Error(err)
	}
	if _, operations := cluster.Messages(0); operations != 1 {
		t.Errorf("%d operations were sent", operations)
	}
}
