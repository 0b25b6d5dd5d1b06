package recipes_test

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
	"github.com/raftkv/raftkv/sdk/go/recipes"
)

// loseFirst executes the first transaction, and loses its answers for good.
func loseFirst(cluster *raftkvtest.Cluster) {
	var mu sync.Mutex
	lost := ""
	cluster.SetHook(func(o raftkvtest.Operation) raftkvtest.Action {
		id := o.Request.GetTxn().GetRequestId()
		if id == nil {
			return raftkvtest.Action{}
		}
		mu.Lock()
		defer mu.Unlock()
		lost = cmp.Or(lost, id.String())
		return raftkvtest.Action{DropAfter: id.String() == lost}
	})
}

// A lock of which the answer is lost for good is found to be held.
func TestLockOfUnknownOutcome(t *testing.T) {
	cluster, _ := open(t)
	loseFirst(cluster)
	l, err := recipes.Acquire(t.Context(), cluster.Client(t, raftkv.WithTimeout(700*time.Millisecond)), "{a}lock", recipes.WithTTL(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if cluster.Applied("{a}lock") != 1 {
		t.Error("it was taken twice")
	}
	cluster.SetHook(nil)
	if err := l.Release(within(t)); err != nil {
		t.Error(err)
	}
}

// contenders take the same lock, release it at once, and say so.
type contenders struct {
	t    *testing.T
	ctx  context.Context
	got  chan string
	done sync.WaitGroup
}

func newContenders(t *testing.T) *contenders {
	ctx, cancel := context.WithCancel(t.Context())
	c := &contenders{t: t, ctx: ctx, got: make(chan string, 2)}
	t.Cleanup(c.done.Wait)
	t.Cleanup(cancel)
	return c
}

func (c *contenders) join(name string, client *raftkv.Client) {
	c.done.Go(func() {
		l, err := recipes.Acquire(c.ctx, client, "{a}lock", recipes.WithTTL(time.Hour), recipes.WithValue([]byte(name)))
		if err != nil {
			c.t.Errorf("%s: %v", name, err)
			return
		}
		if err := l.Release(within(c.t)); err != nil {
			c.t.Errorf("%s: %v", name, err)
		}
		c.got <- name
	})
}

// all waits until two have had the lock.
func (c *contenders) all() {
	c.t.Helper()
	for range 2 {
		select {
		case <-c.got:
		case <-time.After(20 * time.Second):
			c.t.Fatal("nobody has had the lock for 20 s")
		}
	}
}

// It is found also while somebody waits, who comes behind the one that has it.
func TestLockOfUnknownOutcomeWhileSomebodyWaits(t *testing.T) {
	cluster, _ := open(t)
	loseFirst(cluster)
	c := newContenders(t)
	c.join("first", cluster.Client(t, raftkv.WithTimeout(700*time.Millisecond)))
	for ctx := within(t); cluster.Applied("{a}lock") == 0; {
		if ctx.Err() != nil {
			t.Fatal("the lock was not taken")
		}
		time.Sleep(time.Millisecond)
	}
	c.join("second", cluster.Client(t))
	c.all()
}

// A transaction of unknown outcome does not take the lock once its owner has gone on: it would hold it without knowing that, and wait behind those who wait for it.
func TestLateCopyTakesNoLock(t *testing.T) {
	cluster, client := open(t)
	holder := acquire(t, client)
	var mu sync.Mutex
	var first []byte // the transaction whose attempts are all lost on their way
	sequence, again := uint64(0), false
	tried, watching, watch := make(chan struct{}), make(chan struct{}), make(chan struct{})
	once, waits := sync.OnceFunc(func() { close(tried) }), sync.OnceFunc(func() { close(watching) })
	cluster.SetHook(func(o raftkvtest.Operation) raftkvtest.Action {
		x := o.Request.GetTxn()
		if x == nil || len(x.GetThen()) != 2 || string(x.GetThen()[0].GetPut().GetValue()) != "first" {
			return raftkvtest.Action{}
		}
		mu.Lock()
		defer mu.Unlock()
		if first == nil {
			var err error
			if first, err = protojson.Marshal(x); err != nil {
				t.Error(err)
			}
			sequence = x.GetRequestId().GetSequence()
		}
		if x.GetRequestId().GetSequence() == sequence {
			once()
			return raftkvtest.Action{DropBefore: true}
		}
		again = true
		return raftkvtest.Action{}
	})
	cluster.SetCallHook(func(call raftkvtest.Call) raftkvtest.Action {
		mu.Lock()
		defer mu.Unlock()
		if !again || call.Method != "Watch" {
			return raftkvtest.Action{}
		}
		waits()
		return raftkvtest.Action{Wait: watch}
	})
	c := newContenders(t)
	c.join("first", cluster.Client(t, raftkv.WithTimeout(700*time.Millisecond)))
	queued(t, client, 1)
	c.join("second", cluster.Client(t, raftkv.WithTimeout(20*time.Second)))
	queued(t, client, 2)
	if err := holder.Release(within(t)); err != nil {
		t.Fatal(err)
	}
	<-tried
	other, err := recipes.TryAcquire(within(t), client, "{a}lock")
	if err != nil {
		t.Fatal(err)
	}
	<-watching // first has found that somebody else holds it, and is to look when that ends
	if err := other.Release(within(t)); err != nil {
		t.Fatal(err)
	}
	cluster.SetHook(nil)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	res, err := http.Post("http://"+cluster.Endpoints()[0]+"/raftkv.v1.KvService/Txn", "application/json", bytes.NewReader(first))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	// It is fenced, or acknowledged by what its client has written since.
	if err != nil || !bytes.Contains(answer, []byte("REQUEST_FENCED")) && !bytes.Contains(answer, []byte("SESSION_EXPIRED")) {
		t.Errorf("a late copy may take the lock: %s %s, %v", res.Status, answer, err)
	}
	cluster.SetCallHook(nil)
	close(watch)
	c.all()
}
