package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/nodetest"
)

const (
	// keyWindow is for how long nodes keep answers under idempotency keys. Clients send a write again under its key for keyPatience: a frozen node may hold what it
	// was sent for as long as a window of faults.
	keyWindow   = 30 * time.Second
	keyPatience = 12 * time.Second
	// keysGone is how soon all those answers must be gone when nothing is wrong and nobody writes under a key: their window, and what the clock of a shard loses
	// with a leader.
	keysGone = keyWindow + 12*time.Second
	// lateMax is how much later a write is sent that was said not to be applied.
	lateMax = 3 * time.Second
)

// naming is by what a write is known when it is sent again.
type naming int

const (
	unnamed naming = iota
	byID
	byKey
)

// drawNaming draws a naming: four of five writes have one.
func drawNaming(r *rand.Rand) naming {
	switch n := r.IntN(10); {
	case n < 2:
		return unnamed
	case n < 7:
		return byID
	default:
		return byKey
	}
}

// writing is a write on its way, and then one whose client knows what came of it.
type writing struct {
	op *nodetest.Operation
	// ask is the request. headed is the same one with its idempotency key in the header; nil if there is no key.
	ask, headed *call
	// id is that of a write by id, key that of a write by key.
	id  *raftkvv1.RequestId
	key string
	// twin has the answer to an attempt that was begun with the first one; nil if there is none.
	twin chan answer
	// fenced: it was said not to be applied. open: there is no answer to it that another could differ from.
	fenced, open bool
}

// answer is what comes back for an attempt.
type answer struct {
	r *result
	f *failure
}

// name makes the request of a write. No idempotency key is drawn twice.
func (c *client) name(d *draft, n naming) *writing {
	w := &writing{op: d.op}
	if n == byID {
		w.id = c.id(d.op.Shard)
	}
	w.ask = d.call(w.id)
	if n == byKey {
		c.sequence++
		c.load.keyed.Store(true)
		w.key, w.headed = fmt.Sprintf("client-%d-%d", c.number, c.sequence), d.call(nil)
		w.headed.header = w.key
		w.ask.setKey(w.key)
	}
	return w
}

// named says whether the write may be sent again.
func (w *writing) named() bool { return w.id != nil || w.key != "" }

// form is how a request is sent one way: over what has headers, its idempotency key stands there half of the time.
func (w *writing) form(r *rand.Rand, by way) *call {
	if w.headed != nil && by != byExec && r.IntN(2) == 0 {
		return w.headed
	}
	return w.ask
}

// attempt sends a write once.
func (c *client) attempt(w *writing, node int) (*result, *failure) {
	by := way(c.random.IntN(int(ways)))
	return c.sendBy(w.form(c.random, by), node, by)
}

// begin sometimes sends a named write through a node before the first attempt, and waits for no answer: two attempts are under way together then, or one and a
// question what came of it.
func (c *client) begin(w *writing) {
	if !w.named() || c.random.IntN(10) > 0 {
		return
	}
	node, by := c.random.IntN(nodes), way(c.random.IntN(int(ways)))
	ask := w.form(c.random, by)
	w.twin = make(chan answer, 1)
	w.op.Attempts++
	c.load.wait.Go(func() {
		r, f := c.sendBy(ask, node, by)
		w.twin <- answer{r, f}
	})
}

// more says whether a write in doubt is to be sent again.
func (w *writing) more(now time.Duration) bool {
	return w.named() && w.op.Attempts < attemptsMax && (w.key == "" || now-w.op.Call < keyPatience)
}

// verify sends a write again whose client knows what came of it, and looks at all other answers to it.
func (c *client) verify(ctx context.Context, w *writing) {
	if w.twin != nil {
		twin := <-w.twin
		c.compare(w, twin, func(t *tally) { t.twins++ })
	}
	if w.open || !w.named() {
		return
	}
	if c.random.IntN(10) == 0 {
		c.repeat(w)
	}
	if w.fenced && c.random.IntN(2) == 0 {
		c.later(ctx, lateMax, func(c *client) { c.repeat(w) })
	}
	if w.key == "" || c.random.IntN(4) > 0 {
		return
	}
	c.later(ctx, keyPatience/2, func(c *client) {
		if c.load.rec.now()-w.op.Call > keyPatience {
			return
		}
		if c.random.IntN(3) == 0 {
			c.reuse(w)
		} else {
			c.repeat(w)
		}
	})
}

// later does something within a time, while the client goes on.
func (c *client) later(ctx context.Context, within time.Duration, do func(*client)) {
	other := &client{load: c.load, number: c.number, random: rand.New(rand.NewPCG(c.random.Uint64(), 0))} //nolint:gosec // not secret
	c.load.wait.Go(func() {
		pause(ctx, time.Duration(other.random.Int64N(int64(within))))
		do(other)
	})
}

// repeat sends a write once more.
func (c *client) repeat(w *writing) {
	r, f := c.attempt(w, c.random.IntN(nodes))
	if f == nil && w.key != "" && !r.header().GetReplayed() {
		c.load.rec.violate("client %d: %s is answered again, and not said to be replayed", c.number, w.op)
	}
	c.compare(w, answer{r, f}, func(t *tally) { t.repeated++ })
}

// reuse sends another write under the idempotency key of one that has an answer there. It is never done.
func (c *client) reuse(w *writing) {
	rec := c.load.rec
	other := &nodetest.Operation{Client: c.number, Group: w.op.Group, Shard: w.op.Shard, Kind: nodetest.Write, Call: rec.now(), Attempts: 1}
	other.Changes = []nodetest.Change{{Key: c.random.IntN(nodetest.GroupKeys), Value: c.load.values.next(0)}}
	rec.refuse(other)
	ask := (&draft{op: other}).call(nil)
	ask.setKey(w.key)
	_, f := c.send(ask, c.random.IntN(nodes))
	switch {
	case f == nil || f.unmet != nil:
		rec.violate("client %d: another write is done under the idempotency key of %s", c.number, w.op)
	case f.reused:
		rec.tell(func(t *tally) { t.reused++ })
	}
}

// compare compares another answer to a write with what its client was told. Whoever gives an answer that is in order is counted.
func (c *client) compare(w *writing, a answer, count func(*tally)) {
	if w.open {
		return
	}
	switch err := w.differs(a); {
	case err != nil:
		c.load.rec.violate("client %d: %v", c.number, err)
	case w.fenced && (a.f.fenced || a.f.expired):
		c.load.rec.tell(func(t *tally) { t.late++ })
	case !w.fenced && (a.f == nil || a.f.unmet != nil):
		c.load.rec.tell(count)
	}
}

// differs says how an answer to a write differs from what its client was told. That one attempt was not executed, or that nobody knows, says nothing.
func (w *writing) differs(a answer) error {
	again := &nodetest.Operation{}
	*again = *w.op
	again.Outcome, again.Cells, again.Before, again.Origin, again.Revision, again.Current = nodetest.Unknown, nil, nil, 0, 0, 0
	var err error
	switch {
	case a.f == nil:
		err = a.r.take(again, w.ask)
		if again.Outcome == nodetest.Unknown {
			again.Outcome = nodetest.Done
		}
	case a.f.unmet != nil:
		err = takeUnmet(again, a.f.unmet)
		again.Outcome = nodetest.CompareFailed
	case a.f.reused:
		return fmt.Errorf("%s is taken for another write: %w", w.op, a.f.err)
	case !w.fenced && (a.f.fenced || a.f.expired):
		return fmt.Errorf("%s is said not to be applied: %w", w.op, a.f.err)
	default:
		return nil
	}
	switch {
	case err != nil:
		return err
	case w.fenced:
		return fmt.Errorf("%s was said not to be applied, and is answered: %s", w.op, again)
	case again.Outcome != w.op.Outcome || again.Current != w.op.Current || again.Outcome == nodetest.Done && again.Revision != w.op.Revision,
		again.Changed() && again.Revision != w.op.Revision, !slices.Equal(again.Cells, w.op.Cells):
		return fmt.Errorf("%s has two answers, %+v and %+v, the other at revision %d", w.op, w.op.Cells, again.Cells, again.Revision)
	}
	return nil
}

// keysPassed waits until the windows of all idempotency keys have passed: what they keep goes through the log, and the nodes are to stand still in the end.
func (l *load) keysPassed() {
	if l.keyed.Load() {
		pause(context.Background(), keysGone)
	}
}
