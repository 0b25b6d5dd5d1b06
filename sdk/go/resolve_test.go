package raftkv_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

// lose makes a write whose outcome the client does not learn: a node holds its only attempt up for as long as the client waits. It returns what lets the attempt
// go, and the error of the write.
func lose(t *testing.T, cluster *raftkvtest.Cluster, write func(context.Context) error) (late func(), err error) {
	t.Helper()
	held, going, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
		close(going)
		cluster.SetHook(nil)
		return raftkvtest.Action{Wait: held}
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- write(ctx) }()
	<-going
	cancel()
	err = <-done
	var unknown *raftkv.OutcomeUnknownError
	if !errors.As(err, &unknown) || unknown.Write == nil || unknown.Write.Key != "k" || len(unknown.Write.ClientID) != 16 || unknown.Write.Sequence == 0 {
		t.Fatalf("%v is no unknown outcome of a write", err)
	}
	return func() { close(held) }, err
}

func putIn(client *raftkv.Client, options ...raftkv.PutOption) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := client.Put(ctx, "k", []byte("lost"), options...)
		return err
	}
}

// A write that is said not to be applied is not, though its attempt comes later.
func TestResolveNotApplied(t *testing.T) {
	cluster, client := open(t, 3, 1)
	ctx := within(t, time.Minute)
	late, lost := lose(t, cluster, putIn(client))
	for range 2 {
		if o, err := client.Resolve(ctx, lost); err != nil || o.Kind != raftkv.NotApplied || o.Shard != 1 {
			t.Fatalf("%+v, %v", o, err)
		}
	}
	late()
	if _, err := client.Put(ctx, "k", []byte("again")); err != nil {
		t.Fatal(err)
	}
	if n := cluster.Applied("k"); n != 1 {
		t.Errorf("applied %d times", n)
	}
}

// What was applied is found, also behind later writes, which do not acknowledge it. Once it is resolved they do.
func TestResolveApplied(t *testing.T) {
	cluster, client := open(t, 1, 1)
	ctx := within(t, time.Minute)
	late, lost := lose(t, cluster, putIn(client))
	late()
	other := func(n int) {
		t.Helper()
		for range n {
			if _, err := client.Put(ctx, "other", nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	for cluster.Applied("k") == 0 { // The attempt goes its way at the node.
		other(1)
	}
	other(20)
	if kept := cluster.Kept(1); kept < 20 {
		t.Errorf("%d results are kept: the lost one is acknowledged", kept)
	}
	item, err := client.Get(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	if o, err := client.Resolve(ctx, lost); err != nil || o.Kind != raftkv.Applied || o.Revision != item.ModRevision {
		t.Errorf("%+v, %v; the item is %+v", o, err, item)
	}
	other(2)
	if kept := cluster.Kept(1); kept > 2 {
		t.Errorf("%d results are kept when all is resolved", kept)
	}
}

// loseAnswer makes a write that is executed and whose answers are lost.
func loseAnswer(t *testing.T, cluster *raftkvtest.Cluster, write func(context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	drop := raftkvtest.Action{DropAfter: true}
	cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action { cancel(); return drop })
	cluster.SetCallHook(func(raftkvtest.Call) raftkvtest.Action { cancel(); return drop })
	err := write(ctx)
	cluster.SetHook(nil)
	cluster.SetCallHook(nil)
	var unknown *raftkv.OutcomeUnknownError
	if !errors.As(err, &unknown) {
		t.Fatalf("%v is no unknown outcome", err)
	}
	if strings.Contains(err.Error(), "ask with Resolve") != (unknown.Write != nil) {
		t.Errorf("%v, and it can be asked for: %t", err, unknown.Write != nil)
	}
	return err
}

func TestResolveConditionFailed(t *testing.T) {
	cluster, client := open(t, 1, 1)
	ctx := within(t, time.Minute)
	first, err := client.Put(ctx, "k", nil)
	if err != nil {
		t.Fatal(err)
	}
	lost := loseAnswer(t, cluster, putIn(client, raftkv.IfAbsent()))
	if o, err := client.Resolve(ctx, lost); err != nil || o.Kind != raftkv.ConditionFailed || o.Current != first.Revision {
		t.Errorf("%+v, %v; the key is at %d", o, err, first.Revision)
	}
}

func TestResolveOfSomethingElse(t *testing.T) {
	cluster, client := open(t, 1, 1)
	grant := loseAnswer(t, cluster, func(ctx context.Context) error {
		_, err := client.Grant(ctx, time.Minute)
		return err
	})
	for _, err := range []error{nil, errors.New("another"), &raftkv.OutcomeUnknownError{Err: errors.New("of a transfer")}, grant} {
		var invalid *raftkv.InvalidError
		if _, got := client.Resolve(within(t, time.Minute), err); !errors.As(got, &invalid) {
			t.Errorf("%v: %v", err, got)
		}
	}
}

func TestResolveForgotten(t *testing.T) {
	cluster, client := open(t, 1, 1)
	ctx := within(t, time.Minute)
	late, lost := lose(t, cluster, putIn(client))
	defer late()
	cluster.Forget(1)
	if o, err := client.Resolve(ctx, lost); err != nil || o.Kind != raftkv.Forgotten {
		t.Errorf("%+v, %v", o, err)
	}
}

// Who is answered that his write was fenced knows that it is not applied, whatever became of the attempts before.
func TestFencedWriteIsDefinite(t *testing.T) {
	cluster, client := open(t, 1, 1)
	var attempts atomic.Int32
	cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
		if attempts.Add(1) == 1 {
			return raftkvtest.Action{Refuse: raftkvtest.Unknown("a test")}
		}
		return raftkvtest.Action{Refuse: raftkvtest.Fenced(1)}
	})
	_, err := client.Put(within(t, time.Minute), "k", nil)
	var is *raftkv.FencedError
	var unknown *raftkv.OutcomeUnknownError
	if !errors.As(err, &is) || errors.As(err, &unknown) {
		t.Error(err)
	}
}

func TestOutcomesHaveNames(t *testing.T) {
	for kind, want := range map[raftkv.OutcomeKind]string{
		raftkv.Applied: "applied", raftkv.ConditionFailed: "condition failed", raftkv.NotApplied: "not applied", raftkv.Forgotten: "forgotten", 9: "outcome 9",
	} {
		if got := kind.String(); got != want {
			t.Errorf("%d is %q", kind, got)
		}
	}
}
