package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/nodetest"
	"github.com/raftkv/raftkv/raftnode/placement"
)

const (
	clientCount = 20
	// thinkMean is the mean time between two operations of a client.
	thinkMean = 8 * time.Millisecond
	// attemptTimeout is how long a client waits for a node; retryMean the mean time to the next attempt, of attemptsMax.
	attemptTimeout = 2 * time.Second
	retryMean      = 150 * time.Millisecond
	attemptsMax    = 40
)

// load is the clients of a cluster.
type load struct {
	seed      uint64
	endpoints [nodes]*endpoint
	keys      *keyspace
	values    *values
	rec       *recorder
	wait      sync.WaitGroup
	// keyed: some write stands under an idempotency key.
	keyed atomic.Bool
}

// start starts the clients. They end with ctx, once they know what has come of what they do.
func (l *load) start(ctx context.Context) {
	for i := range clientCount {
		c := l.client(i)
		l.wait.Go(func() {
			for ctx.Err() == nil {
				c.one(ctx)
				pause(ctx, time.Duration(c.random.ExpFloat64()*float64(thinkMean)))
			}
		})
	}
}

func (l *load) client(number int) *client {
	return &client{load: l, number: number, random: rand.New(rand.NewPCG(l.seed, uint64(number)+100))} //nolint:gosec // not secret
}

// client does one operation after another.
type client struct {
	load     *load
	number   int
	random   *rand.Rand
	sequence uint64
}

// one does an operation of chance.
func (c *client) one(ctx context.Context) {
	r, l := c.random, c.load
	op := &nodetest.Operation{Client: c.number}
	if r.IntN(100) < 45 {
		op.Group = l.keys.pick(r, r.IntN(8) == 0)
		ask := drawRead(r, op)
		drawStale(r, op, ask, l.rec.token(l.keys.shard(op.Group)))
		c.read(ctx, op, ask, r.IntN(nodes))
		return
	}
	op.Group = l.keys.pick(r, false)
	d := drawWrite(r, l.values, l.rec, op)
	c.write(ctx, d, drawNaming(r), func() int { return r.IntN(nodes) })
}

// read reads through a node, and says whether it was answered.
func (c *client) read(ctx context.Context, op *nodetest.Operation, ask *call, node int) bool {
	l := c.load
	op.Shard, op.Attempts = l.keys.shard(op.Group), 1
	op.Call = l.rec.now()
	r, f := c.send(ask, node)
	switch {
	case f == nil && r.txn.GetValuesOmitted(): // What it has read was forgotten before it was shown.
		l.rec.lose(op)
	case f == nil:
		c.took(op, errors.Join(r.take(op, ask), takeAge(op, r.shown(op.Shard)), l.rec.keep(op, r.header())))
	case f.missing != nil:
		c.took(op, errors.Join(takeMissing(op, f.missing), takeAge(op, f.missing)))
	default:
		if err := misread(op, f); err != nil {
			l.rec.violate("%s: %v", nodeID(node), err)
		}
		if f.tooStale {
			l.rec.stood()
		}
		l.rec.lose(op)
		pause(ctx, c.patience())
		return false
	}
	return true
}

// misread says whether an error of a read is one that a read cannot get. Whoever asks with a token that an answer has given asks for what a majority has.
func misread(op *nodetest.Operation, f *failure) error {
	if f.future || f.tooStale && op.Stale == nil {
		return fmt.Errorf("%s gets %w", op, f.err)
	}
	return nil
}

// write does a write through nodes that pick picks. With a name it is sent again until it is known what came of it, even beyond ctx, and then perhaps once more.
func (c *client) write(ctx context.Context, d *draft, n naming, pick func() int) bool {
	d.op.Shard = c.load.keys.shard(d.op.Group)
	w := c.name(d, n)
	d.op.Call = c.load.rec.now()
	c.begin(w)
	answered := c.until(ctx, w, pick)
	c.verify(ctx, w)
	return answered
}

// until sends a write until it is known what came of it, or nobody will know.
func (c *client) until(ctx context.Context, w *writing, pick func() int) bool {
	l, op := c.load, w.op
	// doubt: an earlier attempt may have been executed.
	for doubt := w.twin != nil; ; {
		if doubt && c.asks(w) {
			return c.ask(w)
		}
		op.Attempts++
		r, f := c.attempt(w, pick())
		switch {
		case f == nil:
			c.took(op, errors.Join(r.take(op, w.ask), l.rec.keep(op, r.header())))
			w.open = op.Outcome == nodetest.Unknown // Its answer was wrong.
			c.glimpsed(op, r, w.ask)
			return true
		case f.unmet != nil: // Also of an earlier attempt: a write with a name is judged once.
			c.stopped(op, takeUnmet(op, f.unmet))
			w.open = op.Outcome == nodetest.Unknown
			return true
		case f.fenced || f.expired || f.reused: // Nobody has asked, no client is forgotten, and no key is used twice.
			l.rec.violate("client %d, %s: %v", c.number, op, f.err)
			c.lose(w)
			return false
		case f.definite && !doubt:
			l.rec.refuse(op)
			w.open = true
			pause(ctx, c.patience())
			return false
		case !w.more(l.rec.now()):
			c.lose(w)
			return false
		}
		doubt = doubt || !f.definite
		pause(context.Background(), c.patience())
	}
}

// id makes the next request of a client, to a shard if that is known, one that may be sent again.
func (c *client) id(shard placement.ShardID) *raftkvv1.RequestId {
	c.sequence++
	id := make([]byte, 16)
	binary.BigEndian.PutUint64(id, uint64(c.number)+1) //nolint:gosec // not negative
	return &raftkvv1.RequestId{ClientId: id, Sequence: c.sequence, Seen: c.load.rec.seen(shard), AckedBelow: c.sequence}
}

func (c *client) send(ask *call, node int) (*result, *failure) {
	return c.sendBy(ask, node, way(c.random.IntN(int(ways))))
}

func (c *client) sendBy(ask *call, node int, by way) (*result, *failure) {
	ctx, cancel := context.WithTimeout(context.Background(), attemptTimeout)
	defer cancel()
	r, f := c.load.endpoints[node].do(ctx, ask, by)
	if f != nil && f.mislabelled != "" {
		c.load.rec.violate("%s: %s", nodeID(node), f.mislabelled)
	}
	return r, f
}

// took notes an operation that was answered. The answer to a transaction says which of its branches was done.
func (c *client) took(op *nodetest.Operation, err error) {
	outcome := nodetest.Done
	if op.Outcome == nodetest.CompareFailed {
		outcome = op.Outcome
	}
	c.answered(op, outcome, err)
}

// glimpsed notes what a write has read beside: reads of the moment in which it was done.
func (c *client) glimpsed(write *nodetest.Operation, r *result, ask *call) {
	if write.Outcome == nodetest.Unknown {
		return // Its answer was wrong.
	}
	for _, op := range r.glimpses(write, ask) {
		c.took(op.Operation, op.err)
	}
}

// stopped notes a write whose condition did not hold.
func (c *client) stopped(op *nodetest.Operation, err error) {
	c.answered(op, nodetest.CompareFailed, err)
}

func (c *client) answered(op *nodetest.Operation, outcome nodetest.Outcome, err error) {
	if err != nil {
		c.load.rec.violate("client %d, group %d: %v", c.number, op.Group, err)
		c.load.rec.lose(op)
		return
	}
	c.load.rec.finish(op, outcome)
}

func (c *client) patience() time.Duration {
	return time.Duration(c.random.ExpFloat64() * float64(retryMean))
}

// pause waits, but not beyond ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
