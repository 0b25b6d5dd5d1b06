package raftkv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
	// tooStale counts the replicas that were not new enough.
	tooStale int
	backoff  backoff
	// charged: another attempt takes from the retry budget. starved: the budget was empty.
	charged, starved bool
	observation      *observation
}

// failed learns from a failed attempt, and returns how long to wait before the next, or the error of the call.
func (c *call) failed(f *failure, asked *endpoint) (time.Duration, error) {
	c.observation.attempt(asked, f)
	if errors.Is(f.err, ErrNotFound) && !c.write {
		asked.health.works()
		return 0, f.err
	}
	c.record(asked.address, f.err)
	c.lost = (c.lost || c.write && f.unknown) && !f.decided
	routed, redirected := c.learn(f, asked)
	c.charged = !f.free && !routed
	switch {
	case f.ended || !f.retry:
		return 0, c.end(f.err)
	case c.client.stopped.Err() != nil:
		return 0, c.end(ErrClosed)
	case redirected && c.redirects < redirectsMax:
		c.redirects++
		return 0, nil
	}
	wait := c.backoff.next()
	if f.after > 0 && !c.elsewhere(f) {
		wait = max(wait, later(min(f.after, retryAfterMax)))
	}
	return wait, nil
}

// elsewhere says whether what the node asks to wait for before it is asked again does not hold for the call, because another replica is asked next: that one is not new
// enough for a stale read says nothing of the others.
func (c *call) elsewhere(f *failure) bool {
	var tooStale *TooStaleError
	if !errors.As(f.err, &tooStale) {
		return false
	}
	c.tooStale++
	return c.tooStale%max(1, c.client.routes.replicas(tooStale.Shard)) != 0
}

// learn takes from a failure what it says about routes and about the endpoint. routed says that the shard is to be found elsewhere, or has no leader,
// which cost nothing to find out; redirected that another node to ask is known.
func (c *call) learn(f *failure, asked *endpoint) (routed, redirected bool) {
	var (
		notLeader *NotLeaderError
		stale     *StaleRouteError
		full      *DiskFullError
		server    *ServerError
	)
	switch {
	case f.slow, errors.As(f.err, &full):
		asked.failed(false)
	case errors.As(f.err, &server):
		switch server.Reason {
		case reasonReadFailed, reasonStopping, reasonForming:
			asked.failed(true)
		}
	case f.unknown, f.free, f.ended, errors.Is(f.err, ErrRefused): // no answer of a node
	default:
		asked.health.works()
	}
	switch {
	case errors.As(f.err, &notLeader):
		redirected = c.client.routes.redirected(notLeader, asked)
		c.client.routes.learnSoon()
		return true, redirected
	case errors.As(f.err, &stale):
		c.client.routes.learnSoon()
		return true, false
	}
	return false, false
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
	if c.starved {
		err = &RetryBudgetError{Err: err}
	}
	if c.lost {
		return &OutcomeUnknownError{Operation: operation, Err: err, Attempts: c.attempts, Omitted: c.omitted, Write: c.op.unresolved()}
	}
	return &CallError{Operation: operation, Err: err, Attempts: c.attempts, Omitted: c.omitted}
}

// do executes o at the leader of its shard, in as many attempts as it takes.
func (c *Client) do(ctx context.Context, o *op) (*raftkvv1.ExecResult, error) {
	if c.telemetry == nil {
		return c.execute(ctx, o)
	}
	ctx = o.observe(ctx, c.telemetry)
	r, err := c.execute(ctx, o)
	o.observation.end(err)
	return r, err
}

// observe begins the observation of the call of o.
func (o *op) observe(ctx context.Context, t *telemetry) context.Context {
	ctx, o.observation = t.observe(ctx, o.name)
	o.wire.Traceparent = o.observation.traceparent()
	return ctx
}

func (c *Client) execute(ctx context.Context, o *op) (*raftkvv1.ExecResult, error) {
	c.prepare(ctx, o)
	if o.write {
		c.sessions.begin(o)
		defer c.sessions.end(o)
	}
	s, e := c.route(o, nil)
	f := e.lane(o.write).exec(ctx, o)
	if f == nil {
		c.answered(o, s, e)
		return o.result, nil
	}
	return c.retry(ctx, o, e, f)
}

// prepare bounds the call of o and its first attempt.
func (c *Client) prepare(ctx context.Context, o *op) {
	now := time.Now()
	if o.until, o.bounded = ctx.Deadline(); !o.bounded {
		o.until = now.Add(c.options.timeout)
	}
	o.patience = o.until.Sub(now)
	o.begin(now)
	c.budget.called()
}

// route says where the next attempt of o goes. not, if there is another, is passed over.
func (c *Client) route(o *op, not *endpoint) (*shard, *endpoint) {
	s := c.routes.owner(o.slot)
	if s != nil && !o.lost {
		// Until an attempt may have been applied, every attempt is a first one.
		o.id.Seen = max(o.id.Seen, s.seen.Load())
	}
	if o.spread {
		return s, c.routes.replica(s, not)
	}
	return s, c.routes.pick(s, not)
}

// answered learns from an answer.
func (c *Client) answered(o *op, s *shard, e *endpoint) {
	o.observation.attempt(e, nil)
	e.health.works()
	c.routes.served(headerOf(o.result), s)
}

// retry goes on with a call of which the first attempt, at e, failed.
func (c *Client) retry(ctx context.Context, first *op, e *endpoint, f *failure) (*raftkvv1.ExecResult, error) {
	story := &call{client: c, name: first.name, key: first.key, write: first.write, op: first, observation: first.observation}
	o := first
	for {
		var expired *SessionExpiredError
		if errors.As(f.err, &expired) && !first.lost {
			first.id.Seen, f.retry = max(first.id.Seen, expired.Revision), true
		}
		wait, err := story.failed(f, e)
		first.lost = first.lost || story.lost // a decision tells what came of all attempts, and not where they are
		if err != nil {
			return nil, err
		}
		if o.left {
			o = first.again()
			defer o.release()
		}
		o.lost = first.lost
		if err := c.await(ctx, o, story, wait); err != nil {
			return nil, err
		}
		var not *endpoint
		if f.slow {
			not = e
		}
		var s *shard
		s, e = c.route(first, not)
		o.begin(time.Now())
		if f = e.lane(o.write).exec(ctx, o); f == nil {
			c.answered(o, s, e)
			return o.result, nil
		}
	}
}

// await waits until the next attempt of a call may be made, and until the budget has a retry. An error is that of the call.
func (c *Client) await(ctx context.Context, o *op, story *call, wait time.Duration) error {
	for {
		left := time.Until(o.until)
		if left <= 0 { // the attempt may have taken the tick of the timer
			return story.end(cmp.Or(ctx.Err(), ErrTimeout))
		}
		if o.bounded {
			o.timer.Stop() // it may still be that of the attempt
		} else {
			o.timer.Reset(left)
		}
		// An attempt that could not be answered in time is not made: it would only make the outcome unknown.
		if o.write && !o.lost && left-wait < leaveForAnswer(o.patience) {
			wait = left + time.Second // which the caller's patience ends
		}
		if err := story.pause(ctx, o.timer.C, wait); err != nil {
			return err
		}
		if story.mayRetry() {
			return nil
		}
		wait = jitter(budgetPause)
	}
}

// pause waits; an error is that of the call.
func (c *call) pause(ctx context.Context, expired <-chan time.Time, wait time.Duration) error {
	if wait == 0 {
		return nil
	}
	if err := pause(ctx, c.client.stopped, expired, wait); err != nil {
		return c.end(err)
	}
	return nil
}

// mayRetry takes a retry from the budget if the last attempt is charged to it.
func (c *call) mayRetry() bool {
	c.starved = c.charged && !c.client.budget.take()
	return !c.starved
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

// effect is what a call outside the streams does, and so what an attempt of it means that nobody has answered.
type effect uint8

const (
	// reads: it may be asked again.
	reads effect = iota
	// prolongs: it may be asked again, whatever other calls have left of the retry budget. There are few, and without them a lease is lost.
	prolongs
	// writesOnce: the attempts carry one identity, so they apply once, and one may be given up for another.
	writesOnce
	// changes: an attempt that goes on at its node does what it does beside the next, so one has all the time of the call.
	changes
)

// unary makes a call outside the streams: at, or if that is nil any node, in as many attempts as it takes.
func (c *Client) unary(ctx context.Context, name string, at *endpoint, does effect, rpc func(context.Context, *endpoint) error) error {
	story := call{client: c, name: name, write: does == writesOnce || does == changes}
	if c.telemetry != nil {
		ctx, story.observation = c.telemetry.observe(ctx, name)
	}
	err := story.unary(ctx, at, does, rpc)
	story.observation.end(err)
	return err
}

func (c *call) unary(ctx context.Context, at *endpoint, does effect, rpc func(context.Context, *endpoint) error) error {
	client := c.client
	ctx, cancel := client.bounded(ctx)
	defer cancel()
	client.budget.called()
	ctx = c.observation.header(ctx)
	var not *endpoint
	for {
		e := at
		if e == nil {
			e = client.routes.any(not)
		}
		f := client.attempt(ctx, e, at == nil && does != changes, rpc)
		if f == nil {
			c.observation.attempt(e, nil)
			e.health.works()
			return nil
		}
		wait, err := c.failed(f, e)
		for err == nil {
			if err = c.pause(ctx, nil, wait); err == nil && (does == prolongs || c.mayRetry()) {
				break
			}
			wait = jitter(budgetPause)
		}
		if err != nil {
			return err
		}
		if not = nil; f.slow {
			not = e
		}
	}
}

// attempt is one attempt of a unary call. A short one may take its part of the time only.
func (c *Client) attempt(ctx context.Context, e *endpoint, short bool, rpc func(context.Context, *endpoint) error) *failure {
	attempt, cancel := ctx, context.CancelFunc(func() {})
	if deadline, ok := ctx.Deadline(); ok && short {
		t := attemptTime(time.Until(deadline))
		attempt, cancel = context.WithTimeoutCause(ctx, t, fmt.Errorf("%w: nothing within %s", ErrNoAnswer, t.Round(time.Millisecond)))
	}
	defer cancel()
	var reached atomic.Bool
	err := rpc(httptrace.WithClientTrace(attempt, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { reached.Store(true) },
	}), e)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return givenUp(reason(ctx), reached.Load())
	case attempt.Err() != nil:
		return &failure{err: context.Cause(attempt), unknown: reached.Load(), retry: true, slow: true}
	}
	f := judgeCall(err, reached.Load())
	if f.retry && f.unknown || !reached.Load() {
		e.failed(true)
	}
	return f
}
