package transport

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

var errTooMany = errors.New("too many connections are open")

// inbound is what others have connected. Those that have not said Hello yet have a bound of their own: a flood of strangers
// keeps new peers out for a while, but takes nothing from those that are in.
type inbound struct {
	max int

	mu        sync.Mutex // guards what follows
	closed    bool
	strangers int
	known     int
	conns     map[net.Conn]bool // whether it is known
	// messages has the one message connection of each peer.
	messages map[placement.NodeID]net.Conn
}

func newInbound(limit int) inbound {
	return inbound{max: limit, conns: make(map[net.Conn]bool), messages: make(map[placement.NodeID]net.Conn)}
}

// add takes note of a new connection, or says that there is no room for it.
func (in *inbound) add(c net.Conn) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed || in.strangers >= in.max {
		return false
	}
	in.strangers++
	in.conns[c] = false
	return true
}

// introduce takes note that a connection has said Hello.
func (in *inbound) introduce(c net.Conn) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return ErrClosed
	}
	if in.known >= in.max {
		return errTooMany
	}
	in.strangers--
	in.known++
	in.conns[c] = true
	return nil
}

// claim makes a connection the one that a peer sends messages on. An earlier one is closed: the peer would not have made another
// if it still used it.
func (in *inbound) claim(node placement.NodeID, c net.Conn) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if old := in.messages[node]; old != nil {
		old.Close()
	}
	in.messages[node] = c
}

// evict closes the message connection of a peer.
func (in *inbound) evict(node placement.NodeID) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if c := in.messages[node]; c != nil {
		c.Close()
	}
}

// remove closes a connection and forgets it.
func (in *inbound) remove(c net.Conn) {
	c.Close()
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.conns[c] {
		in.known--
	} else {
		in.strangers--
	}
	delete(in.conns, c)
	for node, m := range in.messages {
		if m == c {
			delete(in.messages, node)
		}
	}
}

// closeAll ends all connections and lets no more in.
func (in *inbound) closeAll() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	for c := range in.conns {
		c.Close()
	}
}

// accept takes connections until the transport closes.
func (t *Transport) accept() {
	var wait backoff
	for {
		raw, err := t.listener.Accept()
		if t.ctx.Err() != nil {
			if err == nil {
				raw.Close()
			}
			return
		}
		if err != nil { // out of descriptors, most likely: it passes
			t.refused.warn(t.o.Logger, "cannot accept connections of peers", "cause", err)
			pause := time.NewTimer(wait.next(1))
			select {
			case <-pause.C:
			case <-t.ctx.Done():
			}
			pause.Stop()
			continue
		}
		wait.reset()
		if !t.in.add(raw) {
			t.refuse(raw, errTooMany)
			raw.Close()
			continue
		}
		t.wait.Go(func() { t.serve(raw) })
	}
}

// serve is the life of one connection that another node has made.
func (t *Transport) serve(raw net.Conn) {
	defer t.in.remove(raw)
	c, from, purpose, err := t.welcome(raw)
	if err != nil {
		t.refuse(raw, err)
		return
	}
	switch purpose {
	case peerv1.Purpose_PURPOSE_MESSAGES:
		err = t.serveMessages(c, from)
	case peerv1.Purpose_PURPOSE_SNAPSHOT:
		err = t.serveSnapshot(c, from)
	default: // checkCaller knows no more than these
		err = t.serveCall(c, from)
	}
	if err != nil && !errors.Is(err, net.ErrClosed) { // that one is our own doing
		t.n.connectionsBroken.Add(1)
		t.broken.warn(t.o.Logger, "connection of a peer broke", "peer", from.NodeID, "address", raw.RemoteAddr(), "cause", err)
	}
}

func (t *Transport) refuse(raw net.Conn, cause error) {
	if t.ctx.Err() != nil {
		return
	}
	t.n.connectionsRefused.Add(1)
	t.refused.warn(t.o.Logger, "connection refused", "address", raw.RemoteAddr(), "cause", cause)
}

// welcome is the handshake on the side that was connected to. A node that is refused is told why.
func (t *Transport) welcome(raw net.Conn) (*conn, Peer, peerv1.Purpose, error) {
	none := func(err error) (*conn, Peer, peerv1.Purpose, error) { return nil, Peer{}, 0, err }
	c := &conn{Conn: raw, unbind: func() bool { return true }}
	if err := c.SetDeadline(time.Now().Add(t.o.HandshakeTimeout)); err != nil {
		return none(err)
	}
	if t.tls != nil {
		tc := tls.Server(raw, t.tls)
		if err := tc.Handshake(); err != nil {
			return none(fmt.Errorf("TLS: %w", err))
		}
		c.Conn = tc
	}
	h, err := readHello(c)
	if err != nil {
		return none(fmt.Errorf("read Hello: %w", err))
	}
	from, purpose := peerOf(h), h.GetPurpose()
	err = t.checkCaller(h)
	if err == nil {
		err = checkCertifiedNode(c.Conn, from.NodeID)
	}
	if err == nil {
		err = t.in.introduce(raw)
	}
	if err != nil {
		writeMessage(c, kindHello, t.refusal(err)) //nolint:errcheck // the connection ends either way
		return none(fmt.Errorf("node %q: %w", from.NodeID, err))
	}
	if purpose == peerv1.Purpose_PURPOSE_MESSAGES {
		t.in.claim(from.NodeID, raw) // before the answer, so that of two connections the one that was answered last stays
	}
	if err := writeMessage(c, kindHello, t.hello(from.NodeID, purpose)); err != nil {
		return none(fmt.Errorf("answer Hello: %w", err))
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return none(err)
	}
	c.stall = t.stallOf(purpose)
	tune(raw, c.stall)
	if p := (*t.peers.Load())[from.NodeID]; p != nil && purpose == peerv1.Purpose_PURPOSE_MESSAGES {
		p.hasten() // it lives: no need to wait for the next attempt
	}
	return c, from, purpose, nil
}

// serveMessages hands on what a peer sends. nil: the peer ended the connection between frames.
func (t *Transport) serveMessages(c *conn, from Peer) error {
	r := newFrameReader(c, t.o.MaxFrameBytes, readBytes)
	for {
		payload, err := r.expect(kindMessages)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		bytes := len(payload)
		var batch peerv1.MessageBatch
		if err := batch.UnmarshalVT(payload); err != nil { // copies, so the payload may be overwritten
			return fmt.Errorf("%w: messages: %w", ErrBadFrame, err)
		}
		messages := t.addressed(batch.GetMessages())
		t.n.messagesReceived.Add(uint64(len(messages)))
		t.n.bytesReceived.Add(uint64(bytes))
		t.n.messagesDropped.Add(uint64(len(batch.GetMessages()) - len(messages)))
		if len(messages) > 0 {
			t.handler.HandleMessages(from, messages)
		}
	}
}

// addressed leaves out messages to another incarnation of this node, whose disk is gone (R13), and those of a kind that only a
// later release knows.
func (t *Transport) addressed(messages []*peerv1.Message) []*peerv1.Message {
	kept := messages[:0]
	for _, m := range messages {
		if m.GetBody() == nil {
			continue
		}
		if to := m.GetRaft().GetToIncarnation(); to != 0 && to != t.o.Incarnation {
			continue
		}
		kept = append(kept, m)
	}
	return kept
}
