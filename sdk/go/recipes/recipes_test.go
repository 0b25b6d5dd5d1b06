package recipes_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
	"github.com/raftkv/raftkv/sdk/go/recipes"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB) (*raftkvtest.Cluster, *raftkv.Client) {
	t.Helper()
	c := raftkvtest.New(3, 2)
	t.Cleanup(c.Close)
	return c, c.Client(t)
}

// within is a context for calls that must end by themselves before a minute.
func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func acquire(t testing.TB, client *raftkv.Client, opts ...recipes.Option) *recipes.Lock {
	t.Helper()
	l, err := recipes.Acquire(within(t), client, "{a}lock", opts...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// lost waits until a lock has ended, and returns why.
func lost(t testing.TB, l interface {
	Done() <-chan struct{}
	Err() error
},
) error {
	t.Helper()
	select {
	case <-l.Done():
	case <-within(t).Done():
		t.Fatal("the lock does not end")
	}
	return l.Err()
}

// Many take a lock in turn: one at a time, with tokens that grow.
func TestLockExcludes(t *testing.T) {
	_, client := open(t)
	var holders, took atomic.Int32
	var wait sync.WaitGroup
	var last uint64
	for range 8 {
		wait.Go(func() {
			for range 5 {
				err := recipes.WithLock(within(t), client, "{a}lock", func(ctx context.Context, l *recipes.Lock) error {
					if n := holders.Add(1); n != 1 {
						t.Errorf("%d hold the lock", n)
					}
					if l.Token() <= last {
						t.Errorf("token %d behind %d", l.Token(), last)
					}
					last = l.Token()
					took.Add(1)
					holders.Add(-1)
					return ctx.Err()
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if n := took.Load(); n != 40 {
		t.Errorf("taken %d times", n)
	}
	for l, err := range client.ListLeases(within(t)) {
		t.Errorf("lease %v is left (%v)", l, err)
	}
}

func TestTryAcquire(t *testing.T) {
	cluster, client := open(t)
	l := acquire(t, client, recipes.WithValue([]byte("me")), recipes.WithTTL(time.Minute))
	_, err := recipes.TryAcquire(within(t), cluster.Client(t), "{a}lock")
	var held *recipes.HeldError
	if !errors.Is(err, recipes.ErrHeld) || !errors.As(err, &held) || held.Token != l.Token() || string(held.Value) != "me" {
		t.Fatal(err)
	}
	if l.Err() != nil || l.Key() != "{a}lock" {
		t.Error(l.Key(), l.Err())
	}
	if err := l.Release(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := l.Release(within(t)); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if err := lost(t, l); !errors.Is(err, recipes.ErrReleased) {
		t.Error(err)
	}
	again, err := recipes.TryAcquire(within(t), client, "{a}lock")
	if err != nil || again.Token() <= l.Token() {
		t.Fatal(again, err)
	}
	if err := again.Release(within(t)); err != nil {
		t.Error(err)
	}
}

// Who waits is woken by the end of the holder: its release, its death, the removal of the key.
func TestWaitForALock(t *testing.T) {
	for name, free := range map[string]func(*raftkvtest.Cluster, *raftkv.Client, *recipes.Lock) error{
		"release": func(_ *raftkvtest.Cluster, _ *raftkv.Client, l *recipes.Lock) error {
			return l.Release(context.Background())
		},
		"death": func(c *raftkvtest.Cluster, holder *raftkv.Client, _ *recipes.Lock) error {
			holder.Close()
			c.Advance(time.Minute)
			return nil
		},
		"removal": func(_ *raftkvtest.Cluster, holder *raftkv.Client, _ *recipes.Lock) error {
			_, err := holder.Delete(context.Background(), "{a}lock")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			cluster, waiter := open(t)
			holder := cluster.Client(t)
			first := acquire(t, holder, recipes.WithTTL(time.Minute))
			got := make(chan *recipes.Lock, 1)
			go func() {
				l, err := recipes.Acquire(within(t), waiter, "{a}lock", recipes.WithTTL(time.Hour))
				if err != nil {
					t.Error(err)
				}
				got <- l
			}()
			for cluster.Watches(0)+cluster.Watches(1)+cluster.Watches(2) < 2 { // the guard of the holder, and who waits
				if _, err := waiter.Get(within(t), "nothing"); !errors.Is(err, raftkv.ErrNotFound) {
					t.Fatal(err)
				}
			}
			if err := free(cluster, holder, first); err != nil {
				t.Fatal(err)
			}
			l := <-got
			if l == nil {
				t.FailNow()
			}
			if l.Token() <= first.Token() {
				t.Errorf("token %d behind %d", l.Token(), first.Token())
			}
			if name != "release" && !errors.Is(lost(t, first), recipes.ErrLost) {
				t.Error(first.Err())
			}
			if err := l.Release(within(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

// The context of a lock that is lost ends with the reason; nothing can be written under it, and its release says so and does not touch the next holder's.
func TestLockLost(t *testing.T) {
	for name, take := range map[string]func(*raftkvtest.Cluster, *raftkv.Client, *recipes.Lock) error{
		"lease": func(c *raftkvtest.Cluster, _ *raftkv.Client, _ *recipes.Lock) error { c.Advance(time.Hour); return nil },
		"removed": func(_ *raftkvtest.Cluster, other *raftkv.Client, l *recipes.Lock) error {
			_, err := other.Delete(context.Background(), l.Key())
			return err
		},
		"overwritten": func(_ *raftkvtest.Cluster, other *raftkv.Client, l *recipes.Lock) error {
			_, err := other.Put(context.Background(), l.Key(), nil)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			cluster, client := open(t)
			other := cluster.Client(t)
			l := acquire(t, client, recipes.WithTTL(3*time.Second))
			ctx, cancel := l.Context(t.Context())
			defer cancel()
			if err := take(cluster, other, l); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Write(within(t), raftkv.PutOp("{a}data", nil)); !errors.Is(err, recipes.ErrLost) {
				t.Errorf("write: %v", err)
			}
			<-ctx.Done()
			var why *recipes.LostError
			if err := context.Cause(ctx); !errors.As(err, &why) || why.Token != l.Token() || why.Key != l.Key() {
				t.Error(err)
			}
			next, err := recipes.TryAcquire(within(t), other, l.Key())
			if name == "overwritten" {
				if !errors.Is(err, recipes.ErrHeld) {
					t.Error(err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			if err := l.Release(within(t)); !errors.Is(err, recipes.ErrLost) {
				t.Errorf("release: %v", err)
			}
			if err := l.SetValue(within(t), nil); !errors.Is(err, recipes.ErrLost) {
				t.Errorf("set: %v", err)
			}
			if next != nil {
				if err := next.Release(within(t)); err != nil {
					t.Errorf("release of the next: %v", err)
				}
			}
			if _, err := client.Get(within(t), "{a}data"); !errors.Is(err, raftkv.ErrNotFound) {
				t.Error("the write was applied")
			}
		})
	}
}

// What is written under a lock is written while it is held, also when the value of its key changes meanwhile.
func TestLockWrite(t *testing.T) {
	cluster, client := open(t)
	l := acquire(t, client)
	var wait sync.WaitGroup
	for i := range 20 {
		wait.Go(func() {
			if err := l.SetValue(within(t), fmt.Append(nil, i)); err != nil {
				t.Error(err)
			}
		})
		wait.Go(func() {
			if _, err := l.Write(within(t), raftkv.PutOp(fmt.Sprintf("{a}%d", i), nil)); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if r, err := client.Txn(within(t), raftkv.Txn{If: []raftkv.Compare{l.Held()}, Then: []raftkv.Op{raftkv.GetOp("{a}7")}}); err != nil || !r.Succeeded || r.Results[0].Item == nil {
		t.Error(r, err)
	}
	far := "x"
	for cluster.ShardOf(far) == cluster.ShardOf(l.Key()) {
		far += "x"
	}
	if _, err := l.Write(within(t), raftkv.PutOp(far, nil)); !errors.As(err, new(*raftkv.CrossShardError)) || l.Err() != nil {
		t.Error(err, l.Err())
	}
	if err := l.Release(within(t)); err != nil {
		t.Error(err)
	}
}

// A lock that is taken by an attempt whose answer is lost is held, and not waited for.
func TestLockAnswerLost(t *testing.T) {
	cluster, _ := open(t)
	client := cluster.Client(t, raftkv.WithTimeout(time.Second))
	var calls atomic.Int32
	cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action { return raftkvtest.Action{DropAfter: calls.Add(1) == 1} })
	l := acquire(t, client)
	if cluster.Applied("{a}lock") != 1 {
		t.Error("it was taken twice")
	}
	if err := l.Release(within(t)); err != nil {
		t.Error(err)
	}
}

// Who gives up waiting, or cannot get what it needs, leaves nothing behind.
func TestLockGivenUp(t *testing.T) {
	cluster, client := open(t)
	l := acquire(t, client)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := recipes.Acquire(ctx, cluster.Client(t), "{a}lock"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if _, err := recipes.Acquire(within(t), client, ""); !errors.As(err, new(*raftkv.InvalidError)) {
		t.Error(err)
	}
	if _, err := recipes.Acquire(within(t), client, "k", recipes.WithTTL(-1)); !errors.As(err, new(*raftkv.InvalidError)) {
		t.Error(err)
	}
	n := 0
	for _, err := range client.ListLeases(within(t)) {
		if n++; err != nil {
			t.Error(err)
		}
	}
	if n != 1 {
		t.Errorf("%d leases", n)
	}
	client.Close()
	if err := lost(t, l); !errors.Is(err, recipes.ErrLost) || !errors.Is(err, raftkv.ErrClosed) {
		t.Error(err)
	}
}

// A time to live that is over before the lock is taken ends in an error or in a lock that is lost, and not in a loop.
func TestLockOfNoTime(t *testing.T) {
	_, client := open(t)
	l, err := recipes.Acquire(within(t), client, "{a}lock", recipes.WithTTL(time.Millisecond))
	if err == nil {
		err = lost(t, l)
	}
	if !errors.Is(err, recipes.ErrLost) && !errors.Is(err, raftkv.ErrLeaseLost) {
		t.Error(err)
	}
}

// An election has one leader at a time, and everybody sees each of them and what it says.
func TestElection(t *testing.T) {
	cluster, client := open(t)
	ctx := within(t)
	e := recipes.NewElection(client, "{s}leader", recipes.WithTTL(time.Hour))
	if _, err := e.Leader(ctx); !errors.Is(err, recipes.ErrNoLeader) {
		t.Error(err)
	}
	started, observed := make(chan struct{}), make(chan []string)
	go func() {
		var all []string
		for leader, err := range e.Observe(ctx) {
			if err != nil {
				t.Error(err)
				break
			}
			if len(all) == 0 {
				close(started)
			}
			if all = append(all, string(leader.Value)); string(leader.Value) == "end" {
				break
			}
		}
		observed <- all
	}()
	<-started
	var token uint64
	for i := range 3 {
		l, err := e.Campaign(ctx, fmt.Append(nil, i))
		if err != nil {
			t.Fatal(err)
		}
		if l.Token() <= token {
			t.Errorf("token %d behind %d", l.Token(), token)
		}
		token = l.Token()
		if leader, err := e.Leader(ctx); err != nil || leader.Token != token || string(leader.Value) != fmt.Sprint(i) {
			t.Error(leader, err)
		}
		if err := l.Proclaim(ctx, fmt.Append(nil, i, "b")); err != nil {
			t.Error(err)
		}
		if _, err := l.Write(ctx, raftkv.PutOp("{s}data", nil)); err != nil {
			t.Error(err)
		}
		leading, cancel := l.Context(ctx)
		if i == 1 {
			cluster.Compact(1) // what observers have not seen is forgotten; they go on with what is there
			cluster.Compact(2)
		}
		if err := l.Resign(ctx); err != nil {
			t.Error(err)
		}
		if <-leading.Done(); !errors.Is(context.Cause(leading), recipes.ErrReleased) || l.Err() == nil {
			t.Error(context.Cause(leading))
		}
		cancel()
	}
	last := recipes.NewElection(cluster.Client(t), "{s}leader")
	l, err := last.Campaign(ctx, []byte("end"))
	if err != nil {
		t.Fatal(err)
	}
	// What was compacted before it was seen may be missing, and nothing else is different.
	all, want := <-observed, []string{"", "0", "0b", "", "1", "1b", "", "2", "2b", "", "end"}
	for _, seen := range all {
		i := slices.Index(want, seen)
		if i < 0 {
			t.Fatalf("observed %q", all)
		}
		want = want[i+1:]
	}
	if len(want) > 0 {
		t.Errorf("observed %q", all)
	}
	if err := l.Resign(ctx); err != nil {
		t.Error(err)
	}
}
