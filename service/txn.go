package service

import (
	"context"
	"fmt"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// txn executes a transaction.
func (s *Service) txn(ctx context.Context, req *raftkvv1.TxnRequest) (*raftkvv1.TxnResponse, error) {
	res := s.do(ctx, txnCall(req))
	answer, err := s.txnResponse(req, &res)
	if err == nil {
		tellOne(answer.Header)
	}
	return answer, err
}

// txnCall is the request of a Txn that has passed the rules; Deadline and Done are left to the caller.
func txnCall(m *raftkvv1.TxnRequest) *raftnode.Request {
	call := new(writeCall)
	r := call.prepare(storev1.OperationKind_OPERATION_KIND_UNSPECIFIED, "", nil, m.GetRequestId())
	call.write.Operations, call.write.Otherwise = txnOperations(m.GetThen()), txnOperations(m.GetElse())
	for _, c := range m.GetCompare() {
		call.write.Compares = append(call.write.Compares, txnCompare(c))
	}
	r.After = func(w *storev1.WriteResult) []*peerv1.PastRead { return txnReads(txnDone(m, w), w) }
	return r
}

func txnCompare(m *raftkvv1.Compare) *storev1.Compare {
	c := &storev1.Compare{Key: m.GetKey()}
	switch is := m.GetCondition().(type) {
	case *raftkvv1.Compare_Exists:
		c.Condition = &storev1.Compare_Exists{Exists: is.Exists}
	case *raftkvv1.Compare_ModRevision:
		c.Condition = &storev1.Compare_ModRevision{ModRevision: is.ModRevision}
	case *raftkvv1.Compare_Value:
		c.Condition = &storev1.Compare_Value{Value: is.Value}
	}
	return c
}

func txnOperations(ms []*raftkvv1.TxnOperation) []*storev1.Operation {
	out := make([]*storev1.Operation, len(ms))
	for i, m := range ms {
		switch o := m.GetOperation().(type) {
		case *raftkvv1.TxnOperation_Get_:
			out[i] = &storev1.Operation{Kind: storev1.OperationKind_OPERATION_KIND_GET, Key: o.Get.GetKey()}
		case *raftkvv1.TxnOperation_Put_:
			out[i] = &storev1.Operation{
				Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: o.Put.GetKey(), Value: o.Put.GetValue(),
				TtlMs: o.Put.GetTtlMs(), Lease: o.Put.GetLeaseId(),
			}
		case *raftkvv1.TxnOperation_Delete_:
			out[i] = &storev1.Operation{Kind: storev1.OperationKind_OPERATION_KIND_DELETE, Key: o.Delete.GetKey()}
		}
	}
	return out
}

// txnDone are the operations that were done.
func txnDone(m *raftkvv1.TxnRequest, w *storev1.WriteResult) []*raftkvv1.TxnOperation {
	if w.GetOutcome() == storev1.WriteOutcome_WRITE_OUTCOME_COMPARE_FAILED {
		return m.GetElse()
	}
	return m.GetThen()
}

// txnReads are the keys that the answer shows: what was read, as of the revision of the result, and what was replaced, as of the one before it.
func txnReads(done []*raftkvv1.TxnOperation, w *storev1.WriteResult) []*peerv1.PastRead {
	if len(done) != len(w.GetOperations()) {
		return nil // txnResponse says so.
	}
	var reads []*peerv1.PastRead
	for i, m := range done {
		switch o := m.GetOperation().(type) {
		case *raftkvv1.TxnOperation_Get_:
			reads = append(reads, &peerv1.PastRead{Key: o.Get.GetKey(), Revision: w.GetRevision()})
		case *raftkvv1.TxnOperation_Put_:
			reads = appendPrevious(reads, o.Put.GetPrevKv(), o.Put.GetKey(), w, i)
		case *raftkvv1.TxnOperation_Delete_:
			reads = appendPrevious(reads, o.Delete.GetPrevKv(), o.Delete.GetKey(), w, i)
		}
	}
	return reads
}

// txnShows is how many keys the answer of operations shows at most.
func txnShows(ops []*raftkvv1.TxnOperation) (n int) {
	for _, m := range ops {
		if m.GetGet() != nil || m.GetPut().GetPrevKv() || m.GetDelete().GetPrevKv() {
			n++
		}
	}
	return n
}

// appendPrevious adds the read of what operation i has replaced, if that is wanted and there was something: the write has made a revision then.
func appendPrevious(reads []*peerv1.PastRead, wanted bool, key string, w *storev1.WriteResult, i int) []*peerv1.PastRead {
	if !wanted || !w.GetOperations()[i].GetExisted() {
		return reads
	}
	return append(reads, &peerv1.PastRead{Key: key, Revision: w.GetRevision() - 1})
}

// previousOf is the After of a write of one key that is to show what it has replaced.
func previousOf(key string) func(*storev1.WriteResult) []*peerv1.PastRead {
	return func(w *storev1.WriteResult) []*peerv1.PastRead {
		if len(w.GetOperations()) != 1 { // its condition did not hold
			return nil
		}
		return appendPrevious(nil, true, key, w, 0)
	}
}

func (s *Service) txnResponse(m *raftkvv1.TxnRequest, r *raftnode.Result) (*raftkvv1.TxnResponse, error) {
	if r.Err != nil {
		return nil, r.Err
	}
	w, done := r.Write, txnDone(m, r.Write)
	if len(done) != len(w.GetOperations()) || len(r.Read.GetRecords()) != len(txnReads(done, w)) {
		return nil, fmt.Errorf("a transaction of %d operations returned %s with %d results and %d records",
			len(done), w.GetOutcome(), len(w.GetOperations()), len(r.Read.GetRecords()))
	}
	res := &raftkvv1.TxnResponse{
		Header: s.writeHeader(r), Succeeded: w.GetOutcome() == storev1.WriteOutcome_WRITE_OUTCOME_APPLIED,
		Results: make([]*raftkvv1.TxnResult, len(done)),
	}
	if !res.Succeeded {
		res.Failed = &raftkvv1.FailedCompare{Index: w.GetFailedCompare(), Current: w.GetFailedModRevision()}
	}
	records := r.Read.GetRecords()
	next := func(there bool) (kv *raftkvv1.KeyValue) {
		if !there {
			return nil
		}
		kv, records = previousKeyValue(records[0]), records[1:]
		return kv
	}
	for i, o := range w.GetOperations() {
		res.Results[i] = txnResult(done[i], o, next)
	}
	for _, k := range r.Read.GetRecords() {
		res.ValuesOmitted = res.ValuesOmitted || k.GetOmitted()
	}
	return res, nil
}

// txnResult is the result of one operation. next takes the next record that was read, if there is one for this operation.
func txnResult(m *raftkvv1.TxnOperation, o *storev1.OperationResult, next func(bool) *raftkvv1.KeyValue) *raftkvv1.TxnResult {
	switch is := m.GetOperation().(type) {
	case *raftkvv1.TxnOperation_Get_:
		return &raftkvv1.TxnResult{Result: &raftkvv1.TxnResult_Get_{Get: &raftkvv1.TxnResult_Get{Kv: next(true)}}}
	case *raftkvv1.TxnOperation_Put_:
		return &raftkvv1.TxnResult{Result: &raftkvv1.TxnResult_Put_{Put: &raftkvv1.TxnResult_Put{
			CreateRevision: o.GetCreateRevision(), Version: o.GetVersion(), PrevKv: next(is.Put.GetPrevKv() && o.GetExisted()),
		}}}
	default:
		return &raftkvv1.TxnResult{Result: &raftkvv1.TxnResult_Delete_{Delete: &raftkvv1.TxnResult_Delete{
			Deleted: o.GetExisted(), PrevKv: next(m.GetDelete().GetPrevKv() && o.GetExisted()),
		}}}
	}
}

// previousKeyValue is a key as a read of the past shows it; nil if it did not exist, without revisions if that is forgotten.
func previousKeyValue(k *peerv1.KeyRecord) *raftkvv1.KeyValue {
	r := liveRecord(k)
	if r == nil && !k.GetOmitted() {
		return nil
	}
	kv := new(raftkvv1.KeyValue)
	fillKeyValue(kv, k, r)
	return kv
}
