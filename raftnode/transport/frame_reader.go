package transport

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
)

const (
	// A payload that does not fit the buffer of its reader grows by at most what has already arrived, or this much: a header
	// that promises a lot costs no memory.
	growBytes = 1 << 20
	// Larger buffers are given back after use: one huge message must not cost memory for the life of a connection.
	keepBytesMax = 4 << 20
	// PieceBytes is how much of a stream of messages shows that its sender lives, though no frame is whole yet. One that brings less in the
	// time after which its owner takes it for silent is too slow to be of use, and one that trickles for ever is not taken for alive.
	PieceBytes = 16 << 10
)

// pieces is a connection that says when another piece has come.
type pieces struct {
	io.Reader
	left  int
	heard func()
}

// Read reads on.
func (p *pieces) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if p.left -= n; p.left <= 0 {
		p.left = PieceBytes
		p.heard()
	}
	return n, err
}

// frameReader takes frames from a connection. Payloads that fit the buffer of the reader are not copied.
type frameReader struct {
	br    *bufio.Reader
	limit int
	head  [headerBytes]byte
	held  int    // bytes of the last payload that still stand in br
	large []byte // for payloads that do not fit br
}

func newFrameReader(r io.Reader, limit, bufferBytes int) *frameReader {
	return &frameReader{br: bufio.NewReaderSize(r, bufferBytes), limit: limit}
}

// next returns the next frame. The payload is the reader's and stands until the next call. io.EOF: the stream ended between
// frames; io.ErrUnexpectedEOF: it ended within one.
func (r *frameReader) next() (kind, []byte, error) {
	if _, err := r.br.Discard(r.held); err != nil {
		return 0, nil, err
	}
	r.held = 0
	if _, err := io.ReadFull(r.br, r.head[:]); err != nil {
		return 0, nil, err
	}
	h, err := parseHeader(r.head[:], r.limit)
	if err != nil {
		return 0, nil, err
	}
	payload, err := r.payload(h.length)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return h.kind, payload, h.verify(r.head[:], payload)
}

// payload returns the next n bytes.
func (r *frameReader) payload(n int) ([]byte, error) {
	if n <= r.br.Size() {
		r.held = n
		return r.br.Peek(n)
	}
	b := r.large[:0]
	for len(b) < n {
		have := len(b)
		step := min(n-have, max(have, growBytes))
		b = slices.Grow(b, step)[:have+step]
		if _, err := io.ReadFull(r.br, b[have:]); err != nil {
			return nil, err
		}
	}
	if cap(b) <= keepBytesMax {
		r.large = b
	}
	return b, nil
}

// expect returns the payload of the next frame, which must be of the given kind.
func (r *frameReader) expect(want kind) ([]byte, error) {
	got, payload, err := r.next()
	if err != nil {
		return nil, err
	}
	if got != want {
		return nil, unexpectedKind(got, want)
	}
	return payload, nil
}

func unexpectedKind(got, want kind) error {
	return fmt.Errorf("%w: kind %d where kind %d belongs", ErrBadFrame, got, want)
}
