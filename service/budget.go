package service

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/raftkv/raftkv/raftnode"
)

// exchangeBytes is what a call outside a stream takes of the budget beside a long request or answer.
const exchangeBytes = 4 << 10

// budgetRetry is when a refused caller may try again: answers leave within milliseconds unless their readers are slow.
const budgetRetry = 20 * time.Millisecond

// budget bounds what the requests and answers of all clients hold in memory, on all listeners together: request bodies while
// they come in, messages while they are worked on, answers until they are written. The bounds of connections and streams
// are each for itself, so together they bound nothing.
//
// It counts bytes as they are on the wire; a decoded copy may come on top, for as long as a request is worked on.
type budget struct {
	limit uint64
	used  atomic.Int64
	lost  atomic.Uint64 // since the collector was last asked to look
}

// take reserves n bytes, or none; give returns them.
func (b *budget) take(n uint64) error {
	used := b.used.Add(int64(n))
	if used <= int64(b.limit) {
		return nil
	}
	b.used.Add(-int64(n))
	return b.overloaded(uint64(used))
}

// add reserves n bytes that are in memory already.
func (b *budget) add(n uint64) { b.used.Add(int64(n)) }

func (b *budget) give(n uint64) { b.used.Add(-int64(n)) }

// flooded says that even twice the budget is used up, which takes clients that go on sending what is refused.
func (b *budget) flooded() bool { return b.used.Load() > 2*int64(b.limit) }

// lose says that n bytes come back when the collector finds them. It is asked to before they are much of the budget: the bytes themselves
// may be too few to bring it about. grpc-go's pools of queue nodes keep what they held for one round.
func (b *budget) lose(n uint64) {
	if lost := b.lost.Add(n); lost >= b.limit/8 && b.lost.CompareAndSwap(lost, 0) {
		runtime.GC()
		runtime.GC()
	}
}

func (b *budget) overloaded(actual uint64) error {
	return &raftnode.OverloadedError{
		Field: "bytes of requests and answers in memory", Limit: b.limit, Actual: actual, RetryAfter: budgetRetry,
	}
}

// holder is what the messages of one call are counted by. The listeners differ in when they have what in memory. Only messages longer
// than exchangeBytes come to it.
type holder interface {
	// holdRequest takes a decoded request of n bytes into the budget, or fails.
	holdRequest(n uint64) error
	// holdAnswer takes an answer of n bytes into the budget. It fails only if the answer may be refused: that of a write may not,
	// because the write has been applied.
	holdAnswer(n uint64, refuse bool) error
}

// holderKey finds the holder in the context of a call.
type holderKey struct{}

// holderOf is the holder of a call.
func holderOf(ctx context.Context) holder { return ctx.Value(holderKey{}).(holder) } // both listeners have set one
