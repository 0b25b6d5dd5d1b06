package raftkv

import (
	"sync"
	"sync/atomic"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// States of an op on its way through a lane. queued → sent is taken by the lane, queued → abandoned by the caller:
// whoever swaps first decides whether the attempt may have been executed.
const (
	opQueued uint32 = iota
	opSent
	opAbandoned
)

// op is one operation and the slot in which its caller waits. It is pooled with the messages that carry it, so an
// operation costs no allocation of its own on the way out.
//
// The caller owns it but between lane.exec and the signal on done, when the lane does. A caller that stops waiting
// leaves it to the lane and to the garbage collector, never to the pool.
type op struct {
	wire   raftkvv1.ExecOperation
	get    struct{ raftkvv1.ExecOperation_Get }
	put    struct{ raftkvv1.ExecOperation_Put }
	delete struct{ raftkvv1.ExecOperation_Delete }
	batch  struct{ raftkvv1.ExecOperation_Batch }
	txn    struct{ raftkvv1.ExecOperation_Txn }

	getRequest    raftkvv1.GetRequest
	putRequest    raftkvv1.PutRequest
	deleteRequest raftkvv1.DeleteRequest
	batchRequest  raftkvv1.BatchRequest
	txnRequest    raftkvv1.TxnRequest
	id            raftkvv1.RequestId

	// observation is nil if nobody looks at the call.
	observation *observation

	name  string // of the call, for errors
	key   string // the key that routes it
	slot  placement.Slot
	write bool
	// spread: any replica may serve it, and they do so in turn.
	spread bool
	bytes  int
	// value is the op's own copy: it may still be read when the call has returned.
	value []byte
	// until is when the call ends; bounded says that the context of the caller ends it then.
	until    time.Time
	patience time.Duration // from the start of the call to its end
	bounded  bool
	// attempt is how long the attempt may take and deadline when it ends, at the tick of timer; last says that the call ends then, too.
	attempt  time.Duration
	deadline time.Time
	last     bool
	timer    *time.Timer
	// flight is the call of Async that o is of, while its first attempt is under way; alarm is then its timer.
	flight *flight
	alarm  *time.Timer

	state atomic.Uint32
	done  chan struct{} // one signal for each attempt that the lane took; buffered, so the lane never waits
	// result and failure are set before the signal on done; exactly one is.
	result  *raftkvv1.ExecResult
	failure *failure
	// lost: an attempt may have been applied or may still be. left: the lane may still use the op.
	lost, left bool

	// The links of session; its mutex guards them.
	session      *session
	older, newer *op
	// place is what takes the place of o in its session, when nobody knows what came of it.
	place *op
}

// valueKeptMax is the largest value buffer that stays with a pooled op.
const valueKeptMax = 64 << 10

// opOverheadBytes is what an operation takes in a message besides keys and values, at most.
const opOverheadBytes = 96

var ops = sync.Pool{New: func() any {
	o := &op{done: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	o.timer.Stop()
	o.get.Get, o.put.Put, o.delete.Delete, o.batch.Batch, o.txn.Txn = &o.getRequest, &o.putRequest, &o.deleteRequest, &o.batchRequest, &o.txnRequest
	o.putRequest.RequestId, o.deleteRequest.RequestId, o.batchRequest.RequestId, o.txnRequest.RequestId = &o.id, &o.id, &o.id, &o.id
	return o
}}

func newOp(name, key string) *op {
	o := ops.Get().(*op)
	o.name, o.key, o.slot = name, key, placement.SlotOf(key)
	o.bytes = opOverheadBytes + len(key)
	return o
}

// release gives o back, unless a lane may still use it.
func (o *op) release() {
	o.timer.Stop()
	if o.left {
		return
	}
	o.wire.Operation, o.wire.Traceparent, o.observation = nil, "", nil
	o.getRequest.Key, o.putRequest.Key, o.deleteRequest.Key = "", "", ""
	o.getRequest.Consistency, o.getRequest.MaxStalenessMs, o.getRequest.Token = 0, 0, ""
	o.putRequest.Value, o.batchRequest.Operations = nil, nil
	o.putRequest.Condition, o.deleteRequest.Condition = nil, nil
	o.putRequest.TtlMs, o.putRequest.LeaseId = 0, 0
	o.txnRequest.Compare, o.txnRequest.Then, o.txnRequest.Else = nil, nil, nil
	o.key, o.name, o.result, o.failure, o.flight = "", "", nil, nil, nil
	o.write, o.lost, o.place = false, false, nil
	o.bounded, o.last, o.spread = false, false, false
	if cap(o.value) > valueKeptMax {
		o.value = nil
	}
	ops.Put(o)
}

func (o *op) setGet(revision uint64) {
	o.getRequest.Key, o.getRequest.Revision = o.key, revision
	o.wire.Operation = &o.get.ExecOperation_Get
}

func (o *op) setPut(value []byte, condition *raftkvv1.Condition, previous bool) {
	o.value = append(o.value[:0], value...)
	o.putRequest.Key, o.putRequest.Value, o.putRequest.Condition, o.putRequest.PrevKv = o.key, o.value, condition, previous
	o.wire.Operation = &o.put.ExecOperation_Put
	o.bytes += len(value)
	o.write = true
}

func (o *op) setDelete(condition *raftkvv1.Condition, previous bool) {
	o.deleteRequest.Key, o.deleteRequest.Condition, o.deleteRequest.PrevKv = o.key, condition, previous
	o.wire.Operation = &o.delete.ExecOperation_Delete
	o.write = true
}

// room makes o.value empty, with room for size bytes: it must not grow when values have been kept in it, so that they do not move.
func (o *op) room(size int) {
	o.value = o.value[:0]
	if cap(o.value) < size {
		o.value = make([]byte, 0, size)
	}
}

// keep copies a value into the room.
func (o *op) keep(value []byte) []byte {
	from := len(o.value)
	o.value = append(o.value, value...)
	return o.value[from:len(o.value):len(o.value)]
}

func (o *op) setBatch(operations []Op) {
	size := 0
	for _, w := range operations {
		size += len(w.value)
		o.bytes += opOverheadBytes + len(w.key) + len(w.value)
	}
	o.room(size)
	o.batchRequest.Operations = make([]*raftkvv1.BatchOperation, len(operations))
	for i, w := range operations {
		if w.kind == opDeletes {
			o.batchRequest.Operations[i] = &raftkvv1.BatchOperation{Operation: &raftkvv1.BatchOperation_Delete_{
				Delete: &raftkvv1.BatchOperation_Delete{Key: w.key},
			}}
			continue
		}
		o.batchRequest.Operations[i] = &raftkvv1.BatchOperation{Operation: &raftkvv1.BatchOperation_Put_{
			Put: o.batchPut(&w),
		}}
	}
	o.wire.Operation = &o.batch.ExecOperation_Batch
	o.write = true
}

func (o *op) batchPut(w *Op) *raftkvv1.BatchOperation_Put {
	p := &raftkvv1.BatchOperation_Put{Key: w.key, Value: o.keep(w.value)}
	p.TtlMs, p.LeaseId = w.life.must()
	return p
}

// take gives o to the lane; false if the caller has left.
func (o *op) take() bool { return o.state.CompareAndSwap(opQueued, opSent) }

// finish hands the answer to the caller. Only the lane that took o calls it, once.
func (o *op) finish(result *raftkvv1.ExecResult, f *failure) {
	if o.flight != nil {
		o.flight.landed(result, f)
		return
	}
	o.result, o.failure = result, f
	o.done <- struct{}{}
}
