package raftkv

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// asyncDefault is how many calls of Async may be under way.
const asyncDefault = 4096

// flight is a call that nobody waits for. Its first attempt has no goroutine: the lane that answers the operation, the timer of the attempt or the end of the
// context ends it, whoever claims it first. Most calls end there; for the others a goroutine goes on with the attempts like any caller.
type flight struct {
	client *Client
	ctx    context.Context
	op     *op
	future interface {
		settle(o *op, r *raftkvv1.ExecResult, err error)
	}
	shard    *shard
	endpoint *endpoint
	// mu keeps what interrupts the first attempt back until launch has set all of it up. It guards what follows until then.
	mu sync.Mutex
	// unhook stops the watch of ctx; nil if ctx cannot end. armed says that the alarm of the operation is set.
	unhook func() bool
	armed  bool
	// claimed is swapped by who ends the first attempt, and owns everything here and op from then on.
	claimed atomic.Bool
}

// start takes a place among the calls under way and makes the first attempt.
func (x *flight) start() {
	c, o := x.client, x.op
	if c.telemetry != nil {
		x.ctx = o.observe(x.ctx, c.telemetry)
	}
	select {
	case c.places <- struct{}{}:
	default:
		if err := x.place(); err != nil {
			err = (&call{client: c, name: o.name, key: o.key}).end(err)
			o.observation.end(err)
			x.future.settle(o, nil, err)
			o.release()
			return
		}
	}
	c.prepare(x.ctx, o)
	if o.write {
		c.sessions.begin(o)
	}
	x.shard, x.endpoint = c.route(o, nil)
	o.flight = x
	x.launch(x.endpoint.lane(o.write), o)
}

// place waits until another call has ended.
func (x *flight) place() error {
	select {
	case x.client.places <- struct{}{}:
		return nil
	case <-x.ctx.Done():
		return x.ctx.Err()
	case <-x.client.stopped.Done():
		return ErrClosed
	}
}

// launch gives o to the lane. From then on o belongs to who claims the flight.
func (x *flight) launch(l *lane, o *op) {
	timer := o.timer // for the wait for room in the queue
	o.state.Store(opQueued)
	x.mu.Lock()
	if x.ctx.Done() != nil {
		x.unhook = context.AfterFunc(x.ctx, func() { x.interrupt(false) })
	}
	if !o.last || !o.bounded {
		x.armed = true
		o.arm()
	}
	x.mu.Unlock()
	select {
	case l.queue <- o:
	default:
		select {
		case l.queue <- o:
		case <-x.ctx.Done():
			x.interrupt(false)
			return
		case <-timer.C:
			x.interrupt(true)
			return
		case <-l.ended:
		}
	}
	if x.client.stopped.Err() != nil {
		// The lane may have emptied its queue before. What is queued earlier than the client stops, it answers.
		<-l.ended
		if x.claimed.CompareAndSwap(false, true) {
			x.goOn(notSent(ErrClosed))
		}
	}
}

// arm sets the alarm of o.
func (o *op) arm() {
	if o.alarm == nil {
		o.alarm = time.AfterFunc(o.attempt, func() { o.flight.interrupt(true) })
		return
	}
	o.alarm.Reset(o.attempt)
}

// interrupt ends the first attempt because its time is over, or the context of the call.
func (x *flight) interrupt(expired bool) {
	x.mu.Lock()   // for launch, if it is not that far yet
	x.mu.Unlock() //nolint:staticcheck // nothing is to be done in between
	if !x.claimed.CompareAndSwap(false, true) {
		return
	}
	o := x.op
	sent := !o.state.CompareAndSwap(opQueued, opAbandoned)
	o.left = true
	if expired {
		x.goOn(o.expired(sent))
		return
	}
	x.goOn(givenUp(x.ctx.Err(), sent))
}

// landed takes the answer of the lane. The lane may hold its lock: landed calls no lane and waits for nothing.
func (x *flight) landed(result *raftkvv1.ExecResult, f *failure) {
	if !x.claimed.CompareAndSwap(false, true) {
		return // op is left to the lane
	}
	x.op.result, x.op.failure = result, f
	if f != nil {
		x.goOn(f)
		return
	}
	x.client.answered(x.op, x.shard, x.endpoint)
	x.end(result, nil)
}

// goOn follows a failed attempt: with others, in a goroutine, if that may help.
func (x *flight) goOn(f *failure) {
	x.disarm()
	c, o := x.client, x.op
	if !o.left {
		o.flight = nil
	}
	var expired *SessionExpiredError
	if f.retry || errors.As(f.err, &expired) {
		retried := c.start(func(context.Context) { x.end(c.retry(x.ctx, o, x.endpoint, f)) })
		if retried {
			return
		}
	}
	story := call{client: c, name: o.name, key: o.key, write: o.write, op: o, observation: o.observation}
	_, err := story.failed(f, x.endpoint)
	if err == nil {
		err = story.end(ErrClosed) // the client is just closing
	}
	x.end(nil, err)
}

// disarm ends what could interrupt. An alarm that has gone off may still be on its way to op, which is then left to it.
func (x *flight) disarm() {
	if x.unhook != nil {
		x.unhook()
	}
	if x.armed && !x.op.alarm.Stop() {
		x.op.left = true
	}
	x.armed = false
}

// end settles the future, once the place of the call is free.
func (x *flight) end(r *raftkvv1.ExecResult, err error) {
	x.disarm()
	o := x.op
	if o.write {
		x.client.sessions.end(o)
	}
	o.observation.end(err)
	<-x.client.places
	x.future.settle(o, r, err)
	x.op = nil
	o.release()
}
