package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// execStream is a stream of Exec on any protocol. Receive and Send may be called at the same time. Once the handler has
// returned, Receive fails.
type execStream interface {
	Receive() (*raftkvv1.ExecRequest, error)
	Send(m *raftkvv1.ExecResponse) error
}

// Bounds of one response message of Exec; it holds at least one result.
const (
	execResponseBytes   = 1 << 20
	execResponseResults = 4096
)

// execution is one Exec stream. Two goroutines serve it: the receiver decodes and submits, the handler's own sends. An
// operation has no goroutine: the node's callback puts it on a list, and what is on the list when the sender gets there
// goes out as one message.
type execution struct {
	service *Service
	ctx     context.Context
	stream  execStream
	// wake tells the sender that the list has something or the receiver has ended; room tells the receiver that something
	// has been sent. Both hold one token.
	wake, room chan struct{}

	// mu guards what follows. It is held for a few instructions, never across a call of the node or the stream.
	mu sync.Mutex
	// finished are operations with a result that has not been sent.
	finished []*execOperation
	// inFlight and inFlightBytes count operations from their admission until their result is sent. The bytes are in the budget
	// of the service, too, until the stream is abandoned.
	inFlight, inFlightBytes uint64
	// writes are those of them that may change something.
	writes uint64
	// readCharge is what a read is expected to bring: as much as the largest of late, falling slowly.
	readCharge uint64
	// ended says that nothing more will be admitted, endErr why; nil is the end of the client's stream.
	ended  bool
	endErr error
	// abandoned says that nobody will send results any more.
	abandoned bool
}

// execOperation is an operation of the stream. It is owned by the receiver until it is submitted, then by the node until
// it is finished, then by the sender.
type execOperation struct {
	x     *execution
	id    uint64
	op    operation
	start time.Time
	// finished is when the node has answered.
	finished time.Time
	// deadline is when the node stops working on it.
	deadline time.Time
	charge   uint64 // bytes reserved in inFlightBytes
	shows    uint64 // the part of it for what a write is to show
	units    uint64 // operations reserved in inFlight
	key      string // of a get, put or delete
	refused  error  // by the budget: it is not submitted
	result   raftnode.Result
	batch    *batchCall
	txn      *raftkvv1.TxnRequest
	span     *span // nil unless the operation is sampled
}

// Charges beside keys and values, for what an operation takes in memory.
const (
	chargeBase      = 512
	chargeReadFirst = 4 << 10
)

// pressedOperations is how many operations a stream has in flight at most while the budget of the service is used up. The
// results of refused operations are in no budget, so there must be few.
const pressedOperations = execOperationsMax

// exec serves one stream and returns its error.
func (s *Service) exec(ctx context.Context, stream execStream) error {
	if keyLines(ctx) != nil {
		return failureOf(&raftnode.InvalidError{Field: keyHeader, Problem: "is for one write; on a stream, give each write its idempotency_key"})
	}
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // frees a receiver that waits for room; one that reads is freed by the return of the handler
	x := &execution{
		service: s, ctx: ctx, stream: stream,
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1),
		readCharge: chargeReadFirst,
	}
	s.receivers.Add(1)
	go func() {
		defer s.receivers.Done()
		x.end(x.receive())
	}()
	err := x.send()
	if err == nil {
		return nil
	}
	return failureOf(x.unanswered(streamError(err, s.limits.RequestBytes)))
}

// unanswered is the error of a stream that ends with err: if writes were under way, they may be applied.
func (x *execution) unanswered(err error) error {
	x.mu.Lock()
	writes := x.writes
	x.mu.Unlock()
	if writes == 0 || errors.Is(err, errPanic) { // which says the same
		return err
	}
	unknown := &raftnode.UnknownOutcomeError{Cause: fmt.Sprintf("the stream ended with %d writes under way: %s", writes, failureOf(err).message)}
	if errors.Is(err, context.DeadlineExceeded) {
		return &expiredError{unknown}
	}
	return unknown
}

// receive reads and submits until the stream ends, which is nil if the client ended it.
func (x *execution) receive() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = x.service.panicked(x.ctx, "exec", p)
		}
	}()
	for {
		m, err := x.stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := checkExec(m); err != nil {
			return err
		}
		now := time.Now()
		deadline := x.service.deadline(now, m.GetTimeoutMs())
		for pending := m.GetOperations(); len(pending) > 0; {
			admitted, err := x.admit(pending, now, deadline)
			if len(admitted) == 0 {
				return err // without one, the sender has ended; it knows why
			}
			for i, o := range admitted {
				x.start(o, pending[i])
			}
			pending = pending[len(admitted):]
		}
	}
}

// admit reserves room for as many of the operations as there is, at least one, and waits for it. It returns none if the
// stream has ended meanwhile or cannot go on.
func (x *execution) admit(ops []*raftkvv1.ExecOperation, now, deadline time.Time) ([]*execOperation, error) {
	admitted, ok := x.tryAdmit(ops, now, deadline)
	if len(admitted) > 0 || !ok {
		return admitted, nil
	}
	// What waits is in memory, and its client does not read, or not fast enough.
	budget, waiting := &x.service.budget, uint64(0)
	for _, m := range ops {
		waiting += uint64(m.SizeVT())
	}
	budget.add(waiting)
	defer budget.give(waiting)
	for {
		if budget.flooded() {
			return nil, budget.overloaded(uint64(budget.used.Load()))
		}
		select {
		case <-x.room:
		case <-x.ctx.Done():
			return nil, nil
		}
		if admitted, ok := x.tryAdmit(ops, now, deadline); len(admitted) > 0 || !ok {
			return admitted, nil
		}
	}
}

func (x *execution) tryAdmit(ops []*raftkvv1.ExecOperation, now, deadline time.Time) ([]*execOperation, bool) {
	limits := &x.service.limits
	admitted := make([]*execOperation, 0, len(ops))
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended || x.abandoned {
		return nil, false
	}
	units, bytes := x.inFlight, x.inFlightBytes
	for _, m := range ops {
		o := &execOperation{x: x, id: m.GetId(), start: now, deadline: deadline}
		o.op, o.units, o.charge = cost(m, x.readCharge)
		o.shows = shown(m, limits.ValueBytes)
		o.charge += o.shows
		if units > 0 && (units+o.units > limits.StreamOperations || bytes+o.charge > limits.StreamBytes) {
			break
		}
		units += o.units
		bytes += o.charge
		admitted = append(admitted, o)
	}
	if err := x.service.budget.take(bytes - x.inFlightBytes); err != nil {
		admitted = x.press(admitted, err)
	} else {
		x.inFlightBytes = bytes
	}
	for _, o := range admitted {
		x.inFlight += o.units
		x.writes += o.writes()
	}
	return admitted, true
}

// press refuses operations for which the budget has no room. They are admitted so far that they are answered, without a charge and
// as few as pressedOperations asks. Called under mu.
func (x *execution) press(ops []*execOperation, full error) []*execOperation {
	units := x.inFlight
	for i, o := range ops {
		if units += o.units; units > max(pressedOperations, o.units) {
			return ops[:i]
		}
		o.charge, o.shows, o.refused = 0, 0, full
	}
	return ops
}

// writes is how many writes the operation counts as, from its admission to its answer.
func (o *execOperation) writes() uint64 {
	if o.op.writes() && o.refused == nil {
		return 1
	}
	return 0
}

// cost is what an operation takes of the stream's bounds.
func cost(m *raftkvv1.ExecOperation, readCharge uint64) (op operation, units, bytes uint64) {
	switch o := m.GetOperation().(type) {
	case *raftkvv1.ExecOperation_Get:
		return opGet, 1, readCharge
	case *raftkvv1.ExecOperation_Put:
		return opPut, 1, chargeBase + uint64(len(o.Put.GetKey())+len(o.Put.GetValue()))
	case *raftkvv1.ExecOperation_Batch:
		units, bytes = uint64(len(o.Batch.GetOperations())), uint64(o.Batch.SizeVT())
		return opBatch, max(units, 1), bytes + chargeBase*max(units, 1)
	case *raftkvv1.ExecOperation_Txn:
		units = uint64(max(1, len(o.Txn.GetCompare()), len(o.Txn.GetThen()), len(o.Txn.GetElse())))
		return opTxn, units, uint64(o.Txn.SizeVT()) + chargeBase*units
	default:
		return opDelete, 1, chargeBase
	}
}

// start submits an operation that has been admitted.
func (x *execution) start(o *execOperation, m *raftkvv1.ExecOperation) {
	if o.refused != nil {
		o.done(raftnode.Result{Err: o.refused})
		return
	}
	if err := x.service.rules.checkExecOperation(m); err != nil {
		o.done(raftnode.Result{Err: err})
		return
	}
	o.span = x.service.tracing.begin(o.op.String(), m.GetTraceparent(), o.start)
	var r *raftnode.Request
	switch v := m.GetOperation().(type) {
	case *raftkvv1.ExecOperation_Get:
		o.key = v.Get.GetKey()
		stale, err := x.service.staleRead(v.Get.GetConsistency(), v.Get.GetMaxStalenessMs(), v.Get.GetToken())
		if err != nil {
			o.done(raftnode.Result{Err: err})
			return
		}
		r = new(readCall).prepare(v.Get, stale)
	case *raftkvv1.ExecOperation_Put:
		o.key = v.Put.GetKey()
		r = x.service.keyed(new(writeCall).put(v.Put), v.Put.GetIdempotencyKey())
	case *raftkvv1.ExecOperation_Delete:
		o.key = v.Delete.GetKey()
		r = x.service.keyed(new(writeCall).remove(v.Delete), v.Delete.GetIdempotencyKey())
	case *raftkvv1.ExecOperation_Batch:
		o.batch = newBatch(v.Batch, o.deadline, func() { o.done(raftnode.Result{}) })
		o.batch.trace = o.span.context()
		o.batch.submit(x.service)
		return
	case *raftkvv1.ExecOperation_Txn:
		o.txn = v.Txn
		r = x.service.keyed(txnCall(v.Txn), v.Txn.GetIdempotencyKey())
	}
	r.Deadline, r.Trace = o.deadline, o.span.context()
	r.Done = o.done
	x.service.node.Submit(r)
}

// done takes the result. The node calls it: it neither blocks nor calls the node.
func (o *execOperation) done(r raftnode.Result) {
	x := o.x
	o.result, o.finished = r, time.Now()
	x.mu.Lock()
	if x.abandoned {
		x.mu.Unlock()
		o.span.end(unsent)
		return
	}
	switch {
	case o.op == opGet:
		x.recharge(o)
	case o.shows > 0:
		x.settle(o)
	}
	x.finished = append(x.finished, o)
	first := len(x.finished) == 1
	x.mu.Unlock()
	if first {
		signal(x.wake)
	}
}

// recharge charges a read what it really brought. A read that no longer fits is answered with an error instead: that
// happens while values are larger than those before, and keeps memory bounded even then. Called under mu.
func (x *execution) recharge(o *execOperation) {
	if o.refused != nil {
		return
	}
	actual := chargeBase + o.readBytes()
	x.readCharge = max(actual, x.readCharge-x.readCharge/64)
	others := x.inFlightBytes - o.charge
	switch limit := x.service.limits.StreamBytes; {
	case actual < o.charge:
		x.service.budget.give(o.charge - actual)
	case actual == o.charge:
		return
	case others > 0 && others+actual > limit:
		o.result = raftnode.Result{Err: &raftnode.OverloadedError{
			Field: "stream bytes in flight", Limit: limit, Actual: others + actual, RetryAfter: 5 * time.Millisecond,
		}}
		return
	default:
		if err := x.service.budget.take(actual - o.charge); err != nil {
			o.result = raftnode.Result{Err: err}
			return
		}
	}
	x.inFlightBytes = others + actual
	o.charge = actual
}

// shownMax is about how much a write shows at most; the node leaves out what is more.
const shownMax = 4 << 20

// shown is how many bytes a write may show of what it reads and replaces. It cannot be refused once the write is applied, so there must be room before.
func shown(m *raftkvv1.ExecOperation, valueBytes uint64) uint64 {
	n := 0
	switch o := m.GetOperation().(type) {
	case *raftkvv1.ExecOperation_Put:
		if o.Put.GetPrevKv() {
			n = 1
		}
	case *raftkvv1.ExecOperation_Delete:
		if o.Delete.GetPrevKv() {
			n = 1
		}
	case *raftkvv1.ExecOperation_Txn:
		n = max(txnShows(o.Txn.GetThen()), txnShows(o.Txn.GetElse()))
	}
	return min(uint64(n)*valueBytes, max(shownMax, valueBytes))
}

// settle charges what a write really shows. Called under mu.
func (x *execution) settle(o *execOperation) {
	n := min(o.readBytes(), o.shows)
	x.service.budget.give(o.shows - n)
	x.inFlightBytes -= o.shows - n
	o.charge -= o.shows - n
}

// readBytes is what the records in the result hold.
func (o *execOperation) readBytes() (n uint64) {
	for _, k := range o.result.Read.GetRecords() {
		n += uint64(len(k.GetKey()) + len(k.GetRecord().GetValue()))
	}
	return n
}

// end stops the admission of operations; the first reason counts.
func (x *execution) end(err error) {
	x.mu.Lock()
	if !x.ended {
		x.ended, x.endErr = true, err
	}
	x.mu.Unlock()
	signal(x.wake)
}

// signal leaves a token if there is none.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
