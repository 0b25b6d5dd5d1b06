package recipes_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
	"github.com/raftkv/raftkv/sdk/go/recipes"
)

// places are those of the queue of {a}lock, in order.
func places(t testing.TB, client *raftkv.Client) []raftkv.Item {
	t.Helper()
	var all []raftkv.Item
	for item, err := range client.Scan(within(t), raftkv.Prefix("{a}lock/waiting/"), raftkv.ScanOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, item)
	}
	slices.SortFunc(all, func(a, b raftkv.Item) int { return int(a.CreateRevision) - int(b.CreateRevision) })
	return all
}

// queued waits until n wait for {a}lock.
func queued(t testing.TB, client *raftkv.Client, n int) []raftkv.Item {
	t.Helper()
	for ctx := within(t); ; {
		if all := places(t, client); len(all) == n {
			return all
		}
		if ctx.Err() != nil {
			t.Fatalf("there are never %d who wait", n)
		}
	}
}

// watching waits until there are n watches.
func watching(t testing.TB, cluster *raftkvtest.Cluster, client *raftkv.Client, n int) {
	t.Helper()
	for ctx := within(t); cluster.Watches(0)+cluster.Watches(1)+cluster.Watches(2) != n; {
		if _, err := client.Get(ctx, "nothing"); !errors.Is(err, raftkv.ErrNotFound) {
			t.Fatal(err)
		}
	}
}

// nothingLeft checks that there is neither a key nor a lease.
func nothingLeft(t testing.TB, client *raftkv.Client) {
	t.Helper()
	for item, err := range client.Scan(within(t), raftkv.Range{}, raftkv.ScanOptions{KeysOnly: true}) {
		t.Errorf("key %s is left (%v)", item.Key, err)
	}
	for l, err := range client.ListLeases(within(t)) {
		t.Errorf("lease %v is left (%v)", l, err)
	}
}

// waiter is somebody who waits for {a}lock.
type waiter struct {
	client *raftkv.Client
	cancel context.CancelFunc
	place  raftkv.Item
	err    error
}

// line starts n who wait, one after the other, each with a client of its own. Each calls held with its number while it has the lock.
func line(t testing.TB, cluster *raftkvtest.Cluster, n int, held func(i int)) (all []*waiter, done *sync.WaitGroup) {
	t.Helper()
	done = new(sync.WaitGroup)
	for i := range n {
		ctx, cancel := context.WithCancel(within(t))
		t.Cleanup(cancel)
		w := &waiter{client: cluster.Client(t), cancel: cancel}
		done.Go(func() {
			w.err = recipes.WithLock(ctx, w.client, "{a}lock", func(context.Context, *recipes.Lock) error { held(i); return nil }, recipes.WithTTL(time.Hour))
		})
		w.place = queued(t, w.client, i+1)[i]
		all = append(all, w)
	}
	return all, done
}

// Those who wait have the lock in the order in which they came. Who gives up, dies or loses its place does not hold up the others; who still wants the lock then goes to the end.
func TestQueueOrder(t *testing.T) {
	cluster, client := open(t)
	l := acquire(t, client)
	var order []int
	all, done := line(t, cluster, 8, func(i int) { order = append(order, i) })
	all[2].cancel()
	all[1].client.Close()
	cluster.EndLease(uint64(all[1].place.Lease))
	cluster.EndLease(uint64(all[4].place.Lease))
	if _, err := client.Delete(within(t), all[6].place.Key); err != nil {
		t.Fatal(err)
	}
	queued(t, client, 4)
	if err := l.Release(within(t)); err != nil {
		t.Fatal(err)
	}
	done.Wait()
	if len(order) != 6 {
		t.Fatalf("order %v", order)
	}
	if slices.Sort(order[4:]); !slices.Equal(order, []int{0, 3, 5, 7, 4, 6}) {
		t.Errorf("order %v", order)
	}
	for i, w := range all {
		switch want := map[int]error{1: raftkv.ErrClosed, 2: context.Canceled}[i]; {
		case want == nil && w.err != nil, want != nil && !errors.Is(w.err, want):
			t.Errorf("%d: %v", i, w.err)
		}
	}
	nothingLeft(t, client)
}

// Of many who wait, a release wakes the one whose turn it is, which takes the lock, and the one behind it, which is the first then.
func TestReleaseWakesTwo(t *testing.T) {
	const waiters = 20
	cluster, client := open(t)
	l := acquire(t, client)
	holds, release := make(chan struct{}), make(chan struct{})
	all, done := line(t, cluster, waiters, func(int) { holds <- struct{}{}; <-release })
	watching(t, cluster, client, 1+waiters) // that of the holder on its key, and one of each who waits
	var tries, watches atomic.Int32
	cluster.SetHook(func(o raftkvtest.Operation) raftkvtest.Action {
		for _, c := range o.Request.GetTxn().GetCompare() {
			if c.GetKey() == "{a}lock" && !c.GetExists() && c.GetModRevision() == 0 {
				tries.Add(1)
			}
		}
		return raftkvtest.Action{}
	})
	cluster.SetCallHook(func(c raftkvtest.Call) raftkvtest.Action {
		if c.Method == "Watch" {
			watches.Add(1)
		}
		return raftkvtest.Action{}
	})
	if err := l.Release(within(t)); err != nil {
		t.Fatal(err)
	}
	for i := range waiters {
		<-holds
		// The new holder watches its key, and so does the first of those who wait; all others sleep.
		woken := int32(2)
		if i == waiters-1 {
			woken = 1
		}
		for ctx := within(t); watches.Load() < woken && ctx.Err() == nil; {
			_, _ = client.Get(ctx, "nothing")
		}
		watching(t, cluster, client, waiters-i)
		if n, m := tries.Swap(0), watches.Swap(0); n != woken || m != woken {
			t.Errorf("release %d: %d tried to take the lock and %d watches began, want %d", i, n, m, woken)
		}
		release <- struct{}{}
	}
	done.Wait()
	for i, w := range all {
		if w.err != nil {
			t.Errorf("%d: %v", i, w.err)
		}
	}
	nothingLeft(t, client)
}

// A place of which the answer is lost for good is found again, and not taken twice.
func TestPlaceOfUnknownOutcome(t *testing.T) {
	cluster, client := open(t)
	l := acquire(t, client)
	var mu sync.Mutex
	written := make(map[string]bool)
	cluster.SetHook(func(o raftkvtest.Operation) raftkvtest.Action {
		p := o.Request.GetPut()
		if !strings.HasPrefix(p.GetKey(), "{a}lock/waiting/") {
			return raftkvtest.Action{}
		}
		mu.Lock()
		defer mu.Unlock()
		written[p.GetRequestId().String()] = true
		return raftkvtest.Action{DropAfter: true}
	})
	hasty := cluster.Client(t, raftkv.WithTimeout(700*time.Millisecond))
	got := make(chan *recipes.Lock, 1)
	go func() {
		l, err := recipes.Acquire(t.Context(), hasty, "{a}lock", recipes.WithTTL(time.Hour)) // without a deadline, so its operations have that of the client
		if err != nil {
			t.Error(err)
		}
		got <- l
	}()
	place := queued(t, client, 1)[0]
	watching(t, cluster, client, 2)
	if n := len(places(t, client)); n != 1 {
		t.Fatalf("%d places", n)
	}
	if err := l.Release(within(t)); err != nil {
		t.Fatal(err)
	}
	next := <-got
	if next == nil {
		t.FailNow()
	}
	if n := len(places(t, client)); n != 0 {
		t.Errorf("%d places are left behind by who has the lock", n)
	}
	mu.Lock()
	if cluster.Applied(place.Key) != 2 || len(written) != 1 { // written once, removed once
		t.Errorf("applied %d times; %d writes", cluster.Applied(place.Key), len(written))
	}
	mu.Unlock()
	if err := next.Release(within(t)); err != nil {
		t.Error(err)
	}
	nothingLeft(t, client)
}

// Keys with and without a tag have a queue on their shard; those of which no other key has the shard for sure, and very long ones, do without.
func TestQueueOfAnyKey(t *testing.T) {
	long, longest := strings.Repeat("x", 4000), strings.Repeat("x", 4096)
	for key, queue := range map[string]string{
		"{a}lock":     "{a}lock/waiting/",
		"jobs/{a}/b}": "jobs/{a}/b}/waiting/",
		"job":         "{job}/waiting/untagged/",
		"a{b":         "{a{b}/waiting/untagged/",
		long:          "{" + long + "}/waiting/untagged/",
		longest:       "",
		"{}a":         "",
		"a}b":         "",
		"}{a":         "",
	} {
		t.Run(key[:min(len(key), 20)], func(t *testing.T) {
			cluster := raftkvtest.New(1, 64)
			t.Cleanup(cluster.Close)
			client := cluster.Client(t)
			l, err := recipes.Acquire(within(t), client, key)
			if err != nil {
				t.Fatal(err)
			}
			var wait sync.WaitGroup
			for range 2 {
				wait.Go(func() {
					err := recipes.WithLock(within(t), client, key, func(_ context.Context, next *recipes.Lock) error {
						if next.Token() <= l.Token() {
							t.Errorf("token %d behind %d", next.Token(), l.Token())
						}
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				})
			}
			for cluster.Watches(0) < 3 {
				if _, err := client.Get(within(t), "nothing"); !errors.Is(err, raftkv.ErrNotFound) {
					t.Fatal(err)
				}
			}
			n := 0
			for item, err := range client.Scan(within(t), raftkv.Range{}, raftkv.ScanOptions{KeysOnly: true}) {
				if err != nil {
					t.Fatal(err)
				}
				if item.Key == key {
					continue
				}
				if n++; queue == "" || !strings.HasPrefix(item.Key, queue) || cluster.ShardOf(item.Key) != cluster.ShardOf(key) {
					t.Errorf("key %q", item.Key)
				}
			}
			if queue != "" && n != 2 {
				t.Errorf("%d places", n)
			}
			if err := l.Release(within(t)); err != nil {
				t.Error(err)
			}
			wait.Wait()
			nothingLeft(t, client)
		})
	}
}

// The locks job and {job} have nothing to do with each other, nor have keys that look like places.
func TestQueuesAreApart(t *testing.T) {
	cluster, client := open(t)
	l := acquire(t, client)
	all, done := line(t, cluster, 1, func(int) {})
	if _, err := recipes.TryAcquire(within(t), client, "{a}lock"); !errors.Is(err, recipes.ErrHeld) {
		t.Error(err)
	}
	for _, key := range []string{"{a}lock/waiting/", "{a}lock/waiting/0", "{a}lock/waiting/000000000000000G", all[0].place.Key + "/waiting/0000000000000001", "{b}/waiting/untagged/x"} {
		if _, err := client.Put(within(t), key, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"b", "{b}", "a", "{a}"} { // none waits for another
		other, err := recipes.Acquire(within(t), client, key)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := other.Release(within(t)); err != nil {
				t.Error(err)
			}
		}()
	}
	if err := l.Release(within(t)); err != nil {
		t.Error(err)
	}
	if done.Wait(); all[0].err != nil {
		t.Error(all[0].err)
	}
}

// What stands on the shard of a lock is removed there by who gives up and who releases, because the end of the lease may take long to get there.
func TestQueueWithoutRevoke(t *testing.T) {
	cluster, client := open(t)
	cluster.SetCallHook(func(c raftkvtest.Call) raftkvtest.Action {
		if c.Method == "Revoke" {
			return raftkvtest.Action{Refuse: raftkvtest.TooLarge("revoke", 0, 1)}
		}
		return raftkvtest.Action{}
	})
	l := acquire(t, client)
	var place raftkv.Item
	all, done := line(t, cluster, 2, func(int) {
		// As if a late copy of the write of the place had come.
		if _, err := client.Put(within(t), place.Key, nil, raftkv.WithLease(place.Lease)); err != nil {
			t.Error(err)
		}
	})
	place = all[0].place
	all[1].cancel()
	queued(t, client, 1)
	if err := l.Release(within(t)); err != nil {
		t.Error(err)
	}
	done.Wait()
	if all[0].err != nil || !errors.Is(all[1].err, context.Canceled) {
		t.Error(all[0].err, all[1].err)
	}
	if n := len(places(t, client)); n != 0 {
		t.Errorf("%d places are left", n)
	}
}

// A place that is removed and written again is behind those who came meanwhile: nobody waits for one who waits for it.
func TestPlaceWrittenAgain(t *testing.T) {
	cluster, client := open(t)
	l := acquire(t, client)
	var order []int
	var again sync.Once
	first := make(chan raftkv.Item, 1)
	cluster.SetCallHook(func(c raftkvtest.Call) raftkvtest.Action {
		if all := places(t, client); c.Method == "Watch" && len(all) == 2 { // the second has seen the first, and is about to watch it
			again.Do(func() {
				if _, err := client.Delete(within(t), all[0].Key); err != nil {
					t.Error(err)
				}
				if _, err := client.Put(within(t), all[0].Key, nil, raftkv.WithLease(all[0].Lease)); err != nil {
					t.Error(err)
				}
				first <- all[0]
			})
		}
		return raftkvtest.Action{}
	})
	all, done := line(t, cluster, 1, func(i int) { order = append(order, i) })
	watching(t, cluster, client, 2) // that of the holder, and that of the first
	done.Go(func() {
		err := recipes.WithLock(within(t), client, "{a}lock", func(context.Context, *recipes.Lock) error { order = append(order, 1); return nil }, recipes.WithTTL(time.Hour))
		if err != nil {
			t.Error(err)
		}
	})
	if <-first; cluster.Applied(all[0].place.Key) != 3 {
		t.Fatalf("the place was written %d times", cluster.Applied(all[0].place.Key))
	}
	if err := l.Release(within(t)); err != nil {
		t.Error(err)
	}
	done.Wait()
	if len(order) != 2 || all[0].err != nil {
		t.Error(order, all[0].err)
	}
	nothingLeft(t, client)
}

// One whose lease ends while it waits has another place as soon as it knows, without being woken by those before.
func TestPlaceAfterTheLease(t *testing.T) {
	cluster, client := open(t)
	l := acquire(t, client)
	var done sync.WaitGroup
	done.Go(func() {
		if err := recipes.WithLock(within(t), client, "{a}lock", func(context.Context, *recipes.Lock) error { return nil }, recipes.WithTTL(time.Second)); err != nil {
			t.Error(err)
		}
	})
	place := queued(t, client, 1)[0]
	cluster.EndLease(uint64(place.Lease))
	if again := queued(t, client, 1)[0]; again.Key == place.Key {
		t.Errorf("place %s", again.Key)
	}
	if err := l.Release(within(t)); err != nil {
		t.Error(err)
	}
	done.Wait()
	nothingLeft(t, client)
}
