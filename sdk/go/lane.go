package raftkv

import (
	"context"
	"errors"
	"io"
	"net/http/httptrace"
	"runtime"
	"sync"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
)

const (
	messageBytesMax = 512 << 10
	messageOpsMax   = 1024
	// messagesInFlightMax makes messages size themselves: while two are under way, operations gather for the next.
	messagesInFlightMax = 2
	// queueOps bounds the operations that wait; past it, callers wait for room.
	queueOps = 4096
	// unansweredOpsMax bounds the operations under way, stalled messages included.
	unansweredOpsMax = 16 << 10
	// stallAfter is when a message no longer counts against messagesInFlightMax: it is stuck behind something, an
	// election of one shard perhaps, and must not hold up the others.
	stallAfter = 100 * time.Millisecond
)

// lane carries operations to one node over one Exec stream at a time. A node has lanes for reads and for writes, so that reads do not wait for the disk
// behind the writes of the same message.
//
// One goroutine, run, owns the stream and everything without a lock; a second one receives while a stream is open.
type lane struct {
	endpoint *endpoint
	kv       raftkvv1connect.KvServiceClient
	queue    chan *op
	// ended is closed when run has answered everything that it took and will take nothing more.
	ended chan struct{}
}

func newLane(e *endpoint, kv raftkvv1connect.KvServiceClient) *lane {
	return &lane{endpoint: e, kv: kv, queue: make(chan *op, queueOps), ended: make(chan struct{})}
}

// exec makes one attempt of o. On nil, o.result is set.
func (l *lane) exec(ctx context.Context, o *op) *failure {
	if f := l.enqueue(ctx, o); f != nil {
		return f
	}
	expired := false
	select {
	case <-o.done:
		return o.failure
	case <-ctx.Done():
	case <-o.timer.C:
		expired = true
	case <-l.ended:
		if o.take() {
			return notSent(ErrClosed) // queued after the lane had emptied its queue
		}
		<-o.done
		return o.failure
	}
	sent := !o.state.CompareAndSwap(opQueued, opAbandoned)
	if sent {
		select {
		case <-o.done: // the answer came at the same time
			return o.failure
		default:
		}
	}
	o.left = true
	if expired {
		return o.expired(sent)
	}
	return givenUp(ctx.Err(), sent)
}

// enqueue gives o to the lane, and waits for room if there is none; a failure says that it did not.
func (l *lane) enqueue(ctx context.Context, o *op) *failure {
	o.state.Store(opQueued)
	select {
	case l.queue <- o:
		return nil
	default:
	}
	select {
	case l.queue <- o:
		return nil
	case <-ctx.Done():
		return givenUp(ctx.Err(), false)
	case <-o.timer.C:
		return o.expired(false)
	case <-l.ended:
		return notSent(ErrClosed)
	}
}

// run serves the lane until stop ends.
func (l *lane) run(stop context.Context) {
	defer close(l.ended)
	for {
		select {
		case o := <-l.queue:
			if o.state.Load() == opQueued {
				l.serve(stop, o)
			}
		case <-stop.Done():
			l.refuse(notSent(ErrClosed))
			return
		}
	}
}

// refuse answers everything that waits with f.
func (l *lane) refuse(f *failure) {
	for {
		select {
		case o := <-l.queue:
			if o.take() {
				o.finish(nil, f)
			}
		default:
			return
		}
	}
}

// serve opens a stream, sends first and all that follows, and returns when the stream has ended and everything sent
// is answered. What still waits then is refused, so that its callers can turn to another node.
//
// No operation is taken before there is a connection: a caller that gives up until then knows that nothing was sent.
func (l *lane) serve(stop context.Context, first *op) {
	connected := make(chan struct{})
	connect := sync.OnceFunc(func() { close(connected) })
	ctx, cancel := context.WithCancelCause(httptrace.WithClientTrace(stop, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connect() },
	}))
	defer cancel(nil)
	s := &stream{
		endpoint: l.endpoint,
		wake:     make(chan struct{}, 1),
		cancel:   cancel,
		ended:    make(chan struct{}),
		messages: make(map[uint64]*message),
	}
	s.unsent = first
	if exec, err := l.kv.Exec(ctx); err != nil {
		s.err = err
	} else {
		// Once headers have come, HTTP/2 does not watch ctx while it waits for something to send.
		context.AfterFunc(ctx, func() {
			_ = exec.CloseRequest()
			_ = exec.CloseResponse()
		})
		go s.receive(exec)
		select {
		case <-connected:
			s.send(exec, l.queue)
		case <-s.ended:
		}
		cancel(nil)
		<-s.ended
	}
	if stop.Err() != nil {
		s.err = ErrClosed
	}
	broken := brokenStream(s.err, s.served)
	waiting := notSent(s.err)
	if errors.Is(broken.err, ErrRefused) {
		waiting = broken
	}
	if stop.Err() == nil && (s.unanswered > 0 || s.unsent != nil) {
		l.endpoint.failed(true) // not if a node ended a stream on which nothing was under way
	}
	s.fail(broken, waiting)
	l.refuse(waiting)
}

// message is an ExecRequest under way.
type message struct {
	ops        []*op // nil where answered
	unanswered int
	counts     bool // against messagesInFlightMax
	sent       time.Time
}

// stream is one Exec stream.
type stream struct {
	endpoint *endpoint
	cancel   context.CancelCauseFunc
	// wake tells the sender that a message has left flight.
	wake chan struct{}
	// ended is closed by the receiver when the stream has ended, with the error in err.
	ended chan struct{}
	err   error
	// served says that the stream gave a result; the receiver owns it until ended.
	served bool

	// mu guards what follows: sender and receiver both use it.
	mu         sync.Mutex
	messages   map[uint64]*message
	inFlight   int
	unanswered int
	// unsent is an operation that left the queue and was not sent: taken or not. The sender owns it.
	unsent *op
}

type execStream interface {
	Send(*raftkvv1.ExecRequest) error
	Receive() (*raftkvv1.ExecResponse, error)
}

// send sends s.unsent and what comes from queue until the stream ends.
func (s *stream) send(exec execStream, queue chan *op) {
	request := &raftkvv1.ExecRequest{}
	if s.unsent != nil && !s.unsent.take() {
		s.unsent = nil
	}
	for sequence := uint64(1); ; sequence++ {
		for s.unsent == nil {
			select {
			case o := <-queue:
				if o.take() {
					s.unsent = o
				}
			case <-s.ended:
				return
			}
		}
		if !s.awaitRoom() {
			return
		}
		// The callers whose answers made room are runnable but have not run: let them join.
		runtime.Gosched()
		var batch []*op
		batch, s.unsent = gatherBatch(s.unsent, queue)
		s.track(sequence, batch)
		fill(request, sequence, batch, s.endpoint.client.routes.timeoutMax())
		if err := exec.Send(request); err != nil {
			if !errors.Is(err, io.EOF) {
				s.cancel(err)
			} // else the stream has ended, and Receive tells why
			<-s.ended
			return
		}
	}
}

// gatherBatch takes what waits, within the bounds of a message. An operation that does not fit comes back as next.
func gatherBatch(first *op, queue chan *op) (batch []*op, next *op) {
	batch = make([]*op, 1, min(1+len(queue), messageOpsMax))
	batch[0] = first
	bytes := first.bytes
	for len(batch) < messageOpsMax {
		select {
		case o := <-queue:
			if !o.take() {
				continue
			}
			if bytes += o.bytes; bytes > messageBytesMax {
				return batch, o
			}
			batch = append(batch, o)
		default:
			return batch, nil
		}
	}
	return batch, nil
}

// indexBits is the part of an operation's id that is its index in its message.
const indexBits = 10

// fill makes request carry batch. The server gets the longest time that a caller still waits, less what its answer takes, at most
// timeoutMax.
func fill(request *raftkvv1.ExecRequest, sequence uint64, batch []*op, timeoutMax time.Duration) {
	clear(request.Operations)
	request.Operations = request.Operations[:0]
	latest := batch[0].deadline
	for i, o := range batch {
		o.wire.Id = sequence<<indexBits | uint64(i)
		request.Operations = append(request.Operations, &o.wire)
		if o.deadline.After(latest) {
			latest = o.deadline
		}
	}
	remaining := time.Until(latest)
	remaining = max(remaining-leaveForAnswer(remaining), time.Millisecond)
	request.TimeoutMs = uint32(min(remaining, timeoutMax).Milliseconds())
}

// track notes a message before it is sent.
func (s *stream) track(sequence uint64, batch []*op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages[sequence] = &message{ops: batch, unanswered: len(batch), counts: true, sent: time.Now()}
	s.inFlight++
	s.unanswered += len(batch)
}

// awaitRoom waits until another message may be sent; false if the stream has ended.
func (s *stream) awaitRoom() bool {
	var stalled *time.Timer
	for {
		wait := s.room()
		if wait == 0 {
			return true
		}
		if stalled == nil {
			stalled = time.NewTimer(wait)
			defer stalled.Stop()
		} else {
			stalled.Reset(wait)
		}
		select {
		case <-s.wake:
		case <-stalled.C:
		case <-s.ended:
			return false
		}
	}
}

// room returns 0 if another message may be sent, else when to look again at the latest. Stalled messages leave
// flight here.
func (s *stream) room() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unanswered >= unansweredOpsMax {
		return stallAfter
	}
	if s.inFlight < messagesInFlightMax {
		return 0
	}
	wait := stallAfter
	for _, m := range s.messages {
		if !m.counts {
			continue
		}
		left := stallAfter - time.Since(m.sent)
		if left <= 0 {
			s.leaveFlight(m)
			return 0
		}
		wait = min(wait, left)
	}
	return wait
}

// leaveFlight makes room for another message. s.mu is held.
func (s *stream) leaveFlight(m *message) {
	if m.counts {
		m.counts = false
		s.inFlight--
	}
}

// receive hands out results until the stream ends.
func (s *stream) receive(exec execStream) {
	defer close(s.ended)
	for {
		response, err := exec.Receive()
		if err != nil {
			s.err = err
			s.cancel(err)
			return
		}
		s.served = true
		if s.deliver(response) {
			select {
			case s.wake <- struct{}{}:
			default:
			}
		}
	}
}

// deliver completes the operations of response, and reports whether a message has left flight. That happens when half
// of its operations are answered: the rest may belong to a slower shard.
func (s *stream) deliver(response *raftkvv1.ExecResponse) (room bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range response.Results {
		sequence, index := r.Id>>indexBits, int(r.Id&(1<<indexBits-1))
		m := s.messages[sequence]
		if m == nil || index >= len(m.ops) || m.ops[index] == nil {
			continue // not ours, or answered twice
		}
		o := m.ops[index]
		m.ops[index] = nil
		m.unanswered--
		s.unanswered--
		if m.counts && 2*m.unanswered <= len(m.ops) {
			s.leaveFlight(m)
			room = true
		}
		if m.unanswered == 0 {
			delete(s.messages, sequence)
		}
		if e, failed := r.Result.(*raftkvv1.ExecResult_Error); failed {
			o.finish(nil, judgeStatus(e.Error))
		} else {
			o.finish(r, nil)
		}
	}
	return room
}

// fail answers everything under way with broken, and what was not sent with waiting. Sender and receiver have ended.
func (s *stream) fail(broken, waiting *failure) {
	for _, m := range s.messages {
		for _, o := range m.ops {
			if o != nil {
				o.finish(nil, broken)
			}
		}
	}
	if o := s.unsent; o != nil && (o.state.Load() == opSent || o.take()) {
		o.finish(nil, waiting)
	}
}
