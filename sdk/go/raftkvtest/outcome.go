package raftkvtest

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// GetOutcome says what came of a write, and fences one that has not been applied.
func (k *kvService) GetOutcome(_ context.Context, r *raftkvv1.GetOutcomeRequest) (*raftkvv1.GetOutcomeResponse, error) {
	c := k.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	s, id := c.slots[placement.SlotOf(r.GetKey())], r.GetRequestId()
	if e := c.leads(k.index, s); e != nil {
		return nil, e.rpc()
	}
	response := &raftkvv1.GetOutcomeResponse{Header: c.header(s), Revision: s.revision}
	name := fmt.Sprintf("%x/%d", id.GetClientId(), id.GetSequence())
	if kept, ok := s.results[name]; ok {
		kept.outcome(response)
		return response, nil
	}
	if id.GetSeen() < s.floor || id.GetSequence() < s.acked[string(id.GetClientId())] {
		response.Outcome = raftkvv1.Outcome_OUTCOME_FORGOTTEN
		return response, nil
	}
	s.results[name] = answer{nil, requestFenced(s)}
	response.Outcome = raftkvv1.Outcome_OUTCOME_NOT_APPLIED
	return response, nil
}

// outcome tells a kept answer.
func (a answer) outcome(r *raftkvv1.GetOutcomeResponse) {
	r.Outcome = raftkvv1.Outcome_OUTCOME_APPLIED
	if a.err != nil {
		r.Outcome = raftkvv1.Outcome_OUTCOME_NOT_APPLIED
		if d, ok := a.err.details[0].(*raftkvv1.PreconditionFailed); ok {
			r.Outcome, r.Revision, r.Failed = raftkvv1.Outcome_OUTCOME_CONDITION_FAILED, d.GetRevision(), &raftkvv1.FailedCompare{Current: d.GetCurrent()}
		}
		return
	}
	switch is := a.result.GetResult().(type) {
	case *raftkvv1.ExecResult_Put:
		r.Revision = is.Put.GetHeader().GetRevision()
	case *raftkvv1.ExecResult_Delete:
		r.Revision = is.Delete.GetHeader().GetRevision()
	case *raftkvv1.ExecResult_Batch:
		r.Revision = is.Batch.GetHeader().GetRevision()
	case *raftkvv1.ExecResult_Txn:
		r.Revision, r.Failed = is.Txn.GetHeader().GetRevision(), is.Txn.GetFailed()
		if !is.Txn.GetSucceeded() {
			r.Outcome = raftkvv1.Outcome_OUTCOME_CONDITION_FAILED
		}
	}
}

func requestFenced(s *shard) *Error { return Fenced(s.id) }

// Fenced refuses a write because somebody was told that it is not applied.
func Fenced(shard placement.ShardID) *Error {
	return &Error{
		code: connect.CodeFailedPrecondition, reason: "REQUEST_FENCED", message: "the request was fenced", decided: true,
		details: []proto.Message{&raftkvv1.RequestFenced{Shard: uint32(shard)}},
	}
}
