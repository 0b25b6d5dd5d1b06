package service

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// transferTimeout is how long a request that is no stream may take to come in, its answer to go out, and one message of a
// stream to be taken.
const transferTimeout = time.Minute

// Bounds of the rest of a refused body that is read, so that a client that is still sending gets to see the answer.
const (
	drainBytes = 32 << 20
	drainTime  = 2 * time.Second
)

// exchange is one request on the server listener and its answer: what they hold of the budget, and how long they may take. It
// is the request's context, by which the method finds it, and its body. The goroutine of the handler owns it.
type exchange struct {
	context.Context
	service *Service
	body    io.ReadCloser
	// traceparent is the header of that name, if anything is traced.
	traceparent string
	// held is what the exchange has of the budget; read is how much of the body has come.
	held, read uint64
	// draining says that what still comes is thrown away.
	draining, ended bool

	// mu guards what follows against the timer, which must not touch a writer whose handler has returned.
	mu       sync.Mutex
	writer   http.ResponseWriter // nil once the handler has returned
	timer    *time.Timer
	answered bool // the time for the request has passed, the one for the answer runs
	// stream says that the answer is a stream, which watches its own time.
	stream bool
}

// begin takes an exchange into the budget. finish must follow unless there is an error.
func (s *Service) begin(w http.ResponseWriter, r *http.Request, stream bool) (*exchange, *http.Request, error) {
	if err := s.budget.take(exchangeBytes); err != nil {
		return nil, r, err
	}
	x := &exchange{Context: r.Context(), service: s, body: r.Body, held: exchangeBytes, writer: w, stream: stream}
	if s.tracing != nil {
		x.traceparent = r.Header.Get(traceHeader)
	}
	x.mu.Lock()
	x.timer = time.AfterFunc(s.transferTimeout, x.expire)
	x.mu.Unlock()
	r = r.WithContext(x)
	r.Body = x
	return x, r, nil
}

// Value finds the exchange itself.
func (x *exchange) Value(key any) any {
	if key == (holderKey{}) {
		return x
	}
	return x.Context.Value(key)
}

// finish gives back what the exchange holds. The handler calls it last.
func (x *exchange) finish(r *http.Request) {
	if !x.ended && r.ProtoMajor == 1 && r.ContentLength != 0 {
		// net/http reads a little more before it answers.
		_ = http.NewResponseController(x.writer).SetReadDeadline(time.Now().Add(drainTime))
	}
	x.mu.Lock()
	x.writer = nil
	x.mu.Unlock()
	x.timer.Stop()
	x.service.budget.give(x.held)
}

// expire ends the wait for the request, and later the one for the client to take the answer. What waits fails then.
func (x *exchange) expire() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.writer == nil {
		return
	}
	// A writer that knows no deadlines is a test's.
	c := http.NewResponseController(x.writer)
	if x.answered {
		_ = c.SetWriteDeadline(time.Now())
		return
	}
	_ = c.SetReadDeadline(time.Now())
	x.answering()
}

// received says that the whole request is there.
func (x *exchange) received() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.answered {
		x.answering()
	}
}

// answering starts the time for work and answer. Called under mu.
func (x *exchange) answering() {
	x.answered = true
	if x.stream {
		x.timer.Stop()
		return
	}
	x.timer.Reset(x.service.limits.Timeout + x.service.transferTimeout)
}

// hold makes the exchange hold at least n bytes of the budget.
func (x *exchange) hold(n uint64) error {
	if n > x.held {
		if err := x.service.budget.take(n - x.held); err != nil {
			return err
		}
		x.held = n
	}
	return nil
}

// holdRequest takes a decoded request into the budget, beside what its body holds.
func (x *exchange) holdRequest(n uint64) error { return x.hold(n) }

// holdAnswer takes an answer into the budget.
func (x *exchange) holdAnswer(n uint64, refuse bool) error {
	if refuse {
		return x.hold(n)
	}
	if n > x.held {
		x.service.budget.add(n - x.held)
		x.held = n
	}
	return nil
}

// Read reads the body, within the budget. A part of a body that is small costs nothing beside the base.
func (x *exchange) Read(b []byte) (int, error) {
	n, err := x.body.Read(b)
	x.read += uint64(n)
	if !x.draining && x.read > exchangeBytes {
		if full := x.hold(roundUp(x.read)); full != nil {
			return 0, failureOf(full)
		}
	}
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		x.ended = true
		x.received()
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = failureOf(errSlowRequest)
	}
	return n, err
}

// roundUp makes a body of many reads come to the budget seldom.
func roundUp(n uint64) uint64 {
	const step = 64 << 10
	return (n + step - 1) / step * step
}

// Close closes the body.
func (x *exchange) Close() error { return x.body.Close() }

// drain throws away what a client still sends after it has been refused, within bounds. Over HTTP/2 it would get to see
// nothing but the end of its stream otherwise; of HTTP/1.1, net/http takes care.
func (x *exchange) drain(r *http.Request) {
	if x.ended || r.ProtoMajor < 2 {
		return
	}
	x.draining = true
	c := http.NewResponseController(x.writer)
	_ = errors.Join(c.Flush(), c.SetReadDeadline(time.Now().Add(drainTime)))
	_, _ = io.CopyN(io.Discard, x, drainBytes) // whatever ends it
}
