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
	conns     map[net.Conn]*guest
	// messages has the one message connection of each peer.
	messages map[placement.NodeID]net.Conn
}

// guest is what is known of a connection.
type guest struct {
	known bool             // it has said Hello
	node  placement.NodeID // the peer whose message connection it is or was, if any
	gone  chan struct{}    // closed when nothing more comes from it
}

func newInbound(limit int) inbound {
	return inbound{max: limit, conns: make(map[net.Conn]*guest), messages: make(map[placement.NodeID]net.Conn)}
}

// add takes note of a new connection, or says that there is no room for it.
func (in *inbound) add(c net.Conn) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed || in.strangers >= in.max {
		return false
	}
	in.strangers++
	in.conns[c] = &guest{gone: make(chan struct{})}
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
	in.conns[c].known = true
	return nil
}

// claim makes a connection the one that a peer sends messages on. An earlier one is closed: the peer would not have made another
// if it still used it. What has already been read from it is still handed on; before is closed, or nil, once that is over.
func (in *inbound) claim(node placement.NodeID, c net.Conn) (before <-chan struct{}) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if old := in.messages[node]; old != nil {
		old.Close()
		before = in.conns[old].gone
	}
	in.messages[node] = c
	in.conns[c].node = node
	return before
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
	g := in.conns[c]
	if g.known {
		in.known--
	} else {
		in.strangers--
	}
	if in.messages[g.node] == c {
		delete(in.messages, g.node)
	}
	delete(in.conns, c)
	close(g.gone)
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
	c, h, err := t.welcome(raw)
	if err != nil {
		t.refuse(raw, err)
		return
	}
	from := peerOf(h)
	var before <-chan struct{}
	if h.GetPurpose() == peerv1.Purpose_PURPOSE_MESSAGES {
		before = t.in.claim(from.NodeID, raw) // before the answer, so that of two connections the one that is answered last stays
	}
	if err := t.answer(c, h); err != nil {
		t.refuse(raw, err)
		t.until(before) // whoever waits for this connection waits for the earlier one, too
		return
	}
	tune(raw, c.stall)
	switch h.GetPurpose() {
	case peerv1.Purpose_PURPOSE_MESSAGES:
		if p := (*t.peers.Load())[from.NodeID]; p != nil {
			p.hasten() // it lives: no need to wait for the next attempt
		}
		err = t.serveMessages(c, from, before)
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

// welcome is the handshake on the side that was connected to, up to the answer. A node that is refused is told why.
func (t *Transport) welcome(raw net.Conn) (*conn, *peerv1.Hello, error) {
	c := &conn{Conn: raw, unbind: func() bool { return true }}
	if err := c.SetDeadline(time.Now().Add(t.o.HandshakeTimeout)); err != nil {
		return nil, nil, err
	}
	if t.tls != nil {
		tc := tls.Server(raw, t.tls)
		if err := tc.Handshake(); err != nil {
			return nil, nil, fmt.Errorf("TLS: %w", err)
		}
		c.Conn = tc
	}
	h, err := readHello(c)
	if err != nil {
		return nil, nil, fmt.Errorf("read Hello: %w", err)
	}
	err = t.checkCaller(h)
	if err == nil {
		err = checkCertifiedNode(c.Conn, peerOf(h).NodeID)
	}
	if err == nil {
		err = t.in.introduce(raw)
	}
	if err != nil {
		writeMessage(c, kindHello, t.refusal(err)) //nolint:errcheck // the connection ends either way
		return nil, nil, fmt.Errorf("node %q: %w", h.GetFromNodeId(), err)
	}
	return c, h, nil
}

// answer ends the handshake.
func (t *Transport) answer(c *conn, h *peerv1.Hello) error {
	if err := writeMessage(c, kindHello, t.hello(peerOf(h).NodeID, h.GetPurpose())); err != nil {
		return fmt.Errorf("answer Hello: %w", err)
	}
	c.stall = t.stallOf(h.GetPurpose())
	return c.SetDeadline(time.Time{})
}

// serveMessages hands on what a peer sends, after what it sent on an earlier connection. nil: the peer ended the connection
// between frames.
func (t *Transport) serveMessages(c *conn, from Peer, before <-chan struct{}) error {
	t.until(before)
	heard := func() { t.handler.Heard(from) }
	r := newFrameReader(&pieces{c, PieceBytes, heard}, t.o.MaxFrameBytes, readBytes)
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

// until returns when an earlier connection is over (nil: there was none) or the transport closes, and all connections with it.
func (t *Transport) until(before <-chan struct{}) {
	if before == nil {
		return
	}
	select {
	case <-before:
	case <-t.ctx.Done():
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
