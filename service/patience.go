package service

import (
	"encoding/binary"
	"io"
	"net/http"
	"sync"
	"time"
)

// patientWriter writes a stream to a client that must take each part of it in time. It has no hold on a client that takes a little
// now and then, which is bounded by what a stream holds.
type patientWriter struct {
	http.ResponseWriter
	timeout time.Duration
	timer   *time.Timer

	// mu guards closed: the timer must not touch a writer whose handler has returned.
	mu     sync.Mutex
	closed bool
}

func newPatientWriter(w http.ResponseWriter, timeout time.Duration) *patientWriter {
	p := &patientWriter{ResponseWriter: w, timeout: timeout}
	p.timer = time.AfterFunc(time.Hour, p.expire)
	p.timer.Stop()
	return p
}

func (p *patientWriter) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		_ = http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Now())
	}
}

// close comes before the handler returns.
func (p *patientWriter) close() {
	p.timer.Stop()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
}

// Write writes b, all of it in time.
func (p *patientWriter) Write(b []byte) (int, error) {
	p.timer.Reset(p.timeout)
	defer p.timer.Stop()
	return p.ResponseWriter.Write(b)
}

// Flush sends what is buffered.
func (p *patientWriter) Flush() {
	p.timer.Reset(p.timeout)
	defer p.timer.Stop()
	_ = http.NewResponseController(p.ResponseWriter).Flush() // the next write meets the error
}

// Unwrap lets http.ResponseController find the writer.
func (p *patientWriter) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// meteredBody is the body of a stream of messages. What has come of a message is in the budget until the next is read: its
// operations have been admitted by then. It is read on when the budget is used up, because to end a stream costs the client the
// outcome of its writes; only twice the budget ends it.
type meteredBody struct {
	io.ReadCloser
	budget *budget

	// mu guards what follows: the receiver of a stream may outlive its handler, which releases.
	mu       sync.Mutex
	prefix   [5]byte // of the message: flags, length
	got      int     // bytes of prefix
	left     uint64  // bytes of the message that have not come
	read     uint64  // bytes of it that have
	held     uint64
	released bool
}

// Read reads on.
func (m *meteredBody) Read(b []byte) (int, error) {
	n, err := m.ReadCloser.Read(b)
	if full := m.count(b[:n]); full != nil {
		return 0, failureOf(full)
	}
	return n, err
}

func (m *meteredBody) count(b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(b) > 0 {
		if m.left == 0 {
			n := copy(m.prefix[m.got:], b)
			b, m.got = b[n:], m.got+n
			if m.got == len(m.prefix) {
				m.budget.give(m.held)
				m.got, m.read, m.held = 0, 0, 0
				m.left = uint64(binary.BigEndian.Uint32(m.prefix[1:]))
			}
			continue
		}
		n := min(m.left, uint64(len(b)))
		b, m.left, m.read = b[n:], m.left-n, m.read+n
	}
	if m.released || m.read <= exchangeBytes || m.read <= m.held {
		return nil
	}
	if m.budget.flooded() {
		return m.budget.overloaded(uint64(m.budget.used.Load()))
	}
	m.budget.add(roundUp(m.read) - m.held)
	m.held = roundUp(m.read)
	return nil
}

// release gives back what is held. The handler calls it last.
func (m *meteredBody) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.budget.give(m.held)
	m.held, m.released = 0, true
}
