package service

import (
	"container/list"
	"context"
	"math/bits"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
)

// answerConn is a connection of the grpc listener. grpc-go takes an answer from the handler at once and keeps it until the client
// takes it, even beyond the end of the call, so what it keeps is counted here: it is in the budget from its marshalling until its
// buffer is free, or the connection closed.
//
// A client is cut off that takes nothing of what waits for one of its calls for transferTimeout, no message and no part of a long one, whatever it takes of others:
// grpc-go gives a server no way to reset one stream, and what is queued for a stream that ends without is kept all the same.
//
// Each call counts its own part in an answerAccount, because an answer to a stream that has been reset is not always freed.
type answerConn struct {
	net.Conn
	service *Service
	// timer runs while anything is owed, and ends no later than the time of the first of owed.
	timer *time.Timer

	// mu guards what follows, and the accounts of the connection. A leaf.
	mu   sync.Mutex
	held uint64
	// owed are the accounts that wait for the client to take something, *answerAccount. The one that has waited longest is first.
	owed   list.List
	closed bool
}

// Lengths of the buffers of answers. Below 1 KiB grpc-go would not say when one is free.
const (
	answerBytesMin = 1 << 11
	answerBytesMax = 1 << 21
)

// answerBuffers are the buffers of answers: of powers of two, so that none is more than twice as long as what it holds. What is longer
// than the longest has a buffer of its own.
var answerBuffers = mem.NewTieredBufferPool(answerBytesMin, 1<<12, 1<<13, 1<<14, 1<<15, 1<<16, 1<<17, 1<<18, 1<<19, 1<<20, answerBytesMax)

// answerBufferBytes is how long the buffer of an answer of n bytes is.
func answerBufferBytes(n uint64) uint64 {
	if n > answerBytesMax {
		return n
	}
	return max(answerBytesMin, uint64(1)<<bits.Len64(n-1))
}

// take counts a buffer of n bytes.
func (c *answerConn) take(a *answerAccount, n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if a.held == 0 && !a.lost {
		c.owe(a)
	}
	c.held, a.held = c.held+n, a.held+n
	c.service.budget.add(n)
}

// give takes n bytes of the account from the count: they have been written, or thrown away.
func (c *answerConn) give(a *answerAccount, n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.held, a.held = c.held-n, a.held-n
	c.service.budget.give(n)
	switch {
	case a.lost:
	case a.held == 0:
		c.settle(a)
	default:
		c.wait(a)
	}
}

// progress says that the client has taken a part of what the account holds.
func (c *answerConn) progress(a *answerAccount) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed && !a.lost {
		c.wait(a)
	}
}

// wait begins the wait for an account anew. Called under mu.
func (c *answerConn) wait(a *answerAccount) {
	a.since = time.Now()
	c.owed.MoveToBack(a.place)
}

// lose says that no client takes what the account holds, and returns how much that is.
func (c *answerConn) lose(a *answerAccount) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || a.lost {
		return 0
	}
	a.lost = true
	if a.held > 0 {
		c.settle(a)
	}
	return a.held
}

// found gives back what an account still holds that no buffer leads to any more.
func (c *answerConn) found(a *answerAccount) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.held -= a.held
	c.service.budget.give(a.held)
	a.held = 0
}

// owe begins to wait for the client to take what the account will hold. Called under mu.
func (c *answerConn) owe(a *answerAccount) {
	a.since, a.place = time.Now(), c.owed.PushBack(a)
	if c.owed.Len() == 1 {
		c.timer.Reset(c.service.transferTimeout)
	}
}

// settle ends the wait for an account. Called under mu.
func (c *answerConn) settle(a *answerAccount) {
	c.owed.Remove(a.place)
	if c.owed.Len() == 0 {
		c.timer.Stop()
	}
}

// expire cuts the client off if it is late. If it is not, what has made the timer run has been taken meanwhile.
func (c *answerConn) expire() {
	if c.late() {
		_ = c.Close() // it was of no use any more
	}
}

// late says whether the client has taken nothing for too long of what waits longest. It sets the timer anew if not.
func (c *answerConn) late() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := c.owed.Front()
	if first == nil {
		return false
	}
	left := c.service.transferTimeout - time.Since(first.Value.(*answerAccount).since)
	if left > 0 {
		c.timer.Reset(left)
	}
	return left <= 0
}

// Write writes, or fails when the client takes too long: behind it may wait what the timer does not count, being lost.
func (c *answerConn) Write(b []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(transferTimeout)) // Write meets the error
	return c.Conn.Write(b)
}

// Close closes the connection, and gives back what it held: grpc-go drops what a closed connection has not taken.
func (c *answerConn) Close() error {
	c.mu.Lock()
	c.timer.Stop()
	c.service.budget.give(c.held)
	c.held, c.closed = 0, true
	c.owed.Init()
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
	a.timer = time.AfterFunc(time.Hour, a.expire)
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

// connOf is the connection of a call.
func connOf(ctx context.Context) *answerConn {
	p, _ := peer.FromContext(ctx)
	return p.AuthInfo.(connInfo).conn // answerCredentials have made it
}
