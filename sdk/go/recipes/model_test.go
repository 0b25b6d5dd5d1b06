package recipes_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
	"github.com/raftkv/raftkv/sdk/go/recipes"
)

// lockModel is a lock and its queue as the history of their shard has them.
type lockModel struct {
	holder, last uint64 // tokens; no holder is 0
	queue        []raftkv.Item
	// taken counts locks that were taken from a place, overtaken those without while others waited.
	taken, overtaken int
}

// apply checks the events of one revision and makes them.
func (m *lockModel) apply(events []*raftkv.Event) error {
	var left *raftkv.Item // the place that this revision removes
	for _, e := range events {
		item := e.Item
		switch {
		case item.Key == "{a}lock" && e.Type == raftkv.EventDelete:
			m.holder = 0
		case item.Key == "{a}data" && item.Version > 0:
			if string(item.Value) != strconv.FormatUint(m.holder, 10) {
				return fmt.Errorf("written with token %s while %d holds the lock", item.Value, m.holder)
			}
		case !strings.HasPrefix(item.Key, "{a}lock/waiting/"):
		case e.Type == raftkv.EventDelete:
			for i, q := range m.queue {
				if q.Key == item.Key {
					if left = nil; i == 0 {
						left = &m.queue[0]
					}
					m.queue = append(append([]raftkv.Item(nil), m.queue[:i]...), m.queue[i+1:]...)
					break
				}
			}
			if left == nil && len(events) > 1 && events[0].Type == raftkv.EventPut {
				return errors.New("the lock was taken by somebody who was not the first")
			}
		case item.CreateRevision == e.Revision:
			for _, q := range m.queue {
				if string(q.Value) == string(item.Value) {
					return fmt.Errorf("%s has two places", item.Value)
				}
			}
			m.queue = append(m.queue, item)
		}
	}
	for _, e := range events {
		if e.Item.Key != "{a}lock" || e.Type != raftkv.EventPut {
			continue
		}
		if m.holder != 0 || e.Item.CreateRevision <= m.last {
			return fmt.Errorf("token %d, of a lock that %d holds, behind %d", e.Item.CreateRevision, m.holder, m.last)
		}
		m.holder, m.last = e.Item.CreateRevision, e.Item.CreateRevision
		switch {
		case left != nil && left.Lease != e.Item.Lease:
			return errors.New("the place of somebody else is gone")
		case left != nil:
			m.taken++
		case len(m.queue) > 0:
			m.overtaken++
		}
	}
	return nil
}

// history makes the model of all that has happened.
func history(t *testing.T, client *raftkv.Client) *lockModel {
	t.Helper()
	end, err := client.Put(within(t), "{a}end", nil)
	if err != nil {
		t.Fatal(err)
	}
	m := new(lockModel)
	var events []*raftkv.Event
	for e, err := range client.Watch(within(t), raftkv.Prefix("{a}"), raftkv.FromRevision(1)) {
		if err != nil {
			t.Fatal(err)
		}
		if len(events) > 0 && events[0].Revision != e.Revision {
			if err := m.apply(events); err != nil {
				t.Fatalf("revision %d: %v", events[0].Revision, err)
			}
			events = nil
		}
		if e.Revision == end.Revision {
			break
		}
		events = append(events, e)
	}
	return m
}

// contender takes {a}lock again and again, and does now and then what it should not.
type contender struct {
	cluster *raftkvtest.Cluster
	client  *raftkv.Client
	random  *rand.Rand
	name    []byte
}

// round is one attempt. An error is one that should not be.
func (c *contender) round(ctx context.Context, first bool) error {
	acquire, options := recipes.Acquire, []recipes.Option{recipes.WithValue(c.name), recipes.WithTTL(time.Hour)}
	kind := c.random.IntN(8)
	if first {
		kind = 0
	}
	switch kind {
	case 1, 2: // gives up soon
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(c.random.IntN(20_000))*time.Microsecond)
		defer cancel()
	case 3:
		acquire = recipes.TryAcquire
	case 4: // somebody who waits, or has just got the lock, is gone
		for item, err := range c.client.Scan(ctx, raftkv.Prefix("{a}lock/waiting/"), raftkv.ScanOptions{}) {
			if err != nil {
				return err
			}
			if c.random.IntN(3) == 0 {
				c.cluster.EndLease(uint64(item.Lease))
				break
			}
		}
	}
	l, err := acquire(ctx, c.client, "{a}lock", options...)
	switch {
	case errors.Is(err, recipes.ErrHeld) && kind == 3, errors.Is(err, context.DeadlineExceeded) && (kind == 1 || kind == 2):
		return nil
	case err != nil:
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if _, err := l.Write(ctx, raftkv.PutOp("{a}data", strconv.AppendUint(nil, l.Token(), 10))); err != nil && !errors.Is(err, recipes.ErrLost) {
		return err
	}
	if kind == 5 { // loses it
		if item, err := c.client.Get(ctx, "{a}lock"); err == nil && item.CreateRevision == l.Token() {
			c.cluster.EndLease(uint64(item.Lease))
		}
	}
	if err := l.Release(ctx); err != nil && !errors.Is(err, recipes.ErrLost) {
		return err
	}
	return nil
}

// Many contend for a lock, give up, die, lose their leases, and get no answers: what the cluster has seen of that is one holder at a time, tokens that grow, nobody with two
// places, and the lock taken from the first place only. No key is left.
func TestQueueModel(t *testing.T) {
	const contenders, rounds = 10, 12
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			cluster, client := open(t)
			l := acquire(t, client)
			var done sync.WaitGroup
			for i := range contenders {
				c := &contender{cluster, cluster.Client(t), rand.New(rand.NewPCG(seed, uint64(i))), fmt.Append(nil, "contender ", i)}
				done.Go(func() {
					for round := range rounds {
						if err := c.round(within(t), round == 0); err != nil {
							t.Errorf("%s: %v", c.name, err)
						}
					}
				})
			}
			queued(t, client, contenders)
			var operations atomic.Int32
			cluster.SetHook(func(raftkvtest.Operation) raftkvtest.Action {
				n := operations.Add(1)
				return raftkvtest.Action{DropAfter: n%50 == 0, DropBefore: n%50 == 25}
			})
			if err := l.Release(within(t)); err != nil {
				t.Error(err)
			}
			done.Wait()
			cluster.SetHook(nil)
			m := history(t, client)
			if m.holder != 0 || len(m.queue) > 0 || m.taken < contenders {
				t.Errorf("%d holds the lock, %d wait, %d took it from a place", m.holder, len(m.queue), m.taken)
			}
			t.Logf("%d took the lock from a place, %d overtook", m.taken, m.overtaken)
			for _, key := range []string{"{a}data", "{a}end"} {
				if _, err := client.Delete(within(t), key); err != nil {
					t.Error(err)
				}
			}
			for item, err := range client.Scan(within(t), raftkv.Range{}, raftkv.ScanOptions{KeysOnly: true}) {
				t.Errorf("key %s is left (%v)", item.Key, err) // leases may be, of grants that were given up
			}
		})
	}
}
