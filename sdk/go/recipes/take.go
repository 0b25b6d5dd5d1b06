package recipes

import (
	"context"
	"errors"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

// taking is an attempt to take a lock.
type taking struct {
	client *raftkv.Client
	key    string
	options
	// queue is where to wait in turn; empty if this does not.
	queue queue
	lease *raftkv.Lease
	// place is the key of the place that may stand on the lease; empty if none was asked for.
	place   string
	unknown int
}

// giveUp leaves the queue and ends the lease, so that nothing stands that was written without our knowledge.
func (t *taking) giveUp(ctx context.Context) {
	if t.lease == nil {
		return
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	if t.place != "" { // first: if it is of another shard than the lease, the end of the lease takes seconds to reach it
		_, _ = t.client.Delete(ctx, t.place)
	}
	_ = t.lease.Revoke(ctx) // it ends by itself, a little later
}

// take takes the lock, or waits for it if wait says so.
func (t *taking) take(ctx context.Context, wait bool) (*Lock, error) {
	for {
		l, err := t.step(ctx, wait)
		if l != nil {
			return l, nil
		}
		if err = t.bear(ctx, err); err != nil {
			return nil, err
		}
	}
}

// step takes the lock if it is free and nobody came before, and else takes a place, or waits until what is before has gone. Without a lock and an error there is to be another
// step.
func (t *taking) step(ctx context.Context, wait bool) (*Lock, error) {
	if err := t.grant(ctx); err != nil {
		return nil, err
	}
	var at turn
	if t.queue != "" {
		var err error
		if at, err = t.queue.turn(ctx, t.client, t.place); err != nil {
			return nil, err
		}
		switch {
		case at.before.Key != "" && at.queued:
			return nil, t.gone(ctx, &at.before)
		case at.before.Key != "":
			return nil, t.join(ctx)
		}
	}
	l, held, err := t.try(ctx)
	switch {
	case l != nil || err != nil:
		return l, err
	case !wait:
		return nil, &HeldError{Key: t.key, Token: held.CreateRevision, Value: held.Value}
	case t.queue != "" && !at.queued:
		return nil, t.join(ctx)
	}
	return nil, t.gone(ctx, held)
}

// bear returns nil if another step may do better after err: the outcome was unknown, and what might have come of it is settled, or the lease has ended meanwhile.
func (t *taking) bear(ctx context.Context, err error) error {
	ended := errors.Is(err, raftkv.ErrLeaseLost) || errors.As(err, new(*raftkv.LeaseNotFoundError))
	if !ended && !errors.As(err, new(*raftkv.OutcomeUnknownError)) || t.unknown == unknownMax || ctx.Err() != nil {
		return err
	}
	t.unknown++
	if ended {
		t.lease = nil
	}
	return nil
}

// grant sees to it that there is a lease. What hung on the one before goes with it.
func (t *taking) grant(ctx context.Context) error {
	if t.lease != nil && t.lease.Err() == nil {
		return nil
	}
	lease, err := t.client.Grant(ctx, t.ttl)
	if err != nil {
		return err
	}
	t.lease, t.place = lease, ""
	return nil
}

// join takes the place at the end of the queue. One that is there, by an attempt of which we did not know, stays where it is.
func (t *taking) join(ctx context.Context) error {
	t.place = t.queue.place(t.lease.ID())
	_, err := t.client.Put(ctx, t.place, t.value, raftkv.WithLease(t.lease))
	if err == nil {
		t.unknown = 0
	}
	return err
}

// try takes the lock if it is free, and leaves the queue with that. Without a lock and an error, it is held by somebody.
func (t *taking) try(ctx context.Context) (l *Lock, held *raftkv.Item, err error) {
	take := []raftkv.Op{raftkv.PutOp(t.key, t.value, raftkv.WithLease(t.lease))}
	if t.place != "" {
		take = append(take, raftkv.DeleteOp(t.place))
	}
	r, err := t.client.Txn(ctx, raftkv.Txn{
		If:   []raftkv.Compare{raftkv.Absent(t.key)},
		Then: take,
		Else: []raftkv.Op{raftkv.GetOp(t.key)},
	})
	if err != nil {
		return t.settle(ctx, err), nil, err
	}
	t.unknown = 0
	if r.Succeeded {
		return t.hold(r.Revision), nil, nil
	}
	return nil, r.Results[0].Item, nil
}

// settle finds out what came of a transaction of unknown outcome, and returns the lock if it has taken that. If it has not, no late copy of it does: its owner, who had not come
// to know that, would join the queue, and wait for those who wait for the lock.
func (t *taking) settle(ctx context.Context, err error) *Lock {
	if !errors.As(err, new(*raftkv.OutcomeUnknownError)) {
		return nil
	}
	o, failed := t.client.Resolve(ctx, err)
	switch {
	case failed == nil && o.Kind == raftkv.Applied:
		t.unknown = 0
		return t.hold(o.Revision)
	case failed != nil || o.Kind == raftkv.Forgotten: // What was written goes with the lease, or comes too late for it.
		t.giveUp(ctx)
		t.lease = nil
	}
	return nil
}

// gone waits until a key is no longer the one that was seen. The end of the lease is an error: the place is gone with it, and others pass.
func (t *taking) gone(ctx context.Context, seen *raftkv.Item) error {
	leased, cancel := t.lease.Context(ctx)
	defer cancel()
	there := false
	for event, err := range t.client.Watch(leased, raftkv.Key(seen.Key), raftkv.IncludeInitial()) {
		switch {
		case errors.As(err, new(*raftkv.CompactedError)):
			return nil // it may have been removed since: look
		case err != nil && leased.Err() != nil && ctx.Err() == nil:
			return t.lease.Err()
		case err != nil:
			return err
		}
		if event.Type == raftkv.EventInitialDone && there {
			continue
		}
		if there = event.Type == raftkv.EventPut && event.Item.CreateRevision == seen.CreateRevision; !there {
			return nil
		}
	}
	return nil
}

// hold begins to hold the lock, which the revision has taken.
func (t *taking) hold(revision uint64) *Lock {
	l := &Lock{client: t.client, key: t.key, token: revision, lease: t.lease, place: t.place, revision: revision, guarded: make(chan struct{})}
	l.life, l.end = context.WithCancelCause(context.Background())
	ofLease, cancel := t.lease.Context(context.Background())
	context.AfterFunc(ofLease, func() { l.end(l.lost(t.lease.Err())) })
	context.AfterFunc(l.life, cancel)
	go l.guard()
	return l
}
