package raftkv_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

// ended waits for the end of a lease, and returns why.
func ended(t testing.TB, l *raftkv.Lease) error {
	t.Helper()
	select {
	case <-l.Done():
	case <-within(t, time.Minute).Done():
		t.Fatal("the lease does not end")
	}
	return l.Err()
}

// keepAlives returns a hook that tells of every keep-alive, which it lets do what action says.
func keepAlives(action func(raftkvtest.Call) raftkvtest.Action) (hook func(raftkvtest.Call) raftkvtest.Action, seen chan raftkvtest.Call) {
	seen = make(chan raftkvtest.Call, 1000)
	return func(c raftkvtest.Call) raftkvtest.Action {
		if c.Method != "KeepAlive" {
			return raftkvtest.Action{}
		}
		select {
		case seen <- c:
		default:
		}
		return action(c)
	}, seen
}

// A lease holds its keys, of any shards, until it is revoked; nothing can be put on it then.
func TestLease(t *testing.T) {
	cluster, client := open(t, 3, 3)
	ctx := within(t, time.Minute)
	l, err := client.Grant(ctx, time.Minute+time.Nanosecond)
	if err != nil {
		t.Fatal(err)
	}
	if l.TTL() != time.Minute+time.Millisecond || l.Remaining() > l.TTL()*99/100 || l.Err() != nil {
		t.Errorf("ttl %s, remaining %s, %v", l.TTL(), l.Remaining(), l.Err())
	}
	var keys []string
	for shard := 1; shard <= 3; shard++ {
		key := keyOn(t, cluster, shard)
		keys = append(keys, key)
		if _, err := client.Put(ctx, key, nil, raftkv.WithLease(l)); err != nil {
			t.Fatal(err)
		}
		if item, err := client.Get(ctx, key); err != nil || item.Lease != l.ID() || item.TTL != 0 {
			t.Errorf("%+v, %v", item, err)
		}
	}
	slices.Sort(keys)
	if info, err := client.GetLease(ctx, l.ID()); err != nil || info != (raftkv.LeaseInfo{ID: l.ID(), TTL: l.TTL(), Remaining: l.TTL()}) {
		t.Errorf("%+v, %v", info, err)
	}
	if got := collect(t, client.LeaseKeys(ctx, l.ID())); !slices.Equal(got, keys) {
		t.Errorf("keys %q, want %q", got, keys)
	}
	if err := l.Revoke(ctx); err != nil {
		t.Fatal(err)
	}
	if err := ended(t, l); !errors.Is(err, raftkv.ErrLeaseRevoked) {
		t.Error(err)
	}
	for _, key := range keys {
		if _, err := client.Get(ctx, key); !errors.Is(err, raftkv.ErrNotFound) {
			t.Errorf("get %s: %v", key, err)
		}
	}
	_, sent := cluster.Messages(0)
	_, err = client.Put(ctx, keys[0], nil, raftkv.WithLease(l))
	if _, now := cluster.Messages(0); !errors.Is(err, raftkv.ErrLeaseRevoked) || now != sent {
		t.Errorf("%v, %d operations sent", err, now-sent)
	}
	if err := l.Revoke(ctx); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if err := l.KeepAlive(ctx); !errors.Is(err, raftkv.ErrLeaseRevoked) {
		t.Error(err)
	}
	if _, err := client.GetLease(ctx, l.ID()); !errors.As(err, new(*raftkv.LeaseNotFoundError)) {
		t.Error(err)
	}
}

// collect ranges over a sequence.
func collect[V any](t testing.TB, sequence func(func(V, error) bool)) (all []V) {
	t.Helper()
	for v, err := range sequence {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	return all
}

// A grant and a revoke whose answers are lost are made once.
func TestLeaseAnswersLost(t *testing.T) {
	cluster, client := open(t, 3, 1)
	ctx := within(t, time.Minute)
	for range 3 {
		var dropped atomic.Bool
		cluster.SetCallHook(func(raftkvtest.Call) raftkvtest.Action {
			return raftkvtest.Action{DropAfter: !dropped.Swap(true)}
		})
		l, err := client.Grant(ctx, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if all := collect(t, client.ListLeases(ctx)); len(all) != 1 || all[0].ID != l.ID() {
			t.Fatalf("leases %v", all)
		}
		dropped.Store(false)
		if err := l.Revoke(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// A lease lives as long as one node answers, though another hangs and a third is gone.
func TestKeepAliveGoesElsewhere(t *testing.T) {
	cluster, client := open(t, 3, 1)
	ctx := within(t, time.Minute)
	never := make(chan struct{})
	hook, seen := keepAlives(func(c raftkvtest.Call) raftkvtest.Action {
		if c.Node == 0 {
			return raftkvtest.Action{Wait: never}
		}
		return raftkvtest.Action{}
	})
	cluster.SetCallHook(hook)
	l, err := client.Grant(ctx, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	cluster.StopNode(1)
	for served := 0; served < 8; {
		select {
		case c := <-seen:
			if c.Node == 2 {
				served++
			}
		case <-l.Done():
			t.Fatal(l.Err())
		case <-ctx.Done():
			t.Fatalf("%d keep-alives", served)
		}
	}
}

// A grant and a revoke that a node leaves unanswered go to another: their identity makes that safe.
func TestLeaseWritesGoElsewhere(t *testing.T) {
	cluster, client := open(t, 2, 1, raftkv.WithTimeout(3*time.Second))
	var first atomic.Int32 // the node that hangs
	var calls atomic.Int32
	hang := func() {
		first.Store(-1)
		calls.Store(0)
		cluster.SetCallHook(func(c raftkvtest.Call) raftkvtest.Action {
			calls.Add(1)
			if node := int32(c.Node); first.CompareAndSwap(-1, node) || first.Load() == node {
				return raftkvtest.Action{Wait: make(chan struct{})}
			}
			return raftkvtest.Action{}
		})
	}
	hang()
	l, err := client.Grant(t.Context(), time.Hour, raftkv.WithoutKeepAlive())
	if err != nil || calls.Load() < 2 {
		t.Fatalf("grant, after %d calls: %v", calls.Load(), err)
	}
	hang()
	if err := l.Revoke(t.Context()); err != nil || calls.Load() < 2 {
		t.Fatalf("revoke, after %d calls: %v", calls.Load(), err)
	}
	cluster.SetCallHook(nil)
	if all := collect(t, client.ListLeases(t.Context())); len(all) != 0 {
		t.Errorf("leases %v", all)
	}
}

// A grant whose first attempt takes more than the time to live, because its node hangs, still gives a lease that lives, another if the cluster has ended
// the one that was granted.
func TestLateGrantGivesALeaseThatLives(t *testing.T) {
	for name, ended := range map[string]bool{"kept": false, "ended meanwhile": true} {
		t.Run(name, func(t *testing.T) {
			cluster, client := open(t, 2, 1, raftkv.WithTimeout(6*time.Second))
			var grants, prolonged atomic.Int32
			cluster.SetCallHook(func(c raftkvtest.Call) raftkvtest.Action {
				switch {
				case c.Method == "Grant" && grants.Add(1) == 1:
					return raftkvtest.Action{Wait: make(chan struct{})}
				case c.Method == "KeepAlive" && prolonged.Add(1) == 1 && ended:
					cluster.Advance(time.Minute)
				}
				return raftkvtest.Action{}
			})
			l, err := client.Grant(t.Context(), time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Err(); err != nil {
				t.Errorf("the lease is lost: %v", err)
			}
			if _, err := client.GetLease(t.Context(), l.ID()); err != nil {
				t.Error(err)
			}
			if want := map[bool]int32{false: 2, true: 3}[ended]; grants.Load() != want {
				t.Errorf("%d grants, want %d", grants.Load(), want)
			}
		})
	}
}

// The holder learns that it cannot count on a lease when the cluster has ended it, when no node is there, when all refuse, and when it did nothing
// itself.
func TestLeaseLost(t *testing.T) {
	for name, c := range map[string]struct {
		ttl     time.Duration
		options []raftkv.GrantOption
		do      func(*raftkvtest.Cluster, *raftkv.Lease)
		want    string
	}{
		"ended":   {time.Second, nil, func(c *raftkvtest.Cluster, l *raftkv.Lease) { c.EndLease(uint64(l.ID())) }, "the cluster has ended it"},
		"expired": {time.Second, nil, func(c *raftkvtest.Cluster, _ *raftkv.Lease) { c.Advance(time.Minute) }, "the cluster has ended it"},
		"nobody":  {time.Second / 2, nil, func(c *raftkvtest.Cluster, _ *raftkv.Lease) { c.Close() }, "could not be kept alive in time: keep lease 1 alive: "},
		"refused": {time.Second / 2, nil, func(c *raftkvtest.Cluster, _ *raftkv.Lease) {
			hook, _ := keepAlives(func(raftkvtest.Call) raftkvtest.Action {
				return raftkvtest.Action{Refuse: raftkvtest.NoLeader(1, time.Millisecond)}
			})
			c.SetCallHook(hook)
		}, "shard 1 has no leader now"},
		"by hand": {time.Second / 10, []raftkv.GrantOption{raftkv.WithoutKeepAlive()}, func(*raftkvtest.Cluster, *raftkv.Lease) {}, "its time is over"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster, client := open(t, 3, 1)
			l, err := client.Grant(within(t, time.Minute), c.ttl, c.options...)
			if err != nil {
				t.Fatal(err)
			}
			c.do(cluster, l)
			err = ended(t, l)
			var lost *raftkv.LeaseLostError
			if !errors.Is(err, raftkv.ErrLeaseLost) || !errors.As(err, &lost) || lost.ID != l.ID() || !strings.Contains(err.Error(), c.want) {
				t.Error(err)
			}
			if _, err := client.Put(within(t, time.Minute), "k", nil, raftkv.WithLease(l)); !errors.Is(err, raftkv.ErrLeaseLost) || l.Remaining() != 0 {
				t.Error(err)
			}
			if len(c.options) > 0 && cluster.KeptAlive(uint64(l.ID())) != 0 {
				t.Error("it was kept alive")
			}
		})
	}
}

// A client that is closed leaves its leases to end by themselves, and another goes on with them.
func TestLeaseOutlivesItsClient(t *testing.T) {
	cluster, client := open(t, 3, 1)
	ctx := within(t, time.Minute)
	l, err := client.Grant(ctx, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	if err := ended(t, l); !errors.Is(err, raftkv.ErrClosed) {
		t.Error(err)
	}
	if _, err := client.Grant(ctx, time.Hour); !errors.Is(err, raftkv.ErrClosed) {
		t.Error(err)
	}
	other := cluster.Client(t)
	cluster.Advance(time.Hour / 2)
	again, err := other.ResumeLease(ctx, l.ID(), raftkv.WithoutKeepAlive())
	if err != nil || again.ID() != l.ID() || again.TTL() != time.Hour || cluster.KeptAlive(uint64(l.ID())) != 1 {
		t.Fatal(again, err)
	}
	cluster.Advance(time.Hour - 1)
	if err := again.KeepAlive(ctx); err != nil {
		t.Error(err)
	}
	cluster.Advance(time.Hour)
	if err := again.KeepAlive(ctx); !errors.As(err, new(*raftkv.LeaseNotFoundError)) || !errors.Is(again.Err(), raftkv.ErrLeaseLost) {
		t.Error(err, again.Err())
	}
	if _, err := other.ResumeLease(ctx, l.ID()); !errors.As(err, new(*raftkv.LeaseNotFoundError)) {
		t.Error(err)
	}
}

// Lists of leases and keys are read page by page.
func TestLeasePages(t *testing.T) {
	cluster, client := open(t, 1, 2)
	ctx := within(t, time.Minute)
	limits, err := client.Cluster().Limits(ctx)
	if err != nil {
		t.Fatal(err)
	}
	limits.PageItems = 3
	cluster.SetLimits(limits)
	var ids []raftkv.LeaseID
	var last *raftkv.Lease
	for range 7 {
		l, err := client.Grant(ctx, time.Hour, raftkv.WithoutKeepAlive())
		if err != nil {
			t.Fatal(err)
		}
		ids, last = append(ids, l.ID()), l
	}
	var keys []string
	for i := range 6 {
		keys = append(keys, fmt.Sprintf("key-%d", i))
		if _, err := client.Put(ctx, keys[i], nil, raftkv.WithLease(last.ID())); err != nil {
			t.Fatal(err)
		}
	}
	var got []raftkv.LeaseID
	for _, l := range collect(t, client.ListLeases(ctx)) {
		got = append(got, l.ID)
	}
	if !slices.Equal(got, ids) {
		t.Errorf("leases %v, want %v", got, ids)
	}
	if got := collect(t, client.LeaseKeys(ctx, last.ID())); !slices.Equal(got, keys) {
		t.Errorf("keys %q, want %q", got, keys)
	}
	if got := collect(t, client.LeaseKeys(ctx, ids[0])); len(got) != 0 {
		t.Errorf("keys %q", got)
	}
	for _, err := range client.ListLeases(ctx) {
		if err != nil {
			t.Error(err)
		}
		break // an iterator that is left is no fault
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	for _, err := range client.ListLeases(canceled) {
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

func TestLeasesThatCannotBe(t *testing.T) {
	_, client := open(t, 1, 1)
	ctx := within(t, time.Minute)
	for want, do := range map[string]func() error{
		"grant: invalid request: ttl must be more than 0":                  func() error { _, err := client.Grant(ctx, 0); return err },
		"grant: invalid request: ttl is 87601h0m0s, at most ten years":     func() error { _, err := client.Grant(ctx, 87601*time.Hour); return err },
		"get lease: invalid request: lease is 0":                           func() error { _, err := client.GetLease(ctx, 0); return err },
		"resume lease: invalid request: lease is 9223372036854775808: the": func() error { _, err := client.ResumeLease(ctx, 1<<63); return err },
	} {
		if err := do(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// A lease that has gone by an attempt whose answer was lost and then forgotten was not missing.
func TestRevokeLeaseWhoseAnswerIsForgotten(t *testing.T) {
	cluster, client := open(t, 1, 1)
	ctx := t.Context()
	lease, err := client.Grant(ctx, time.Hour, raftkv.WithoutKeepAlive())
	if err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int32
	cluster.SetCallHook(func(raftkvtest.Call) raftkvtest.Action {
		switch calls.Add(1) {
		case 1:
			return raftkvtest.Action{DropAfter: true}
		case 2:
			cluster.Forget(cluster.ShardOf("any"))
		}
		return raftkvtest.Action{}
	})
	if err := raftkv.RevokeLease(ctx, client, lease.ID()); err != nil || calls.Load() != 3 {
		t.Errorf("after %d calls: %v", calls.Load(), err)
	}
	// A new session is refused at first, too, but nothing of it was lost.
	var missing *raftkv.LeaseNotFoundError
	if err := raftkv.RevokeLease(ctx, client, lease.ID()); !errors.As(err, &missing) {
		t.Errorf("a lease that has ended: %v", err)
	}
}

// To end a lease of somebody else is not to prolong it.
func TestRevokeLease(t *testing.T) {
	cluster, client := open(t, 1, 1)
	ctx := t.Context()
	lease, err := client.Grant(ctx, time.Hour, raftkv.WithoutKeepAlive())
	if err != nil {
		t.Fatal(err)
	}
	var methods []string
	cluster.SetCallHook(func(c raftkvtest.Call) raftkvtest.Action {
		methods = append(methods, c.Method)
		return raftkvtest.Action{}
	})
	if err := raftkv.RevokeLease(ctx, client, lease.ID()); err != nil {
		t.Error(err)
	}
	var missing *raftkv.LeaseNotFoundError
	if err := raftkv.RevokeLease(ctx, client, lease.ID()); !errors.As(err, &missing) || missing.ID != lease.ID() {
		t.Errorf("a lease that has ended: %v", err)
	}
	var invalid *raftkv.InvalidError
	if err := raftkv.RevokeLease(ctx, client, 0); !errors.As(err, &invalid) {
		t.Errorf("no lease: %v", err)
	}
	cluster.SetCallHook(nil)
	if !slices.Equal(methods, []string{"Revoke", "Revoke"}) {
		t.Errorf("called %v", methods)
	}
}
