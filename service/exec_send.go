package service

import (
	"context"
	"errors"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// execSender makes responses out of finished operations. Only the sender's goroutine uses it; its messages are used again
// once Send, which marshals, has returned.
type execSender struct {
	x        *execution
	response raftkvv1.ExecResponse
	results  pool[execResult]
	bytes    int
	sent     execCount
	// spans end when the response has been sent.
	spans []sentSpan
}

type sentSpan struct {
	span    *span
	failure *failure
}

// execCount is what operations take of the bounds of their stream.
type execCount struct{ units, charge, writes uint64 }

// execResult is a result with all that it can point to, in one allocation that is used again.
type execResult struct {
	message raftkvv1.ExecResult
	getBox  raftkvv1.ExecResult_Get
	putBox  raftkvv1.ExecResult_Put
	delBox  raftkvv1.ExecResult_Delete
	get     getAnswer
	put     putAnswer
	del     deleteAnswer
}

// pool hands out items that are all taken back at once.
type pool[T any] struct {
	items []*T
	used  int
}

func (p *pool[T]) take() *T {
	if p.used == len(p.items) {
		p.items = append(p.items, new(T))
	}
	p.used++
	return p.items[p.used-1]
}

// send sends results until nothing more will come, and returns why.
func (x *execution) send() (err error) {
	out := &execSender{x: x}
	var spare []*execOperation
	defer func() {
		if p := recover(); p != nil {
			err = x.service.panicked(x.ctx, "exec", p)
		}
		endUnsent(spare)
		endUnsent(x.abandon())
		out.endSpans(unsent)
	}()
	draining := x.service.draining
	for {
		select {
		case <-x.wake:
		case <-draining:
			x.end(raftnode.ErrStopped)
			draining = nil
		case <-x.ctx.Done():
			return x.ctx.Err()
		}
		spare = x.take(spare)
		for _, o := range spare {
			if err := out.add(o); err != nil {
				return err
			}
		}
		if err := out.flush(); err != nil {
			return err
		}
		clear(spare)
		if done, err := x.complete(); done {
			return err
		}
	}
}

// take takes the finished operations off the list, and leaves spare in its place.
func (x *execution) take(spare []*execOperation) []*execOperation {
	x.mu.Lock()
	defer x.mu.Unlock()
	finished := x.finished
	x.finished = spare[:0]
	return finished
}

// complete says whether everything has been answered and nothing more will come. After a panic, something may never be answered.
func (x *execution) complete() (bool, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.ended && (x.inFlight == 0 || errors.Is(x.endErr, errPanic)), x.endErr
}

// release gives the room of sent results back.
func (x *execution) release(sent execCount) {
	x.mu.Lock()
	x.inFlight -= sent.units
	x.inFlightBytes -= sent.charge
	x.writes -= sent.writes
	x.mu.Unlock()
	x.service.budget.give(sent.charge)
	signal(x.room)
}

// abandon lets go of all results, those to come included. It returns those that have come.
func (x *execution) abandon() []*execOperation {
	x.mu.Lock()
	finished := x.finished
	x.abandoned, x.finished = true, nil
	charge := x.inFlightBytes
	x.inFlightBytes = 0
	x.mu.Unlock()
	x.service.budget.give(charge)
	return finished
}

// unsent is what has failed where a stream has ended before an operation was answered.
var unsent = failureOf(context.Canceled)

// endUnsent ends the spans of operations that were not added to a response.
func endUnsent(ops []*execOperation) {
	for _, o := range ops {
		if o != nil {
			o.span.end(unsent)
		}
	}
}

// add puts a result into the response, and sends the response when it is full.
func (s *execSender) add(o *execOperation) error {
	r := s.results.take()
	size, f := r.fill(s.x.service, o)
	now, code := time.Now(), codeOK
	if f != nil {
		code = f.code
	}
	ctx := s.x.ctx
	if o.span != nil {
		o.span.timed(o.timing())
		s.spans = append(s.spans, sentSpan{o.span, f})
		ctx = o.span.in(ctx)
		o.span = nil // It ends with the response.
	}
	s.x.service.finished(ctx, o.op, code, now.Sub(o.start), &stages{stageNode: o.finished.Sub(o.start), stageSend: now.Sub(o.finished)}, o.key)
	s.response.Results = append(s.response.Results, &r.message)
	s.bytes += size
	s.sent.units += o.units
	s.sent.charge += o.charge
	s.sent.writes += o.writes()
	if s.bytes >= execResponseBytes || len(s.response.Results) >= execResponseResults {
		return s.flush()
	}
	return nil
}

// flush sends the response, if it has results.
func (s *execSender) flush() error {
	if len(s.response.Results) == 0 {
		return nil
	}
	if err := s.x.stream.Send(&s.response); err != nil {
		return err
	}
	s.endSpans(nil)
	for _, r := range s.results.items[:s.results.used] {
		r.message.Result, r.get.kv.Value = nil, nil // hold no value beyond its time
		r.put.response.PrevKv, r.del.response.PrevKv = nil, nil
	}
	s.response.Results, s.results.used, s.bytes = s.response.Results[:0], 0, 0
	s.x.release(s.sent)
	s.sent = execCount{}
	return nil
}

// endSpans ends the spans of what is in the response, with what has failed for all of it; nil if it was sent.
func (s *execSender) endSpans(failed *failure) {
	for _, e := range s.spans {
		if failed != nil {
			e.failure = failed
		}
		e.span.end(e.failure)
	}
	clear(s.spans)
	s.spans = s.spans[:0]
}

// timing is what the node says of the operation; nil if it says nothing.
func (o *execOperation) timing() *raftnode.Timing {
	if o.batch != nil {
		return o.batch.results[0].Timing
	}
	return o.result.Timing
}

// fill makes the result of an operation. It returns about how many bytes it takes, and why it failed; nil if it did not.
func (r *execResult) fill(s *Service, o *execOperation) (size int, failed *failure) {
	const overhead = 128 // header and tags
	r.message.Id = o.id
	var err error
	switch {
	case o.batch != nil:
		var m *raftkvv1.BatchResponse
		if m, err = o.batch.response(o.x.ctx, s); err == nil {
			r.message.Result = &raftkvv1.ExecResult_Batch{Batch: m}
			return overhead + m.SizeVT(), nil
		}
	case o.txn != nil:
		var m *raftkvv1.TxnResponse
		if m, err = s.txnResponse(o.txn, &o.result); err == nil {
			r.message.Result = &raftkvv1.ExecResult_Txn{Txn: m}
			return overhead + m.SizeVT(), nil
		}
	case o.result.Err != nil:
		err = o.result.Err
	case o.op == opGet:
		if err = r.get.fill(s, o.key, &o.result); err == nil {
			r.getBox.Get = &r.get.response
			r.message.Result = &r.getBox
			return overhead + len(o.key) + len(r.get.kv.Value), nil
		}
	case o.op == opPut:
		if err = r.put.fill(s, o.key, &o.result); err == nil {
			r.putBox.Put = &r.put.response
			r.message.Result = &r.putBox
			return overhead + len(r.put.response.GetPrevKv().GetValue()), nil
		}
	default:
		if err = r.del.fill(s, o.key, &o.result); err == nil {
			r.delBox.Delete = &r.del.response
			r.message.Result = &r.delBox
			return overhead + len(r.del.response.GetPrevKv().GetValue()), nil
		}
	}
	f := s.fail(o.x.ctx, o.op, err, !time.Now().Before(o.deadline))
	st := f.status()
	r.message.Result = &raftkvv1.ExecResult_Error{Error: st}
	return overhead + len(st.GetMessage()), f
}
