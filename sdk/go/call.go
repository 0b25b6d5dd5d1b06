package raftkv

import (
	"cmp"
	"context"
	"errors"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

const (
	backoffMin = 5 * time.Millisecond
	backoffMax = 500 * time.Millisecond
	// retryAfterMax bounds how long a server can make a client wait.
	retryAfterMax = 5 * time.Second
	// redirectsMax is how often a call follows a hint at another leader at once; then it backs off, as nodes that
	// point at each other are in the middle of an election.
	redirectsMax = 3
	// answerTime is what an attempt leaves of its caller's time for the answer of the server: it knows whether a write was
	// applied, and the caller that gives up first does not. Of a short time it is a quarter.
	answerTime = 250 * time.Millisecond
)

// leaveForAnswer is answerTime for what may take d.
func leaveForAnswer(d time.Duration) time.Duration { return min(answerTime, max(d, 0)/4) }

// backoff is an exponential wait with jitter.
type backoff struct{ step time.Duration }

func (b *backoff) next() time.Duration {
	b.step = min(max(2*b.step, backoffMin), backoffMax)
	return jitter(b.step)
}

// pause waits for d; an error says that the caller's patience ended first.
func pause(ctx, stopped context.Context, expired <-chan time.Time, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return reason(ctx)
	case <-expired:
		return ErrTimeout
	case <-stopped.Done():
		return ErrClosed
	}
}

// reason is why ctx ended.
func reason(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, ErrTimeout) || errors.Is(cause, ErrClosed) {
		return cause
	}
	return ctx.Err()
}

// call is the story of one call over all its attempts.
type call struct {
	client    *Client
	name, key string
	write     bool
	op        *op // nil for calls outside the streams
	// lost: an attempt may have been applied, or may still be.
	lost      bool
	attempts  []Attempt
	omitted   int
	redirects int
	backoff   backoff
}

// failed learns from a failed attempt, and returns how long to wait before the next, or the error of the call.
func (c *call) failed(f *failure, asked *endpoint) (time.Duration, error) {
	if errors.Is(f.err, ErrNotFound) && !c.write {
		return 0, f.err
	}
	c.record(asked.address, f.err)
	c.lost = (c.lost || c.write && f.unknown) && !f.decided
	var notLeader *NotLeaderError
	var stale *StaleRouteError
	var server *ServerError
	redirected := false
	switch {
	case errors.As(f.err, &notLeader):
		redirected = c.client.routes.redirected(notLeader, asked)
		c.client.routes.learnSoon()
	case errors.As(f.err, &stale):
		c.client.routes.learnSoon()
	case errors.As(f.err, &server) && server.Reason == reasonReadFailed:
		asked.failed() // others have the same state
	}
	switch {
	case f.ended || !f.retry:
		return 0, c.end(f.err)
	case c.client.stopped.Err() != nil:
		return 0, c.end(ErrClosed)
	case redirected && c.redirects < redirectsMax:
		c.redirects++
		return 0, nil
	}
	return max(c.backoff.next(), jitter(min(f.after, retryAfterMax))), nil
}

func (c *call) record(address string, err error) {
	if len(c.attempts) == attemptsMax {
		c.attempts = append(c.attempts[:0], c.attempts[1:]...)
		c.omitted++
	}
	c.attempts = append(c.attempts, Attempt{Endpoint: address, Err: err})
}

// end makes the error of the call, which failed because of err.
func (c *call) end(err error) error {
	operation := c.name
	if c.key != "" {
		operation += " " + quote(c.key)
	}
	if c.lost {
		return &OutcomeUnknownError{Operation: operation, Err: err, Attempts: c.attempts, Omitted: c.omitted, Write: c.op.unresolved()}
	}
	return &CallError{Operation: operation, Err: err, Attempts: c.attempts, Omitted: c.omitted}
}

// do executes o at the leader of its shard, in as many attempts as it takes.
func (c *Client) do(ctx context.Context, o *op) (*raftkvv1.ExecResult, error) {
	timeout := c.options.timeout
	if deadline, ok := ctx.Deadline(); ok {
		o.deadline, timeout = deadline, time.Until(deadline)
	} else {
		o.deadline = time.Now().Add(timeout)
		o.timer.Reset(timeout)
	}
	if o.write {
		c.sessions.begin(o)
		defer c.sessions.end(o)
	}
	var story *call // made by the first failure
	for {
		s := c.routes.owner(o.slot)
		e := c.routes.pick(s)
		if s != nil && !o.lost {
			// Until an attempt may have been applied, every attempt is a first one.
			o.id.Seen = max(o.id.Seen, s.seen.Load())
		}
		f := e.lane(o.write).exec(ctx, o)
		if f == nil {
			c.routes.served(headerOf(o.result), s)
			return o.result, nil
		}
		if story == nil {
			story = &call{client: c, name: o.name, key: o.key, write: o.write, op: o}
		}
		var expired *SessionExpiredError
		if errors.As(f.err, &expired) && !o.lost {
			o.id.Seen, f.retry = max(o.id.Seen, expired.Revision), true
		}
		wait, err := story.failed(f, e)
		o.lost = o.lost || story.lost // a decision tells what came of all attempts, and not where they are
		if err != nil {
			return nil, err
		}
		// An attempt that could not be answered in time is not made: it would only make the outcome unknown.
		left := time.Until(o.deadline)
		if left <= 0 { // the attempt may have taken the tick of the timer
			return nil, story.end(cmp.Or(ctx.Err(), ErrTimeout))
		}
		if o.write && !o.lost && left-wait < leaveForAnswer(timeout) {
			wait = left + time.Second // which the caller's patience ends
		}
		if wait > 0 {
			if err := pause(ctx, c.stopped, o.timer.C, wait); err != nil {
				return nil, story.end(err)
			}
		}
	}
}

func headerOf(r *raftkvv1.ExecResult) *raftkvv1.ResponseHeader {
	switch r := r.Result.(type) {
	case *raftkvv1.ExecResult_Get:
		return r.Get.GetHeader()
	case *raftkvv1.ExecResult_Put:
		return r.Put.GetHeader()
	case *raftkvv1.ExecResult_Delete:
		return r.Delete.GetHeader()
	case *raftkvv1.ExecResult_Batch:
		return r.Batch.GetHeader()
	case *raftkvv1.ExecResult_Txn:
		return r.Txn.GetHeader()
	}
	return nil
}

// bounded is ctx with the timeout of the client, if it has no deadline of its own, and with the end of the client.
func (c *Client) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(c.stopped, func() { cancel(ErrClosed) })
	unbound := func() {}
	if _, ok := ctx.Deadline(); !ok {
		ctx, unbound = context.WithTimeoutCause(ctx, c.options.timeout, ErrTimeout)
	}
	return ctx, func() { unhook(); unbound(); cancel(nil) }
}

// unary makes a call outside the streams: at, or if that is nil any node, in as many attempts as it takes. write says
// that the call changes something.
func (c *Client) unary(ctx context.Context, name string, at *endpoint, write bool, rpc func(context.Context, *endpoint) error) error {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	story := call{client: c, name: name, write: write}
	for {
		e := at
		if e == nil {
			e = c.routes.any()
		}
		var reached atomic.Bool
		err := rpc(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			GotConn: func(httptrace.GotConnInfo) { reached.Store(true) },
		}), e)
		if err == nil {
			e.works()
			return nil
		}
		f := judgeCall(err, reached.Load())
		if ctx.Err() != nil {
			f = givenUp(reason(ctx), reached.Load())
		} else if f.retry && f.unknown || !reached.Load() {
			e.failed()
		}
		wait, err := story.failed(f, e)
		if err == nil && wait > 0 {
			if cause := pause(ctx, c.stopped, nil, wait); cause != nil {
				err = story.end(cause)
			}
		}
		if err != nil {
			return err
		}
	}
}
