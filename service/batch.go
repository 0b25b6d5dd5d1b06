package service

import (
	"context"
	"sync"
	"time"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// batch executes a batch and waits for it.
func (s *Service) batch(ctx context.Context, req *raftkvv1.BatchRequest) (*raftkvv1.BatchResponse, error) {
	done := make(chan struct{})
	call, span := newBatch(req, workUntil(ctx), func() { close(done) }), s.tracing.spanOf(ctx)
	call.trace, call.timed = span.context(), timesWrites(ctx)
	call.submit(s)
	select {
	case <-done:
	case <-ctx.Done():
		call.abandon(ctx.Err())
	}
	span.timed(call.results[0].Timing)
	if call.atomic {
		tellTiming(ctx, call.results[0].Timing)
	}
	res, err := call.response(ctx, s)
	if err == nil && call.atomic {
		tellOne(res.Header)
	}
	return res, err
}

// batchCall is a batch under way: one request to the node if it is atomic, else one for each write.
type batchCall struct {
	request  *raftkvv1.BatchRequest
	atomic   bool
	deadline time.Time
	trace    *storev1.TraceContext // for the requests; nil if the batch is not sampled
	timed    bool
	// done is called once, when all results are there, perhaps from a goroutine of the node.
	done func()

	// mu guards what follows until done has been called or abandon has returned.
	mu       sync.Mutex
	results  []raftnode.Result
	answered []bool
	missing  int
}

// newBatch prepares a batch that has passed the rules.
func newBatch(req *raftkvv1.BatchRequest, deadline time.Time, done func()) *batchCall {
	call := &batchCall{request: req, atomic: req.Atomic == nil || req.GetAtomic(), deadline: deadline, done: done}
	n := 1
	if !call.atomic {
		n = len(req.GetOperations())
	}
	call.results, call.answered, call.missing = make([]raftnode.Result, n), make([]bool, n), n
	return call
}

// submit gives the batch to the node.
func (c *batchCall) submit(s *Service) {
	if c.atomic {
		c.submitOne(s.node, 0, s.keyed(atomicBatch(c.request), c.request.GetIdempotencyKey()))
		return
	}
	for i, op := range c.request.GetOperations() {
		call := new(writeCall)
		r := call.prepare(storev1.OperationKind_OPERATION_KIND_UNSPECIFIED, "", nil, nil)
		batchWrite(&call.operation, op)
		c.submitOne(s.node, i, r)
	}
}

func (c *batchCall) submitOne(n Node, i int, r *raftnode.Request) {
	r.Deadline, r.Trace, r.Timed = c.deadline, c.trace, c.timed
	r.Done = func(res raftnode.Result) { c.finish(i, res) }
	n.Submit(r)
}

// atomicBatch is the one command of an atomic batch.
func atomicBatch(req *raftkvv1.BatchRequest) *raftnode.Request {
	call := new(writeCall)
	r := call.prepare(storev1.OperationKind_OPERATION_KIND_UNSPECIFIED, "", nil, req.GetRequestId())
	operations := make([]storev1.Operation, len(req.GetOperations()))
	call.write.Operations = make([]*storev1.Operation, len(operations))
	for i, op := range req.GetOperations() {
		batchWrite(&operations[i], op)
		call.write.Operations[i] = &operations[i]
	}
	return r
}

// batchWrite fills in what one write of a batch is to the state machine.
func batchWrite(o *storev1.Operation, op *raftkvv1.BatchOperation) {
	if d, ok := op.GetOperation().(*raftkvv1.BatchOperation_Delete_); ok {
		o.Kind, o.Key = storev1.OperationKind_OPERATION_KIND_DELETE, d.Delete.GetKey()
		return
	}
	put := op.GetPut()
	o.Kind, o.Key, o.Value = storev1.OperationKind_OPERATION_KIND_PUT, put.GetKey(), put.GetValue()
	o.TtlMs, o.Lease = put.GetTtlMs(), put.GetLeaseId()
}

// finish takes a result; the node calls it.
func (c *batchCall) finish(i int, r raftnode.Result) {
	c.mu.Lock()
	if c.answered[i] { // abandoned
		c.mu.Unlock()
		return
	}
	c.results[i], c.answered[i] = r, true
	c.missing--
	last := c.missing == 0
	c.mu.Unlock()
	if last {
		c.done()
	}
}

// abandon stops waiting: what has not been answered has an unknown outcome.
func (c *batchCall) abandon(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.results {
		if !c.answered[i] {
			c.answered[i] = true
			c.results[i] = raftnode.Result{Err: &raftnode.UnknownOutcomeError{Cause: cause.Error()}}
		}
	}
}

// response makes the response of a batch whose results are all there. It may ask the node.
func (c *batchCall) response(ctx context.Context, s *Service) (*raftkvv1.BatchResponse, error) {
	operations := c.request.GetOperations()
	if !c.atomic {
		return c.separateResponse(ctx, s), nil
	}
	r := &c.results[0]
	if err := writeFailed(r, len(operations)); err != nil {
		return nil, err
	}
	res := &raftkvv1.BatchResponse{Header: s.writeHeader(r), Results: make([]*raftkvv1.BatchResult, len(operations))}
	for i, o := range r.Write.GetOperations() {
		res.Results[i] = batchResult(operations[i], o, nil)
	}
	return res, nil
}

func (c *batchCall) separateResponse(ctx context.Context, s *Service) *raftkvv1.BatchResponse {
	res := &raftkvv1.BatchResponse{
		Header:  s.nodeHeader(),
		Results: make([]*raftkvv1.BatchResult, len(c.results)),
	}
	for i := range c.results {
		r := &c.results[i]
		o, err := singleOperation(r)
		if err != nil {
			f := s.fail(ctx, opBatch, err, !time.Now().Before(c.deadline))
			res.Results[i] = &raftkvv1.BatchResult{Result: &raftkvv1.BatchResult_Error{Error: f.status()}}
			continue
		}
		res.Results[i] = batchResult(c.request.GetOperations()[i], o, s.writeHeader(r))
	}
	return res
}

// batchResult is the result of one write that was applied.
func batchResult(op *raftkvv1.BatchOperation, o *storev1.OperationResult, h *raftkvv1.ResponseHeader) *raftkvv1.BatchResult {
	if op.GetDelete() != nil {
		return &raftkvv1.BatchResult{Result: &raftkvv1.BatchResult_Delete{
			Delete: &raftkvv1.DeleteResponse{Header: h, Deleted: o.GetExisted()},
		}}
	}
	return &raftkvv1.BatchResult{Result: &raftkvv1.BatchResult_Put{
		Put: &raftkvv1.PutResponse{Header: h, CreateRevision: o.GetCreateRevision(), Version: o.GetVersion()},
	}}
}
