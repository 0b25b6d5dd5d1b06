package service

import (
	"context"
	"fmt"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// kv has the unary methods of KvService. Every protocol calls them; their errors are *failure.
type kv struct{ *Service }

// Get returns one key.
func (s kv) Get(ctx context.Context, req *raftkvv1.GetRequest) (*raftkvv1.GetResponse, error) {
	return invoke(ctx, s.Service, opGet, req, s.get)
}

// Put writes one key.
func (s kv) Put(ctx context.Context, req *raftkvv1.PutRequest) (*raftkvv1.PutResponse, error) {
	return invoke(ctx, s.Service, opPut, req, s.put)
}

// Delete removes one key.
func (s kv) Delete(ctx context.Context, req *raftkvv1.DeleteRequest) (*raftkvv1.DeleteResponse, error) {
	return invoke(ctx, s.Service, opDelete, req, s.delete)
}

// List returns one page of a range.
func (s kv) List(ctx context.Context, req *raftkvv1.ListRequest) (*raftkvv1.ListResponse, error) {
	return invoke(ctx, s.Service, opList, req, s.list)
}

// Batch applies puts and deletes.
func (s kv) Batch(ctx context.Context, req *raftkvv1.BatchRequest) (*raftkvv1.BatchResponse, error) {
	return invoke(ctx, s.Service, opBatch, req, s.batch)
}

// Txn compares keys and does one thing or another.
func (s kv) Txn(ctx context.Context, req *raftkvv1.TxnRequest) (*raftkvv1.TxnResponse, error) {
	return invoke(ctx, s.Service, opTxn, req, s.txn)
}

func (s *Service) get(ctx context.Context, req *raftkvv1.GetRequest) (*raftkvv1.GetResponse, error) {
	stale, err := s.staleRead(req.GetConsistency(), req.GetMaxStalenessMs(), req.GetToken())
	if err != nil {
		return nil, err
	}
	res := s.do(ctx, new(readCall).prepare(req, stale))
	answer := new(getAnswer)
	if err := answer.fill(s, req.GetKey(), &res); err != nil {
		return nil, err
	}
	tellOne(&answer.header)
	return &answer.response, nil
}

func (s *Service) put(ctx context.Context, req *raftkvv1.PutRequest) (*raftkvv1.PutResponse, error) {
	res := s.do(ctx, s.keyed(new(writeCall).put(req), req.GetIdempotencyKey()))
	answer := new(putAnswer)
	if err := answer.fill(s, req.GetKey(), &res); err != nil {
		return nil, err
	}
	tellOne(&answer.header)
	return &answer.response, nil
}

func (s *Service) delete(ctx context.Context, req *raftkvv1.DeleteRequest) (*raftkvv1.DeleteResponse, error) {
	res := s.do(ctx, s.keyed(new(writeCall).remove(req), req.GetIdempotencyKey()))
	answer := new(deleteAnswer)
	if err := answer.fill(s, req.GetKey(), &res); err != nil {
		return nil, err
	}
	tellOne(&answer.header)
	return &answer.response, nil
}

// do executes a request and waits for it.
func (s *Service) do(ctx context.Context, r *raftnode.Request) raftnode.Result {
	span := s.tracing.spanOf(ctx)
	r.Deadline, r.Trace, r.Timed = workUntil(ctx), span.context(), r.Command != nil && timesWrites(ctx)
	res := s.node.Do(ctx, r)
	span.timed(res.Timing)
	tellTiming(ctx, res.Timing)
	return res
}

// An answer is a response and what it points to, in one allocation. fill sets every field, so Exec can use one again.
type (
	getAnswer struct {
		response raftkvv1.GetResponse
		header   raftkvv1.ResponseHeader
		kv       raftkvv1.KeyValue
	}
	putAnswer struct {
		response raftkvv1.PutResponse
		header   raftkvv1.ResponseHeader
	}
	deleteAnswer struct {
		response raftkvv1.DeleteResponse
		header   raftkvv1.ResponseHeader
	}
)

func (a *getAnswer) fill(s *Service, key string, r *raftnode.Result) error {
	record, err := singleRecord(r)
	if err != nil {
		return err
	}
	if record == nil {
		return &keyNotFoundError{key: key, revision: r.Origin.GetRevision(), shard: uint32(r.Shard), origin: r.Origin}
	}
	s.fillHeader(&a.header, uint32(r.Shard), r.Origin, r.Origin.GetRevision())
	fillKeyValue(&a.kv, r.Read.GetRecords()[0], record)
	a.kv.Key = key
	a.response.Header, a.response.Kv = &a.header, &a.kv
	return nil
}

func (a *putAnswer) fill(s *Service, key string, r *raftnode.Result) error {
	op, err := conditionalOperation(key, r)
	if err != nil {
		return err
	}
	s.fillWriteHeader(&a.header, r)
	a.response.Header = &a.header
	a.response.CreateRevision = op.GetCreateRevision()
	a.response.Version = op.GetVersion()
	a.response.PrevKv = previousAnswer(r)
	return nil
}

func (a *deleteAnswer) fill(s *Service, key string, r *raftnode.Result) error {
	op, err := conditionalOperation(key, r)
	if err != nil {
		return err
	}
	s.fillWriteHeader(&a.header, r)
	a.response.Header = &a.header
	a.response.Deleted = op.GetExisted()
	a.response.PrevKv = previousAnswer(r)
	return nil
}

// previousAnswer is what a write of one key has replaced; nil if that was not asked for, or nothing was there.
func previousAnswer(r *raftnode.Result) *raftkvv1.KeyValue {
	if len(r.Read.GetRecords()) != 1 {
		return nil
	}
	return previousKeyValue(r.Read.GetRecords()[0])
}

// singleRecord is the record that a read of one key found; nil if the key does not exist.
func singleRecord(r *raftnode.Result) (*storev1.Record, error) {
	if r.Err != nil {
		return nil, r.Err
	}
	if n := len(r.Read.GetRecords()); n != 1 {
		return nil, fmt.Errorf("a read of one key returned %d records", n)
	}
	return liveRecord(r.Read.GetRecords()[0]), nil
}

// liveRecord is the record of a key that exists; nil if it does not.
func liveRecord(k *peerv1.KeyRecord) *storev1.Record {
	if k.GetRecord() == nil || k.GetRecord().GetTombstone() {
		return nil
	}
	return k.GetRecord()
}

// conditionalOperation is the result of a write of a key under a condition, if any.
func conditionalOperation(key string, r *raftnode.Result) (*storev1.OperationResult, error) {
	if r.Err == nil && r.Write.GetOutcome() == storev1.WriteOutcome_WRITE_OUTCOME_COMPARE_FAILED {
		return nil, &preconditionError{
			key: key, current: r.Write.GetFailedModRevision(), revision: r.Write.GetRevision(), shard: uint32(r.Shard),
			replayed: r.Write.GetReplayed(),
		}
	}
	return singleOperation(r)
}

// singleOperation is the result of the only operation of a write.
func singleOperation(r *raftnode.Result) (*storev1.OperationResult, error) {
	if err := writeFailed(r, 1); err != nil {
		return nil, err
	}
	return r.Write.GetOperations()[0], nil
}

// writeFailed is why a write of n operations failed; nil if it did not.
func writeFailed(r *raftnode.Result, n int) error {
	if r.Err != nil {
		return r.Err
	}
	if r.Write.GetOutcome() != storev1.WriteOutcome_WRITE_OUTCOME_APPLIED || len(r.Write.GetOperations()) != n {
		return fmt.Errorf("a write of %d operations returned %s with %d results", n, r.Write.GetOutcome(), len(r.Write.GetOperations()))
	}
	return nil
}

func fillKeyValue(kv *raftkvv1.KeyValue, k *peerv1.KeyRecord, r *storev1.Record) {
	kv.Key = k.GetKey()
	kv.Value = r.GetValue()
	kv.CreateRevision = r.GetCreateRevision()
	kv.ModRevision = r.GetModRevision()
	kv.Version = r.GetVersion()
	kv.TtlRemainingMs = k.GetRemainingMs()
	kv.LeaseId = r.GetLease()
}
