package raftnode

import (
	"errors"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// failureOf and errorOf carry the errors of this package between nodes.
func failureOf(err error) *peerv1.Failure {
	f := &peerv1.Failure{Message: err.Error()}
	var (
		notLeader *NotLeaderError
		noReplica *NoReplicaError
		over      *OverloadedError
		bound     *LimitError
		unknown   *UnknownOutcomeError
		stale     *StaleRouteError
		session   *SessionExpiredError
		invalid   *InvalidError
		full      *DiskFullError
		compacted *CompactedError
		future    *FutureRevisionError
		noLease   *LeaseNotFoundError
		leased    *LeaseExistsError
		fenced    *FencedError
		reused    *IdempotencyKeyReusedError
		tooStale  *TooStaleError
	)
	switch {
	case errors.As(err, &notLeader):
		f.Kind, f.LeaderNodeId = peerv1.FailureKind_FAILURE_KIND_NOT_LEADER, string(notLeader.Leader)
	case errors.As(err, &noReplica):
		f.Kind = peerv1.FailureKind_FAILURE_KIND_NO_REPLICA
	case errors.As(err, &over):
		f.Kind, f.Field, f.Limit, f.Actual = peerv1.FailureKind_FAILURE_KIND_OVERLOADED, over.Field, over.Limit, over.Actual
		f.RetryAfterMs = uint32(over.RetryAfter.Milliseconds()) //nolint:gosec // a second at most
	case errors.As(err, &full):
		f.Kind, f.FullNodeId = peerv1.FailureKind_FAILURE_KIND_DISK_FULL, string(full.Node)
	case errors.As(err, &bound):
		f.Kind, f.Field, f.Limit, f.Actual = peerv1.FailureKind_FAILURE_KIND_LIMIT, bound.Field, bound.Limit, bound.Actual
	case errors.As(err, &unknown):
		f.Kind, f.Message = peerv1.FailureKind_FAILURE_KIND_UNKNOWN, unknown.Cause
	case errors.As(err, &stale):
		f.Kind, f.Slot = peerv1.FailureKind_FAILURE_KIND_NOT_SERVING, uint32(stale.Slot)
	case errors.As(err, &session):
		f.Kind, f.Limit, f.Actual = peerv1.FailureKind_FAILURE_KIND_SESSION_EXPIRED, session.Floor, session.Revision
	case errors.As(err, &invalid):
		f.Kind, f.Field, f.Message = peerv1.FailureKind_FAILURE_KIND_INVALID, invalid.Field, invalid.Problem
	case errors.As(err, &compacted):
		f.Kind, f.Limit, f.Actual = peerv1.FailureKind_FAILURE_KIND_COMPACTED, compacted.Oldest, compacted.Revision
	case errors.As(err, &future):
		f.Kind, f.Limit, f.Actual = peerv1.FailureKind_FAILURE_KIND_FUTURE_REVISION, future.Current, future.Revision
	case errors.As(err, &tooStale):
		f.Kind, f.Limit, f.Actual = peerv1.FailureKind_FAILURE_KIND_TOO_STALE, uint64(tooStale.Bound.Milliseconds()), uint64(tooStale.Age.Milliseconds())
		f.RetryAfterMs = uint32(tooStale.RetryAfter.Milliseconds()) //nolint:gosec // an election timeout at most
	case errors.As(err, &noLease):
		f.Kind, f.LeaseId = peerv1.FailureKind_FAILURE_KIND_LEASE_NOT_FOUND, noLease.ID
	case errors.As(err, &leased):
		f.Kind, f.LeaseId = peerv1.FailureKind_FAILURE_KIND_LEASE_EXISTS, leased.ID
	case errors.As(err, &fenced):
		f.Kind = peerv1.FailureKind_FAILURE_KIND_FENCED
	case errors.As(err, &reused):
		f.Kind, f.Field = peerv1.FailureKind_FAILURE_KIND_IDEMPOTENCY_KEY_REUSED, reused.Key
	case errors.Is(err, ErrStopped), errors.Is(err, ErrForming):
		f.Kind = peerv1.FailureKind_FAILURE_KIND_STOPPED
	case errors.Is(err, ErrTimeout):
		f.Kind = peerv1.FailureKind_FAILURE_KIND_TIMEOUT
	case errors.Is(err, ErrReadFailed):
		f.Kind = peerv1.FailureKind_FAILURE_KIND_READ_FAILED
	default:
		f.Kind = peerv1.FailureKind_FAILURE_KIND_UNKNOWN
	}
	return f
}

func errorOf(shard placement.ShardID, f *peerv1.Failure) error {
	switch f.GetKind() {
	case peerv1.FailureKind_FAILURE_KIND_NOT_LEADER:
		return &NotLeaderError{Shard: shard, Leader: placement.NodeID(f.GetLeaderNodeId())}
	case peerv1.FailureKind_FAILURE_KIND_NO_REPLICA:
		return &NoReplicaError{Shard: shard}
	case peerv1.FailureKind_FAILURE_KIND_OVERLOADED:
		return &OverloadedError{
			Field: f.GetField(), Limit: f.GetLimit(), Actual: f.GetActual(), RetryAfter: time.Duration(f.GetRetryAfterMs()) * time.Millisecond,
		}
	case peerv1.FailureKind_FAILURE_KIND_DISK_FULL:
		return &DiskFullError{Shard: shard, Node: placement.NodeID(f.GetFullNodeId()), RetryAfter: diskFullRetry}
	case peerv1.FailureKind_FAILURE_KIND_LIMIT:
		return &LimitError{Field: f.GetField(), Limit: f.GetLimit(), Actual: f.GetActual()}
	case peerv1.FailureKind_FAILURE_KIND_NOT_SERVING:
		return staleRoute(shard, f.GetSlot())
	case peerv1.FailureKind_FAILURE_KIND_SESSION_EXPIRED:
		return &SessionExpiredError{Shard: shard, Floor: f.GetLimit(), Revision: f.GetActual()}
	case peerv1.FailureKind_FAILURE_KIND_INVALID:
		return &InvalidError{Field: f.GetField(), Problem: f.GetMessage()}
	case peerv1.FailureKind_FAILURE_KIND_COMPACTED:
		return &CompactedError{Shard: shard, Revision: f.GetActual(), Oldest: f.GetLimit()}
	case peerv1.FailureKind_FAILURE_KIND_FUTURE_REVISION:
		return &FutureRevisionError{Shard: shard, Revision: f.GetActual(), Current: f.GetLimit()}
	case peerv1.FailureKind_FAILURE_KIND_TOO_STALE:
		return &TooStaleError{
			Shard: shard, Bound: time.Duration(f.GetLimit()) * time.Millisecond, Age: time.Duration(f.GetActual()) * time.Millisecond,
			RetryAfter: time.Duration(f.GetRetryAfterMs()) * time.Millisecond,
		}
	case peerv1.FailureKind_FAILURE_KIND_LEASE_NOT_FOUND:
		return &LeaseNotFoundError{ID: f.GetLeaseId()}
	case peerv1.FailureKind_FAILURE_KIND_LEASE_EXISTS:
		return &LeaseExistsError{ID: f.GetLeaseId()}
	case peerv1.FailureKind_FAILURE_KIND_FENCED:
		return &FencedError{Shard: shard}
	case peerv1.FailureKind_FAILURE_KIND_IDEMPOTENCY_KEY_REUSED:
		return &IdempotencyKeyReusedError{Shard: shard, Key: f.GetField()}
	case peerv1.FailureKind_FAILURE_KIND_STOPPED:
		return ErrStopped
	case peerv1.FailureKind_FAILURE_KIND_TIMEOUT:
		return ErrTimeout
	case peerv1.FailureKind_FAILURE_KIND_READ_FAILED:
		return ErrReadFailed
	default:
		return &UnknownOutcomeError{Shard: shard, Cause: f.GetMessage()}
	}
}
