package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/nodetest"
)

// heartLost is how soon a client asks that does not wait for its first answer, at most.
const heartLost = 20 * time.Millisecond

// asks says whether the client of a write in doubt asks what came of it, and sends it no more.
func (c *client) asks(w *writing) bool {
	return w.id != nil && (w.op.Attempts >= attemptsMax || c.random.IntN(10) < 3)
}

// ask asks what came of a write until it is told, and says whether that was an answer to the write.
func (c *client) ask(w *writing) bool {
	pause(context.Background(), time.Duration(c.random.Int64N(int64(heartLost))))
	w.op.Attempts++
	for range attemptsMax {
		o, f := c.outcome(w)
		if f == nil {
			return c.told(w, o)
		}
		pause(context.Background(), c.patience())
	}
	c.lose(w)
	return false
}

// outcome asks a node what came of a write.
func (c *client) outcome(w *writing) (*raftkvv1.GetOutcomeResponse, *failure) {
	ctx, cancel := context.WithTimeout(context.Background(), attemptTimeout)
	defer cancel()
	node := c.random.IntN(nodes)
	to := c.load.endpoints[node].connect
	if c.random.IntN(2) == 0 {
		to = c.load.endpoints[node].grpc
	}
	o, err := to.GetOutcome(ctx, &raftkvv1.GetOutcomeRequest{RequestId: w.id, Subject: &raftkvv1.GetOutcomeRequest_Key{Key: w.about()}})
	if err == nil {
		return o, nil
	}
	f := judge(err)
	if f.mislabelled != "" {
		c.load.rec.violate("%s: %s", nodeID(node), f.mislabelled)
	}
	return nil, f
}

// about is the key that leads to the shard of a write. All keys of a group do.
func (w *writing) about() string { return keyName(w.op.Group, 0) }

// told takes what a client was told came of its write, and says whether that was an answer to the write. Another question must be told the same.
func (c *client) told(w *writing, o *raftkvv1.GetOutcomeResponse) bool {
	rec, applied := c.load.rec, false
	switch o.GetOutcome() {
	case raftkvv1.Outcome_OUTCOME_APPLIED, raftkvv1.Outcome_OUTCOME_CONDITION_FAILED:
		applied = true
		c.took(w.op, takeOutcome(w.op, w.ask, o))
		w.open = w.op.Outcome == nodetest.Unknown
		rec.tell(func(t *tally) { t.found++ })
	case raftkvv1.Outcome_OUTCOME_NOT_APPLIED:
		w.fenced = true
		rec.refuse(w.op)
		rec.tell(func(t *tally) { t.fenced++ })
	default: // No client is forgotten here, and no write of a group names a lease.
		rec.violate("client %d is told %s of %s", c.number, o.GetOutcome(), w.op)
		c.lose(w)
		return false
	}
	if c.random.IntN(2) == 0 {
		if again, f := c.outcome(w); f == nil {
			if err := sameOutcome(o, again); err != nil {
				rec.violate("client %d, %s: %v", c.number, w.op, err)
			}
		}
	}
	return applied
}

// sameOutcome says whether two questions were told the same.
func sameOutcome(one, other *raftkvv1.GetOutcomeResponse) error {
	a, b := proto.CloneOf(one), proto.CloneOf(other)
	a.Header, b.Header = nil, nil
	if !proto.Equal(a, b) {
		return fmt.Errorf("the outcome is %v, and later %v", a, b)
	}
	return nil
}

// takeOutcome puts what came of a write into its operation, as an answer to the write would. What a transaction reads beside has results behind the others.
func takeOutcome(op *nodetest.Operation, ask *call, o *raftkvv1.GetOutcomeResponse) error {
	op.Outcome = nodetest.Done
	if o.GetOutcome() == raftkvv1.Outcome_OUTCOME_CONDITION_FAILED {
		if op.Condition == nil || o.GetFailed() == nil || o.GetFailed().GetIndex() != 0 {
			return errShape
		}
		op.Outcome, op.Current = nodetest.CompareFailed, o.GetFailed().GetCurrent()
	}
	done, _ := op.Branches()
	want := len(done)
	switch {
	case ask.txn != nil && op.Outcome == nodetest.CompareFailed:
		want = len(ask.txn.GetElse())
	case ask.txn != nil:
		want = len(ask.txn.GetThen())
	}
	if len(o.GetResults()) != want {
		return errShape
	}
	for i, one := range o.GetResults()[:len(done)] {
		cell := nodetest.Cell{Existed: one.GetExisted()}
		if !done[i].Delete {
			cell = written(done[i], one.GetVersion())
		}
		if cell.Existed != one.GetExisted() || cell.Version != one.GetVersion() {
			return errShape
		}
		op.Cells = append(op.Cells, cell)
	}
	if err := locate(op, o.GetHeader()); err != nil {
		return err
	}
	if op.Revision != o.GetRevision() {
		return fmt.Errorf("%w: an outcome at revision %d, of an answer at %d", errShape, o.GetRevision(), op.Revision)
	}
	return nil
}

// lose notes a write of which its client will never know what came.
func (c *client) lose(w *writing) {
	w.open = true
	c.load.rec.lose(w.op)
}
