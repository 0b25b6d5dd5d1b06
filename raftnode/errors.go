package raftnode

import (
	"errors"
	"fmt"
	"time"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// Errors without a fact to carry. All of them mean: not applied.
var (
	// ErrStopped says that the node is stopping or has stopped.
	ErrStopped = errors.New("the node is stopping; ask another node")
	// ErrForming says that the node has not come to its part in the cluster yet.
	ErrForming = errors.New("the node is starting; if the cluster is new, it waits until all founding members are reachable, see the log of this node")
	// ErrDamaged says why a node has stopped: what is stored of its replicas is damaged. It wraps the reason.
	ErrDamaged = errors.New("replicas of this node are damaged; start it again, and they are rebuilt from the others")
	// ErrReadFailed says that the state could not be read. It wraps the reason, which is for the operator of the node.
	ErrReadFailed = errors.New("the state of this node cannot be read; ask another node, and see the log of this one")
	// ErrTimeout says that time ran out before anything was proposed, or before a read was confirmed.
	ErrTimeout = errors.New("time ran out before the request was executed; it was not applied")
)

// NotLeaderError says that the request needs the leader of its shard and did not reach it. It was not applied.
type NotLeaderError struct {
	Shard placement.ShardID
	// Leader is the node that leads as far as is known; empty during an election.
	Leader placement.NodeID
	// Endpoint is where that node serves clients, as host:port; empty when unknown.
	Endpoint string
}

func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return fmt.Sprintf("shard %d has no leader that this node can reach; retry after an election", e.Shard)
	}
	if e.Endpoint == "" {
		return fmt.Sprintf("shard %d is led by node %s; send the request there", e.Shard, e.Leader)
	}
	return fmt.Sprintf("shard %d is led by node %s at %s; send the request there", e.Shard, e.Leader, e.Endpoint)
}

// NoReplicaError says that the node holds no replica of the shard. The request was not applied.
type NoReplicaError struct {
	Shard placement.ShardID
}

func (e *NoReplicaError) Error() string {
	return fmt.Sprintf("this node holds no replica of shard %d and knows no other that can be reached", e.Shard)
}

// OverloadedError says that a queue or budget of the node is full. The request was not applied.
type OverloadedError struct {
	// Field names the bound.
	Field string
	// Limit and Actual are in the unit of the bound: items or bytes.
	Limit, Actual uint64
	// RetryAfter is a good time to wait before trying again.
	RetryAfter time.Duration
}

func (e *OverloadedError) Error() string {
	return fmt.Sprintf("overloaded: %s is at %d of at most %d; retry after %s", e.Field, e.Actual, e.Limit, e.RetryAfter)
}

// DiskFullError says that the disk of a node is nearly full and the write would need room there. It was not applied. Deletes and reads are.
type DiskFullError struct {
	Shard placement.ShardID
	// Node is whose disk it is.
	Node placement.NodeID
	// RetryAfter is a good time to wait before trying again.
	RetryAfter time.Duration
}

func (e *DiskFullError) Error() string {
	return fmt.Sprintf("the disk of node %s is nearly full, so shard %d takes no puts; delete keys or free space on that disk", e.Node, e.Shard)
}

// LimitError says that a request passes a fixed bound. It was not applied and never will be.
type LimitError struct {
	// Field is the path of the field in the request.
	Field string
	// Limit and Actual are in the unit of the field.
	Limit, Actual uint64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s is %d, the limit is %d", e.Field, e.Actual, e.Limit)
}

// UnknownOutcomeError says that the request may or may not have been applied.
type UnknownOutcomeError struct {
	Shard placement.ShardID
	// Cause says why the outcome is not known.
	Cause string
}

func (e *UnknownOutcomeError) Error() string {
	return fmt.Sprintf("the outcome on shard %d is unknown: %s; read before you write again, or retry under the same request id", e.Shard, e.Cause)
}

// CrossShardError says that an atomic request touches several shards, or that a range to be read at a revision may. Nothing was done.
type CrossShardError struct {
	// Groups are the keys by shard, ascending; of a range only the shards.
	Groups []ShardKeys
	// Revision is that of the range; 0 for an atomic request.
	Revision uint64
}

// ShardKeys are keys of one shard.
type ShardKeys struct {
	Shard placement.ShardID
	Keys  []string
}

func (e *CrossShardError) Error() string {
	if e.Revision != 0 {
		return fmt.Sprintf("each shard counts its own revisions, so there is no revision %d of this range, which may have keys of %d shards; "+
			"read a range within one {tag} at a revision, or this one without", e.Revision, len(e.Groups))
	}
	return fmt.Sprintf("an atomic request may touch one shard only and this one touches %d; give its keys one {tag}, or send it with atomic=false", len(e.Groups))
}

// StaleRouteError says that the shard does not serve the slot. The request was not applied.
type StaleRouteError struct {
	Shard placement.ShardID
	Slot  placement.Slot
}

func (e *StaleRouteError) Error() string {
	return fmt.Sprintf("shard %d does not serve slot %d; learn the routes anew and retry", e.Shard, e.Slot)
}

// SessionExpiredError says that a retried request's identity may have been forgotten. This attempt was not applied.
type SessionExpiredError struct {
	Shard placement.ShardID
	// Floor: what the client has asked for before it had seen this revision may be forgotten; 0 if the client has acknowledged the request.
	// Revision is the shard's.
	Floor, Revision uint64
}

func (e *SessionExpiredError) Error() string {
	if e.Floor == 0 {
		return fmt.Sprintf("the client has acknowledged the answer to this request, so shard %d has forgotten it; this attempt was not applied", e.Shard)
	}
	return fmt.Sprintf("shard %d may have forgotten what this client asked for before it had seen revision %d, so this retry cannot be told from a new request; "+
		"this attempt was not applied", e.Shard, e.Floor)
}

// FencedError says that somebody has asked what came of the request, and was told that it is not applied. It never will be.
type FencedError struct {
	Shard placement.ShardID
}

func (e *FencedError) Error() string {
	return fmt.Sprintf("shard %d has told somebody who asked by GetOutcome that this request is not applied, so it never will be; write anew under another sequence", e.Shard)
}

// IdempotencyKeyReusedError says that another write stands under the idempotency key. The request was not applied.
type IdempotencyKeyReusedError struct {
	Shard placement.ShardID
	Key   string
}

func (e *IdempotencyKeyReusedError) Error() string {
	return fmt.Sprintf("another write was made under the idempotency key %q; choose a new key for each write, and send it again with retries of that write only", e.Key)
}

// TooStaleError says that what the replica has is not new enough for a stale read, and that a majority could not be asked.
type TooStaleError struct {
	Shard placement.ShardID
	// Age is how old the state may be, 0 if that is not known, Bound how old it might be. Both are 0 if it lacks a revision of the token.
	Age, Bound time.Duration
	// RetryAfter is when this replica may have asked a majority: a heartbeat later if it knows a leader, else after an election. Another replica may be new enough at once.
	RetryAfter time.Duration
}

func (e *TooStaleError) Error() string {
	const advice = "and no majority can be asked at the moment; ask another node, or retry"
	switch {
	case e.Bound == 0:
		return fmt.Sprintf("this replica of shard %d has not got what the token names, or nothing yet, %s", e.Shard, advice)
	case e.Age == 0:
		return fmt.Sprintf("this replica of shard %d does not know how old its state is, which may be %s, %s", e.Shard, e.Bound, advice)
	default:
		return fmt.Sprintf("this replica of shard %d may be %s behind, which is more than %s, %s", e.Shard, e.Age, e.Bound, advice)
	}
}

// LeaseNotFoundError says that a lease does not exist, or has ended. The request was not applied.
type LeaseNotFoundError struct {
	ID uint64
}

func (e *LeaseNotFoundError) Error() string {
	return fmt.Sprintf("lease %d does not exist, or has ended: it was revoked or not kept alive in time; grant another one", e.ID)
}

// LeaseExistsError says that a lease cannot be granted because its id is taken. The request was not applied.
type LeaseExistsError struct {
	ID uint64
}

func (e *LeaseExistsError) Error() string {
	return fmt.Sprintf("lease %d exists already; grant one under another id", e.ID)
}

// InvalidError says that a request is not one that a node executes. It was not applied and never will be.
type InvalidError struct {
	// Field is the path of the field in the request.
	Field string
	// Problem says what is wrong with it.
	Problem string
}

func (e *InvalidError) Error() string { return e.Field + ": " + e.Problem }
