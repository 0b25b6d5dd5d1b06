package transport

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// conn is a connection that ends by itself when it makes no progress.
type conn struct {
	net.Conn
	// stall renews the deadline of every read and write; 0 leaves the deadlines to whoever sets them.
	stall time.Duration
	// unbind ends the hold that a context has on the connection.
	unbind func() bool
}

func (c *conn) Read(p []byte) (int, error) {
	if c.stall > 0 {
		if err := c.SetReadDeadline(time.Now().Add(c.stall)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
}

// Write gives every piece a deadline of its own, so that a large frame may take long while it moves.
func (c *conn) Write(p []byte) (int, error) {
	if c.stall == 0 {
		return c.Conn.Write(p)
	}
	written := 0
	for written < len(p) {
		if err := c.SetWriteDeadline(time.Now().Add(c.stall)); err != nil {
			return written, err
		}
		n, err := c.Conn.Write(p[written:min(len(p), written+writeBytesMax)])
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// Close closes the connection and lets go of its context.
func (c *conn) Close() error {
	c.unbind()
	return c.Conn.Close()
}

// closeWrite tells the other side that nothing more comes, where the connection knows how to.
func (c *conn) closeWrite() {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite() //nolint:errcheck // a courtesy; the deadline of what follows stands either way
	}
}

// tune makes the kernel give up on a path that is dead for longer than stall: by probes while nothing is sent, and by a bound on
// how long what was sent may stay unacknowledged. Without the latter a connection that lived through a partition is stuck for as
// long again after it heals, because the kernel doubles the wait before each new try.
func tune(raw net.Conn, stall time.Duration) {
	tcp, ok := raw.(*net.TCPConn)
	if !ok {
		return
	}
	const probes = 3
	//nolint:errcheck // without it the path is given up later
	tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: stall / 2, Interval: stall / 2 / probes, Count: probes})
	setUserTimeout(tcp, stall)
}

// stallOf is how long a connection may make no progress.
func (t *Transport) stallOf(p peerv1.Purpose) time.Duration {
	switch p {
	case peerv1.Purpose_PURPOSE_MESSAGES:
		return t.o.IdleTimeout
	case peerv1.Purpose_PURPOSE_SNAPSHOT:
		return t.o.SnapshotTimeout
	default:
		return t.o.HandshakeTimeout
	}
}

// dial connects to an address and exchanges Hellos. The connection is closed when ctx ends, and its errors are those of ctx then.
func (t *Transport) dial(ctx context.Context, address string, to placement.NodeID, purpose peerv1.Purpose) (*conn, Peer, error) {
	if purpose != peerv1.Purpose_PURPOSE_CALL && len(t.o.ClusterID()) == 0 {
		return nil, Peer{}, ErrNoCluster
	}
	deadline := time.Now().Add(t.o.HandshakeTimeout)
	dialer := net.Dialer{Deadline: deadline}
	raw, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, Peer{}, endedBy(ctx, err)
	}
	tune(raw, t.stallOf(purpose))
	c := &conn{Conn: raw, unbind: context.AfterFunc(ctx, func() { raw.Close() })}
	peer, err := t.introduce(c, deadline, address, to, purpose)
	if err != nil {
		c.Close()
		return nil, Peer{}, endedBy(ctx, err)
	}
	return c, peer, nil
}

// introduce is the handshake on the side that connects.
func (t *Transport) introduce(c *conn, deadline time.Time, address string, to placement.NodeID, purpose peerv1.Purpose) (Peer, error) {
	fail := func(err error) (Peer, error) {
		return Peer{}, fmt.Errorf("handshake with %s: %w", address, err)
	}
	if err := c.SetDeadline(deadline); err != nil {
		return fail(err)
	}
	if t.o.TLS != nil {
		tc := tls.Client(c.Conn, clientTLS(t.o.TLS, address))
		if err := tc.Handshake(); err != nil {
			return fail(err)
		}
		c.Conn = tc
	}
	if err := writeMessage(c, kindHello, t.hello(to, purpose)); err != nil {
		return fail(err)
	}
	answer, err := readHello(c)
	if err != nil {
		return fail(err)
	}
	if err := t.checkAnswer(answer, address, to, purpose); err != nil {
		return Peer{}, err
	}
	peer := peerOf(answer)
	if err := checkCertifiedNode(c.Conn, peer.NodeID); err != nil {
		return Peer{}, fmt.Errorf("%w: %s: %w", ErrWrongPeer, address, err)
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return fail(err)
	}
	c.stall = t.stallOf(purpose)
	return peer, nil
}

// endedBy is the reason why ctx ended, if it has: an error of a connection that ctx closed says nothing.
func endedBy(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
