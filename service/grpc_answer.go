package service

import (
	"container/list"
	"context"
	"runtime"
	"sync/atomic"
	"time"

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
	// place is where the account is in what the connection is owed, if it holds anything and is not lost; since is when the client last took
	// something of it, or owed nothing.
	place *list.Element
	since time.Time
}

// answerPool is the mem.BufferPool of the answers of one call: every buffer of them leads to it, and nothing else does once the call
// is over. It is the holder of a call that is no stream.
type answerPool struct {
	account *answerAccount
	// reserved is what the budget has for an answer that has no buffer yet. The goroutine of the handler owns it.
	reserved uint64
}

func newAnswerPool(ctx context.Context) *answerPool {
	return &answerPool{account: &answerAccount{conn: connOf(ctx)}}
}

var (
	_ mem.BufferPool = (*answerPool)(nil)
	_ holder         = (*answerPool)(nil)
)

// holdRequest does nothing: handleUnary has taken the request into the budget.
func (p *answerPool) holdRequest(uint64) error { return nil }

// holdAnswer reserves the buffer of an answer, so that answers which are made at the same time do not pass together where there is room for
// one. The buffer of what is not refused is counted when it is there.
func (p *answerPool) holdAnswer(n uint64, refuse bool) error {
	if !refuse {
		return nil
	}
	n = answerBufferBytes(n)
	if err := p.budget().take(n); err != nil {
		return err
	}
	p.reserved += n
	return nil
}

// release gives back what is reserved. The handler calls it last, for an answer that was not made.
func (p *answerPool) release() {
	p.budget().give(p.reserved)
	p.reserved = 0
}

func (p *answerPool) budget() *budget { return &p.account.conn.service.budget }

// Get takes a buffer. What is reserved becomes the buffer.
func (p *answerPool) Get(n int) *[]byte {
	b := answerBuffers.Get(max(n, answerBytesMin))
	*b = (*b)[:n]
	p.account.conn.take(p.account, uint64(cap(*b)))
	p.release()
	return b
}

// Put takes a buffer back: its bytes have been written.
func (p *answerPool) Put(b *[]byte) {
	p.account.conn.give(p.account, uint64(cap(*b)))
	answerBuffers.Put(b)
}

// A client is to take each part of a long answer in time, of answerPartBytes or an eighth of it: whoever does that is slow and not away. The whole is kept until the last is
// taken, so there are no more than eight.
const (
	answerPartBytes = 64 << 10
	answerParts     = 8
)

// parts divides the buffer of a long answer, so that each part says when it was written. The buffer is free when all were.
func (p *answerPool) parts(b mem.Buffer) mem.BufferSlice {
	size := max(answerPartBytes, (b.Len()+answerParts-1)/answerParts)
	if b.Len() <= size {
		return mem.BufferSlice{b}
	}
	var parts mem.BufferSlice
	for at := 0; at < b.Len(); at += size {
		part := &answerPart{Buffer: b.Slice(at, min(at+size, b.Len())), account: p.account}
		part.refs.Store(1)
		parts = append(parts, part)
	}
	b.Free() // The parts hold it.
	return parts
}

// answerPart is a part of a long answer.
type answerPart struct {
	mem.Buffer
	account *answerAccount
	refs    atomic.Int32
}

// Ref counts a reference.
func (p *answerPart) Ref() { p.refs.Add(1) }

// Free gives a reference up. Behind the last the part was written, or thrown away with its stream.
func (p *answerPart) Free() {
	if p.refs.Add(-1) > 0 {
		return
	}
	p.account.conn.progress(p.account)
	p.Buffer.Free()
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
	p.budget().lose(lost)
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
