package service

import (
	"context"
	"runtime"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// answerAccount is what the answers of one call hold. The lock of its connection guards it.
type answerAccount struct {
	conn *answerConn
	held uint64
	lost bool
}

// answerPool is the mem.BufferPool of the answers of one call: every buffer of them leads to it, and nothing else does once the call
// is over.
type answerPool struct{ account *answerAccount }

func newAnswerPool(ctx context.Context) *answerPool {
	return &answerPool{&answerAccount{conn: connOf(ctx)}}
}

var _ mem.BufferPool = (*answerPool)(nil)

// Get takes a buffer.
func (p *answerPool) Get(n int) *[]byte {
	b := answerBuffers.Get(max(n, 1<<11))
	*b = (*b)[:n]
	p.account.conn.take(p.account, uint64(cap(*b)))
	return b
}

// Put takes a buffer back: its bytes have been written.
func (p *answerPool) Put(b *[]byte) {
	p.account.conn.give(p.account, uint64(cap(*b)))
	answerBuffers.Put(b)
}

// sent comes after each message. A stream may have been reset while the message was on its way into grpc-go's queue. grpc-go then throws
// the message away when it comes to it, and does not free its buffer; nobody is told. So what a stream holds that has ended under
// its handler is given back when the collector finds that no buffer leads to the pool, and no client is expected to take it.
func (p *answerPool) sent(ctx context.Context) {
	if ctx.Err() == nil || !streamEnded(ctx) {
		return
	}
	a := p.account
	lost := a.conn.lose(a)
	if lost == 0 {
		return
	}
	runtime.AddCleanup(p, a.conn.found, a)
	a.conn.service.budget.lose(lost)
}

// streamEnded says whether a stream has ended on which a message has been sent. That the context is done does not mean it: its time may be
// over, and the stream still waits for its answer.
func streamEnded(ctx context.Context) bool {
	// The head has gone out with the message. It is refused for that, with INTERNAL, unless the stream has ended.
	return status.Code(grpc.SendHeader(ctx, nil)) != codes.Internal
}

// outbound is an answer on its way to the codec, with the pool of its call.
type outbound struct {
	message fastMessage
	pool    *answerPool
}
