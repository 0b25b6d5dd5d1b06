package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

const (
	// emptyReadsMax is how often in a row a body may return nothing.
	emptyReadsMax = 100
	// verdictTimeout is how long the reason of a receiver that broke off is waited for.
	verdictTimeout = time.Second
)

// SendSnapshot streams a snapshot to a peer over a connection of its own and returns nil once the peer has it staged and
// durable. It reads the body up to io.EOF; any other error of the body ends the transfer, and the peer discards what it has.
func (t *Transport) SendSnapshot(ctx context.Context, to placement.NodeID, start *peerv1.SnapshotStart, body io.Reader) error {
	p := (*t.peers.Load())[to]
	if p == nil {
		return fmt.Errorf("snapshot to node %q: %w", to, ErrUnknownPeer)
	}
	ctx, release, err := t.bind(ctx)
	if err != nil {
		return fmt.Errorf("snapshot to node %q: %w", to, err)
	}
	defer release()
	if err := t.sendSnapshot(ctx, p, start, body); err != nil {
		return fmt.Errorf("snapshot to node %q: %w", to, endedBy(ctx, err))
	}
	return nil
}

func (t *Transport) sendSnapshot(ctx context.Context, p *peer, start *peerv1.SnapshotStart, body io.Reader) error {
	address := p.location()
	c, peer, err := t.dial(ctx, address, p.id, peerv1.Purpose_PURPOSE_SNAPSHOT)
	if err != nil {
		return err
	}
	done := beside(func() error { return awaitDone(c, peer, address) })
	defer func() {
		c.Close()
		<-done.done
	}()
	if err := writeMessage(c, kindSnapshotStart, start); err != nil {
		return verdict(c, done, err)
	}
	if err := writeBody(c, body, done); err != nil {
		if read := (*bodyError)(nil); errors.As(err, &read) {
			return err
		}
		return verdict(c, done, err)
	}
	return done.wait() // staging takes as long as it takes; ctx bounds it, and probes notice a dead path
}

// verdict prefers what the receiver has to say to the error that ended the writing: a receiver that fails says why and goes.
func verdict(c *conn, done *ending, err error) error {
	c.SetReadDeadline(time.Now().Add(verdictTimeout)) //nolint:errcheck // then the connection is gone and the reader with it
	said := done.wait()
	if refused := (*RefusedError)(nil); errors.As(said, &refused) {
		return said
	}
	return err
}

// awaitDone reads the receiver's last word, which may come at any time.
func awaitDone(c *conn, peer Peer, address string) error {
	payload, err := newFrameReader(c.Conn, replyBytesMax, helloBytesMax).expect(kindSnapshotDone)
	if err != nil {
		return fmt.Errorf("wait until it is taken: %w", err)
	}
	var done peerv1.SnapshotDone
	if err := done.UnmarshalVT(payload); err != nil {
		return fmt.Errorf("%w: snapshot done: %w", ErrBadFrame, err)
	}
	if done.GetError() != "" {
		return &RefusedError{Node: peer.NodeID, Address: address, Reason: reason(done.GetError())}
	}
	return nil
}

// bodyError is an error of what was to be sent, not of the sending.
type bodyError struct{ cause error }

func (e *bodyError) Error() string { return "read what to send: " + e.cause.Error() }
func (e *bodyError) Unwrap() error { return e.cause }

// writeBody sends the body in chunks, and an empty one as its end; nothing more once the receiver has decided.
func writeBody(c *conn, body io.Reader, done *ending) error {
	frame := make([]byte, headerBytes+chunkBytes)
	for {
		select {
		case <-done.done:
			return nil
		default:
		}
		n, readErr := fill(frame[headerBytes:], body)
		if readErr != nil && readErr != io.EOF { //nolint:errorlint // an error that wraps io.EOF is a failure, not the end
			return &bodyError{readErr}
		}
		if n > 0 {
			if err := writeChunk(c, frame[:headerBytes+n]); err != nil {
				return err
			}
		}
		if readErr != nil {
			return writeChunk(c, frame[:headerBytes])
		}
	}
}

func writeChunk(c *conn, frame []byte) error {
	seal(frame, kindSnapshotChunk)
	_, err := c.Write(frame)
	return err
}

// fill reads until b is full or r ends. It is not io.ReadFull because that turns an early io.EOF into io.ErrUnexpectedEOF, which
// then cannot be told from that of a body which is itself cut short.
func fill(b []byte, r io.Reader) (n int, err error) {
	for empty := 0; n < len(b) && err == nil; {
		var m int
		m, err = r.Read(b[n:])
		n += m
		if m > 0 {
			empty = 0
		} else if empty++; err == nil && empty >= emptyReadsMax {
			err = io.ErrNoProgress
		}
	}
	return n, err
}

// serveSnapshot takes one snapshot. What the handler thinks of it goes back to the sender and is no fault of the connection.
func (t *Transport) serveSnapshot(c *conn, from Peer) error {
	r := newFrameReader(c, t.o.MaxFrameBytes, chunkBytes)
	payload, err := r.expect(kindSnapshotStart)
	if err != nil {
		return fmt.Errorf("read start of snapshot: %w", err)
	}
	start := new(peerv1.SnapshotStart)
	if err := start.UnmarshalVT(payload); err != nil {
		return fmt.Errorf("%w: start of snapshot: %w", ErrBadFrame, err)
	}
	body := &chunkReader{frames: r}
	var done peerv1.SnapshotDone
	if err := t.takeSnapshot(from, start, body); err != nil {
		done.Error = reason(err.Error())
		if done.Error == "" {
			done.Error = "unknown error"
		}
	}
	if body.err != nil && !errors.Is(body.err, io.EOF) {
		return fmt.Errorf("read snapshot: %w", body.err) // there is nobody left to tell
	}
	if err := writeMessage(c, kindSnapshotDone, &done); err != nil {
		return fmt.Errorf("report on snapshot: %w", err)
	}
	if body.err == nil {
		t.drain(c)
	}
	return nil
}

func (t *Transport) takeSnapshot(from Peer, start *peerv1.SnapshotStart, body *chunkReader) error {
	if to := start.GetToIncarnation(); to != 0 && to != t.o.Incarnation {
		return fmt.Errorf("the snapshot is for incarnation %x of node %q, which is now %x", to, t.o.NodeID, t.o.Incarnation)
	}
	if err := t.handler.HandleSnapshot(from, start, body); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, body) // only now is it known that the handler has seen a whole one
	return err
}

// drain lets the sender of a snapshot that was not taken read why: closing a connection with unread data in it would throw the
// answer away.
func (t *Transport) drain(c *conn) {
	c.closeWrite()
	c.stall = 0
	if c.SetReadDeadline(time.Now().Add(t.o.HandshakeTimeout)) == nil {
		io.Copy(io.Discard, c.Conn) //nolint:errcheck // ends with the sender or the deadline
	}
}

// chunkReader is the body of a snapshot as it arrives.
type chunkReader struct {
	frames *frameReader
	rest   []byte // of the last chunk
	err    error  // io.EOF after the empty chunk
}

// Read returns io.EOF only after the sender said that this is the end.
func (r *chunkReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		var chunk []byte
		chunk, r.err = r.frames.expect(kindSnapshotChunk)
		switch {
		case errors.Is(r.err, io.EOF):
			r.err = io.ErrUnexpectedEOF // between frames, but before the end
		case r.err == nil && len(chunk) == 0:
			r.err = io.EOF
		}
		r.rest = chunk
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
