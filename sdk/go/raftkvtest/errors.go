package raftkvtest

import (
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// Error is an error as a node tells it.
type Error struct {
	code    connect.Code
	reason  string
	message string
	details []proto.Message
	// decided: the write was executed, to this end; a retry gets the same answer.
	decided bool
}

// Overloaded refuses because a queue is full.
func Overloaded(retryAfter time.Duration) *Error {
	return &Error{
		code: connect.CodeResourceExhausted, reason: "OVERLOADED", message: "overloaded",
		details: []proto.Message{
			&raftkvv1.LimitExceeded{Field: "queue", Limit: 1, Actual: 2},
			&errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)},
		},
	}
}

// NoLeader refuses because the shard has no leader.
func NoLeader(shard placement.ShardID, retryAfter time.Duration) *Error {
	e := notLeader(&raftkvv1.NotLeader{Shard: uint32(shard)})
	e.details = append(e.details, &errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)})
	return e
}

// TooLarge refuses because a bound of a field is passed.
func TooLarge(field string, limit, actual uint64) *Error {
	return &Error{
		code: connect.CodeInvalidArgument, reason: "LIMIT_EXCEEDED", message: "too large",
		details: []proto.Message{&raftkvv1.LimitExceeded{Field: field, Limit: limit, Actual: actual}},
	}
}

// ReadFailed refuses because the node cannot read its state.
func ReadFailed() *Error {
	return &Error{
		code: connect.CodeUnavailable, reason: "READ_FAILED", message: "the state cannot be read",
		details: []proto.Message{&errdetails.RetryInfo{RetryDelay: durationpb.New(10 * time.Millisecond)}},
	}
}

// Stopping refuses because the node is about to stop.
func Stopping() *Error {
	return &Error{
		code: connect.CodeUnavailable, reason: "STOPPING", message: "the node is stopping",
		details: []proto.Message{&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Millisecond)}},
	}
}

// DiskFull refuses a put because the disk of a node is nearly full.
func DiskFull(node string, shard placement.ShardID) *Error {
	return &Error{
		code: connect.CodeResourceExhausted, reason: "DISK_FULL", message: "the disk is nearly full",
		details: []proto.Message{
			&raftkvv1.DiskFull{NodeId: node, Shard: uint32(shard)},
			&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)},
		},
	}
}

// Unknown says that the node does not know the outcome.
func Unknown(cause string) *Error {
	return &Error{
		code: connect.CodeUnknown, reason: "OUTCOME_UNKNOWN", message: cause,
		details: []proto.Message{&raftkvv1.OutcomeUnknown{Cause: cause}},
	}
}

// Stale says that the shard does not serve the slot.
func Stale(shard placement.ShardID, slot placement.Slot) *Error {
	return &Error{
		code: connect.CodeUnavailable, reason: "STALE_ROUTE", message: "stale route",
		details: []proto.Message{&raftkvv1.StaleRoute{Shard: uint32(shard), Slot: uint32(slot)}},
	}
}

func notLeader(d *raftkvv1.NotLeader) *Error {
	return &Error{code: connect.CodeUnavailable, reason: "NOT_LEADER", message: "not the leader", details: []proto.Message{d}}
}

func notFound(s *shard, key string, revision uint64) *Error {
	return &Error{
		code: connect.CodeNotFound, reason: "KEY_NOT_FOUND", message: "not found",
		details: []proto.Message{&raftkvv1.KeyNotFound{Key: key, Revision: revision, Shard: uint32(s.id)}},
	}
}

func preconditionFailed(s *shard, key string, current uint64) *Error {
	return &Error{
		code: connect.CodeFailedPrecondition, reason: "PRECONDITION_FAILED", message: "the condition does not hold", decided: true,
		details: []proto.Message{&raftkvv1.PreconditionFailed{Key: key, Current: current, Revision: s.revision, Shard: uint32(s.id)}},
	}
}

func futureRevision(s *shard, revision uint64) *Error {
	return &Error{
		code: connect.CodeOutOfRange, reason: "FUTURE_REVISION", message: "the revision is not reached",
		details: []proto.Message{&raftkvv1.FutureRevision{Revision: revision, Current: s.revision, Shard: uint32(s.id)}},
	}
}

// sessionExpired has no floor if the client has acknowledged the answer.
func sessionExpired(s *shard, floor uint64) *Error {
	return &Error{
		code: connect.CodeFailedPrecondition, reason: "SESSION_EXPIRED", message: "session expired",
		details: []proto.Message{&raftkvv1.SessionExpired{Floor: floor, Revision: s.revision}},
	}
}

func (c *Cluster) crossShard(keys []string) *Error {
	groups := make(map[placement.ShardID]*raftkvv1.CrossShard_Group)
	d := &raftkvv1.CrossShard{}
	for _, k := range keys {
		id := c.slots[placement.SlotOf(k)].id
		if groups[id] == nil {
			groups[id] = &raftkvv1.CrossShard_Group{Shard: uint32(id)}
			d.Groups = append(d.Groups, groups[id])
		}
		groups[id].Keys = append(groups[id].Keys, k)
	}
	return &Error{code: connect.CodeFailedPrecondition, reason: "CROSS_SHARD", message: "several shards", details: []proto.Message{d}}
}

// crossShardRange refuses a range that may be of all shards.
func (c *Cluster) crossShardRange() *Error {
	d := &raftkvv1.CrossShard{}
	for _, s := range c.shards[1:] {
		d.Groups = append(d.Groups, &raftkvv1.CrossShard_Group{Shard: uint32(s.id)})
	}
	return &Error{code: connect.CodeFailedPrecondition, reason: "CROSS_SHARD", message: "several shards", details: []proto.Message{d}}
}

func invalid(problem string) *Error {
	return &Error{code: connect.CodeInvalidArgument, reason: "INVALID", message: problem}
}

func (e *Error) all() []proto.Message {
	return append([]proto.Message{&errdetails.ErrorInfo{Reason: e.reason, Domain: "raftkv"}}, e.details...)
}

// status is e as an Exec result carries it.
func (e *Error) status() *status.Status {
	s := &status.Status{Code: int32(e.code), Message: e.message}
	for _, d := range e.all() {
		a, err := anypb.New(d)
		if err != nil {
			panic(fmt.Sprintf("raftkvtest: marshal %T: %v", d, err))
		}
		s.Details = append(s.Details, a)
	}
	return s
}

// rpc is e as a unary call returns it.
func (e *Error) rpc() error {
	err := connect.NewError(e.code, fmt.Errorf("%s", e.message))
	for _, m := range e.all() {
		d, detailErr := connect.NewErrorDetail(m)
		if detailErr != nil {
			panic(fmt.Sprintf("raftkvtest: marshal %T: %v", m, detailErr))
		}
		err.AddDetail(d)
	}
	return err
}
