package service

import (
	"context"
	"errors"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// GetOutcome says what came of a write of which the answer was lost.
func (s kv) GetOutcome(ctx context.Context, req *raftkvv1.GetOutcomeRequest) (*raftkvv1.GetOutcomeResponse, error) {
	return invoke(ctx, s.Service, opGetOutcome, req, s.outcome)
}

// outcome asks by a fence, always: the answer that the log gives holds for all attempts, whatever is still under way.
func (s *Service) outcome(ctx context.Context, req *raftkvv1.GetOutcomeRequest) (*raftkvv1.GetOutcomeResponse, error) {
	id := req.GetRequestId()
	res := s.do(ctx, &raftnode.Request{AutoShard: true, Command: &storev1.Command{
		RequestId: &storev1.RequestId{ClientId: id.GetClientId(), Sequence: id.GetSequence(), Seen: id.GetSeen(), AckedBelow: id.GetAckedBelow()},
		Body:      &storev1.Command_Fence{Fence: &storev1.Fence{Slot: uint32(outcomeSlot(req))}},
	}})
	var forgotten *raftnode.SessionExpiredError
	if errors.As(res.Err, &forgotten) {
		h := s.nodeHeader()
		h.Shard, h.Revision = uint32(forgotten.Shard), forgotten.Revision
		return &raftkvv1.GetOutcomeResponse{Header: h, Outcome: raftkvv1.Outcome_OUTCOME_FORGOTTEN}, nil
	}
	if res.Err != nil {
		return nil, res.Err
	}
	w := res.Write
	answer := &raftkvv1.GetOutcomeResponse{Header: s.writeHeader(&res), Revision: w.GetRevision(), LeaseId: w.GetLeaseId()}
	switch w.GetOutcome() {
	case storev1.WriteOutcome_WRITE_OUTCOME_FENCED:
		answer.Outcome = raftkvv1.Outcome_OUTCOME_NOT_APPLIED
	case storev1.WriteOutcome_WRITE_OUTCOME_COMPARE_FAILED:
		answer.Outcome = raftkvv1.Outcome_OUTCOME_CONDITION_FAILED
		answer.Failed = &raftkvv1.FailedCompare{Index: w.GetFailedCompare(), Current: w.GetFailedModRevision()}
	case storev1.WriteOutcome_WRITE_OUTCOME_LEASE_NOT_FOUND, storev1.WriteOutcome_WRITE_OUTCOME_LEASE_EXISTS:
		answer.Outcome = raftkvv1.Outcome_OUTCOME_LEASE_REFUSED
	default:
		if err := writeFailed(&res, len(w.GetOperations())); err != nil {
			return nil, err
		}
		answer.Outcome = raftkvv1.Outcome_OUTCOME_APPLIED
	}
	tellOne(answer.Header)
	for _, o := range w.GetOperations() {
		answer.Results = append(answer.Results, &raftkvv1.OutcomeResult{
			Existed: o.GetExisted(), CreateRevision: o.GetCreateRevision(), Version: o.GetVersion(),
		})
	}
	return answer, nil
}

// outcomeSlot is the slot of what the write was about.
func outcomeSlot(req *raftkvv1.GetOutcomeRequest) placement.Slot {
	switch about := req.GetSubject().(type) {
	case *raftkvv1.GetOutcomeRequest_LeaseId:
		return placement.SlotOfLease(about.LeaseId)
	case *raftkvv1.GetOutcomeRequest_Grant:
		return placement.SlotOfLease(leaseID(req.GetRequestId()))
	default:
		return placement.SlotOf(req.GetKey())
	}
}
