package raftkv

import (
	"errors"
	"fmt"
	"time"
)

const (
	// An attempt may take a third of what is left of its caller's time, within attemptMin and attemptMax. What remains is for others.
	attemptShare = 3
	attemptMin   = 500 * time.Millisecond
	attemptMax   = 10 * time.Second
)

// ErrNoAnswer says that an attempt was given up because the node did not answer within the part of the caller's time that one attempt may take.
var ErrNoAnswer = errors.New("no answer in time")

// attemptTime is how long an attempt may take of left: all of it, if the rest would be too short for another.
func attemptTime(left time.Duration) time.Duration {
	t := min(max(left/attemptShare, attemptMin), attemptMax)
	if left-t < attemptMin {
		return left
	}
	return t
}

// begin bounds the next attempt of o at now.
func (o *op) begin(now time.Time) {
	left := o.until.Sub(now)
	t := attemptTime(left)
	o.attempt, o.last, o.deadline = t, t == left, now.Add(t)
	if o.last && o.bounded {
		o.timer.Stop() // the context of the caller ends it
		return
	}
	o.timer.Reset(t)
}

// expired judges an attempt whose time has passed. sent says that it may have been executed.
func (o *op) expired(sent bool) *failure {
	if o.last {
		return givenUp(ErrTimeout, sent)
	}
	err := fmt.Errorf("%w: nothing within %s", ErrNoAnswer, o.attempt.Round(time.Millisecond))
	return &failure{err: err, unknown: sent, retry: true, slow: true}
}

// again is an operation for another attempt of the same call, when a lane may still use o. It carries the very messages of o, identity included, which
// nobody changes from then on if o was sent.
func (o *op) again() *op {
	n := ops.Get().(*op)
	n.name, n.key, n.slot, n.write, n.bytes = o.name, o.key, o.slot, o.write, o.bytes
	n.spread = o.spread
	n.until, n.patience, n.bounded = o.until, o.patience, o.bounded
	n.wire.Operation, n.wire.Traceparent, n.observation = o.wire.Operation, o.wire.Traceparent, o.observation
	return n
}

// RetryBudgetError says that a call could not be tried again because too many calls of the client had to be. Err is why it could wait no longer.
type RetryBudgetError struct{ Err error }

func (e *RetryBudgetError) Error() string {
	return "the retry budget of the client is used up, as too many calls fail: send less until the cluster keeps up: " + e.Err.Error()
}

// Unwrap returns Err.
func (e *RetryBudgetError) Unwrap() error { return e.Err }
