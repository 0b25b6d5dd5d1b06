package transport

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// peer keeps one connection to a node and sends what waits for it. One goroutine owns all but the outbox and the address.
type peer struct {
	t    *Transport
	id   placement.NodeID
	out  *outbox
	told link
	// logged is why the peer is down, as the log says already.
	logged string

	ctx    context.Context // ends when the peer is removed or the transport closed, with the reason
	cancel context.CancelCauseFunc
	after  <-chan struct{} // closed when an earlier peer of this name has had its last word; may be nil
	done   chan struct{}   // closed when this one has
	// hurry has room for one token: there is reason to believe that connecting works now.
	hurry chan struct{}

	frame []byte              // reused for every frame
	batch peerv1.MessageBatch // reused for every frame
	spent []waiting           // the queue's other half

	mu      sync.Mutex // guards what follows
	address string
	cut     context.CancelCauseFunc // ends the attempt or connection under way
}

// link is what the handler was last told of a peer.
type link int

const (
	linkUnknown link = iota
	linkUp
	linkDown
)

func newPeer(t *Transport, id placement.NodeID, address string, after <-chan struct{}) *peer {
	p := &peer{
		t: t, id: id, address: address, after: after,
		out:   newOutbox(t.o.QueueMessages, t.o.QueueBytes),
		done:  make(chan struct{}),
		hurry: make(chan struct{}, 1),
		cut:   func(error) {},
	}
	p.ctx, p.cancel = context.WithCancelCause(t.ctx)
	return p
}

// move gives the peer another address; a connection to the old one ends.
func (p *peer) move(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if address == p.address {
		return
	}
	p.address = address
	p.cut(ErrAddressChanged)
	p.hasten()
}

// hasten ends the wait before the next attempt.
func (p *peer) hasten() {
	select {
	case p.hurry <- struct{}{}:
	default:
	}
}

func (p *peer) location() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.address
}

// attempt begins one attempt to connect: the context of it and its connection, and where to.
func (p *peer) attempt() (context.Context, context.CancelCauseFunc, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.hurry: // was about the past
	default:
	}
	ctx, cut := context.WithCancelCause(p.ctx)
	p.cut = cut
	return ctx, cut, p.address
}

// run connects again and again until the peer is removed.
func (p *peer) run() {
	defer close(p.done)
	if p.after != nil {
		<-p.after // soon: it was cancelled before this peer was made
	}
	var wait backoff
	for p.ctx.Err() == nil {
		lasted := p.connect()
		if lasted > backoffMax { // one that is cut off at once counts as failed
			wait.reset()
		}
		hurry := p.hurry
		if lasted > 0 {
			hurry = nil // two nodes that drop each other's connections must not hurry each other on
		}
		pause := time.NewTimer(wait.next(rand.Float64()))
		select {
		case <-pause.C:
		case <-hurry:
		case <-p.ctx.Done():
		}
		pause.Stop()
	}
}

// connect makes one connection and uses it until it breaks. It returns how long it was up.
func (p *peer) connect() time.Duration {
	ctx, cut, address := p.attempt()
	defer cut(nil)
	c, _, err := p.t.dial(ctx, address, p.id, peerv1.Purpose_PURPOSE_MESSAGES)
	if err != nil {
		p.down(err)
		return 0
	}
	began := time.Now()
	p.out.open()
	p.told, p.logged = linkUp, ""
	p.t.handler.PeerUp(p.id)
	err = endedBy(ctx, p.send(ctx, c))
	p.t.n.messagesLost.Add(uint64(p.out.shut()))
	p.spent = nil
	p.down(fmt.Errorf("connection to node %q at %s: %w", p.id, address, err))
	return time.Since(began)
}

// down tells the handler that the peer is down, if that is news. Nobody needs to hear it of a transport that closes, or of a
// removed peer that never was up.
func (p *peer) down(cause error) {
	if p.t.ctx.Err() != nil || p.ctx.Err() != nil && p.told != linkUp {
		return
	}
	if text := cause.Error(); text != p.logged { // a peer that stays away for the same reason is logged once
		p.logged = text
		p.t.o.Logger.Warn("peer is not reachable", "peer", p.id, "cause", cause)
	}
	if p.told != linkDown {
		p.told = linkDown
		p.t.handler.PeerDown(p.id, cause)
	}
}

// send writes what waits, as it comes, until the connection breaks or ctx ends, and closes the connection.
func (p *peer) send(ctx context.Context, c *conn) error {
	end := beside(func() error { return awaitEnd(c) })
	err := p.pump(ctx, c, end)
	c.Close()
	end.wait() //nolint:errcheck // pump has looked at it, or had its own reason
	return err
}

// awaitEnd returns when the other side ends the connection, on which it has nothing to say.
func awaitEnd(c *conn) error {
	var b [1]byte
	n, err := c.Conn.Read(b[:]) // past the deadlines of conn: silence is as it should be
	if n > 0 {
		return fmt.Errorf("%w: data on a connection that has one direction", ErrBadFrame)
	}
	return fmt.Errorf("%w: %w", errClosedByPeer, err)
}

func (p *peer) pump(ctx context.Context, c *conn, end *ending) error {
	for {
		select {
		case <-p.out.wake:
			if err := p.flush(c); err != nil {
				return err
			}
		case <-end.done:
			return end.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// flush writes all that waits, in frames of about BatchBytes.
func (p *peer) flush(c *conn) error {
	queue := p.out.take(p.spent)
	p.spent = queue
	for rest := queue; len(rest) > 0; {
		n, bytes := 1, rest[0].bytes
		for n < len(rest) && bytes+rest[n].bytes <= p.t.o.BatchBytes {
			bytes += rest[n].bytes
			n++
		}
		frame, err := p.encode(rest[:n], bytes)
		if err != nil {
			return err
		}
		if _, err := c.Write(frame); err != nil {
			return err
		}
		p.out.release(n, bytes)
		p.t.n.messagesSent.Add(uint64(n))
		p.t.n.batchesSent.Add(1)
		p.t.n.bytesSent.Add(uint64(len(frame)))
		rest = rest[n:]
	}
	clear(queue) // the messages are garbage now
	return nil
}

// encode makes one frame of messages that take the given number of bytes.
func (p *peer) encode(messages []waiting, bytes int) ([]byte, error) {
	size := headerBytes + bytes
	frame := p.frame
	if cap(frame) < size {
		frame = slices.Grow(frame[:0], size)
	}
	frame = frame[:size]
	if size <= keepBytesMax {
		p.frame = frame
	}
	for _, w := range messages {
		p.batch.Messages = append(p.batch.Messages, w.message)
	}
	_, err := p.batch.MarshalToSizedBufferVT(frame[headerBytes:])
	clear(p.batch.Messages)
	p.batch.Messages = p.batch.Messages[:0]
	if err != nil {
		return nil, fmt.Errorf("encode messages: %w", err)
	}
	seal(frame, kindMessages)
	return frame, nil
}
