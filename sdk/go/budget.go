package raftkv

import (
	"sync/atomic"
	"time"
)

const (
	// Every tenth call may be retried, on the long run, and a burst of retriesKept beyond that.
	retryPercent = 10
	retriesKept  = 500
	// retriesRefill is how long an empty reserve takes to fill by itself, so that a client of which every call waits for a retry goes on.
	retriesRefill = 10 * time.Second
	// budgetPause is how long a call that found the budget empty waits before it asks again.
	budgetPause = 100 * time.Millisecond
	// retryUnit is what a retry takes from the budget; a call adds percent units of it.
	retryUnit = 100
)

// budget bounds the retries of all calls of a client together, so that a cluster that cannot keep up is not asked for more than it was. It is a bucket of
// tokens to which calls and time add, and from which retries take.
type budget struct {
	now     func() time.Duration
	percent int64
	full    int64 // in the unit of tokens
	tokens  atomic.Int64
	// filled is when time last added something.
	filled atomic.Int64
}

func newBudget(percent, kept int, now func() time.Duration) *budget {
	b := &budget{now: now, percent: int64(percent), full: int64(kept) * retryUnit}
	b.tokens.Store(b.full)
	return b
}

// called adds the part of a call. A full bucket, which is the usual one, costs a load; a few calls at the same time may fill it over the brim.
func (b *budget) called() {
	if b.tokens.Load() < b.full {
		b.tokens.Add(b.percent)
	}
}

// take takes a retry; false if there is none.
func (b *budget) take() bool {
	b.refill()
	for {
		tokens := b.tokens.Load()
		if tokens < retryUnit {
			return false
		}
		if b.tokens.CompareAndSwap(tokens, tokens-retryUnit) {
			return true
		}
	}
}

// refill adds the part of the time that has passed.
func (b *budget) refill() {
	last := b.filled.Load()
	now := int64(b.now())
	gain := int64(float64(b.full) * float64(now-last) / float64(retriesRefill))
	if gain <= 0 || !b.filled.CompareAndSwap(last, now) {
		return // nothing yet, or another call adds it
	}
	if missing := b.full - b.tokens.Load(); missing > 0 {
		b.tokens.Add(min(gain, missing))
	}
}
