package service

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
)

// answerConn is a connection of the grpc listener. grpc-go takes an answer from the handler at once and keeps it until the client
// takes it, even beyond the end of the call, so what it keeps is counted here: it is in the budget from its marshalling until its
// buffer is free, or the connection closed. A client that takes none of what waits for transferTimeout is cut off.
//
// It is the mem.BufferPool of these buffers.
type answerConn struct {
	net.Conn
	service *Service
	timer   *time.Timer

	// mu guards what follows. A leaf.
	mu     sync.Mutex
	held   uint64
	closed bool
}

// answerBuffers are the buffers of answers: of powers of two from 2 KiB to 2 MiB, so that none is more than twice as long as
// what it holds. (Below 1 KiB grpc-go would not say when it is free.)
var answerBuffers = mem.NewTieredBufferPool(1<<11, 1<<12, 1<<13, 1<<14, 1<<15, 1<<16, 1<<17, 1<<18, 1<<19, 1<<20, 1<<21)

// Get takes a buffer.
func (c *answerConn) Get(n int) *[]byte {
	b := answerBuffers.Get(max(n, 1<<11))
	*b = (*b)[:n]
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		if c.held == 0 {
			c.timer.Reset(c.service.transferTimeout)
		}
		c.held += uint64(cap(*b))
		c.service.budget.add(uint64(cap(*b)))
	}
	return b
}

// Put takes a buffer back: its bytes have been written.
func (c *answerConn) Put(b *[]byte) {
	c.mu.Lock()
	if !c.closed {
		c.held -= uint64(cap(*b))
		c.service.budget.give(uint64(cap(*b)))
		if c.held == 0 {
			c.timer.Stop()
		} else {
			c.timer.Reset(c.service.transferTimeout)
		}
	}
	c.mu.Unlock()
	answerBuffers.Put(b)
}

// Close closes the connection, and gives back what it held: grpc-go drops what a closed connection has not taken.
func (c *answerConn) Close() error {
	c.mu.Lock()
	c.timer.Stop()
	c.service.budget.give(c.held)
	c.held, c.closed = 0, true
	c.mu.Unlock()
	return c.Conn.Close()
}

// answerCredentials make an answerConn of every connection, and let calls find it.
type answerCredentials struct {
	credentials.TransportCredentials
	service *Service
}

// ServerHandshake shakes hands.
func (c answerCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	a := &answerConn{Conn: conn, service: c.service}
	a.timer = time.AfterFunc(time.Hour, func() { _ = a.Close() }) // it was of no use any more
	a.timer.Stop()
	return a, connInfo{info, a}, nil
}

// Clone copies the credentials.
func (c answerCredentials) Clone() credentials.TransportCredentials {
	return answerCredentials{c.TransportCredentials.Clone(), c.service}
}

// connInfo carries the connection to its calls.
type connInfo struct {
	credentials.AuthInfo
	conn *answerConn
}

// poolOf is where an answer to a call takes its buffer.
func poolOf(ctx context.Context) mem.BufferPool {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(connInfo); ok {
			return info.conn
		}
	}
	return answerBuffers
}

// outbound is an answer on its way to the codec, with the pool of its connection.
type outbound struct {
	message fastMessage
	pool    mem.BufferPool
}
