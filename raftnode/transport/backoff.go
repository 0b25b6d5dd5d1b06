package transport

import "time"

// backoff is the wait between attempts to connect: it doubles up to a bound, and each wait is a random part of it, so that nodes
// which lost a peer together do not come back together.
type backoff struct {
	ceiling time.Duration
}

// next returns the wait before the next attempt; random is in [0, 1).
func (b *backoff) next(random float64) time.Duration {
	b.ceiling = min(max(2*b.ceiling, backoffMin), backoffMax)
	return b.ceiling/2 + time.Duration(random*float64(b.ceiling/2))
}

// reset makes the next wait the shortest again.
func (b *backoff) reset() { b.ceiling = 0 }
