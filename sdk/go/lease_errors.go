package raftkv

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

var (
	// ErrLeaseLost says that the holder of a lease cannot count on it any more; *LeaseLostError tells more.
	ErrLeaseLost = errors.New("the lease is lost")
	// ErrLeaseRevoked says that the holder of a lease has ended it by Revoke.
	ErrLeaseRevoked = errors.New("the lease was revoked by its holder")
)

// LeaseNotFoundError says that a lease does not exist, or has ended. Nothing was applied.
type LeaseNotFoundError struct{ ID LeaseID }

func (e *LeaseNotFoundError) Error() string {
	return fmt.Sprintf("lease %d does not exist or has ended; grant another one", e.ID)
}

// LeaseExistsError says that the id under which a lease was to be granted is taken. Nothing was applied.
type LeaseExistsError struct{ ID LeaseID }

func (e *LeaseExistsError) Error() string {
	return fmt.Sprintf("lease %d exists; grant again, under another id", e.ID)
}

// LeaseLostError is why a *Lease ended that was not revoked by its holder. It is an ErrLeaseLost.
type LeaseLostError struct {
	ID LeaseID
	// Err is why: a *LeaseNotFoundError if the cluster has ended it, else the error of the last keep-alive, or nil if there was none to make.
	Err error
}

func (e *LeaseLostError) Error() string {
	switch {
	case e.Err == nil:
		return fmt.Sprintf("lease %d is lost: its time is over", e.ID)
	case errors.As(e.Err, new(*LeaseNotFoundError)):
		return fmt.Sprintf("lease %d is lost: the cluster has ended it", e.ID)
	default:
		return fmt.Sprintf("lease %d is lost: it could not be kept alive in time: %v", e.ID, e.Err)
	}
}

// Is makes every LeaseLostError an ErrLeaseLost.
func (e *LeaseLostError) Is(target error) bool { return target == ErrLeaseLost }

func (e *LeaseLostError) Unwrap() error { return e.Err }

// CutOffError says that a node has not reached a majority of a shard for some time, so that it does not know what it misses. Nothing was changed.
type CutOffError struct {
	Shard placement.ShardID
	For   time.Duration
}

func (e *CutOffError) Error() string {
	return fmt.Sprintf("the node has been cut off from the majority of shard %d for %s", e.Shard, e.For)
}

// judgeLater judges the typed errors of leases and watches; nil for others.
func judgeLater(detail proto.Message, after time.Duration) *failure {
	switch t := detail.(type) {
	case *raftkvv1.LeaseNotFound:
		// The lease never lives again, and a retry of a write that was applied is told so. So this holds for all attempts.
		return &failure{decided: true, err: &LeaseNotFoundError{ID: LeaseID(t.LeaseId)}}
	case *raftkvv1.LeaseExists:
		return &failure{decided: true, err: &LeaseExistsError{ID: LeaseID(t.LeaseId)}}
	case *raftkvv1.CutOff:
		return &failure{retry: true, after: after, err: &CutOffError{Shard: placement.ShardID(t.Shard), For: millis(t.ForMs)}}
	}
	return nil
}
