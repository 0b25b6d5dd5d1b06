package raftkv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

var (
	// ErrNotFound says that a key does not exist; *KeyNotFoundError tells which.
	ErrNotFound = errors.New("key not found")
	// ErrClosed says that the client was closed.
	ErrClosed = errors.New("the client is closed")
	// ErrTimeout says that the default timeout passed; it is also a context.DeadlineExceeded.
	ErrTimeout = fmt.Errorf("the timeout of the client passed: %w", context.DeadlineExceeded)
	// ErrUnavailable says that a node could not execute the operation for now.
	ErrUnavailable = errors.New("unavailable")
	// ErrRefused says that the endpoint does not serve this client: wrong address, or missing rights.
	ErrRefused = errors.New("refused by the endpoint")
	// errGRPCPort is what the answer of grpc-go to a Connect call means.
	errGRPCPort = fmt.Errorf("%w: this port speaks native gRPC only; use the node's port for clients, which is 300 lower unless configured", ErrRefused)
)

// KeyNotFoundError says that a key does not exist. It is an ErrNotFound.
type KeyNotFoundError struct {
	Key string
	// Revision is the revision of the shard in the state that was read.
	Revision uint64
	Shard    placement.ShardID
	// Age is how old that state may have been, as in Item.
	Age time.Duration
}

func (e *KeyNotFoundError) Error() string { return fmt.Sprintf("key %q not found", e.Key) }

// Is makes every KeyNotFoundError an ErrNotFound.
func (e *KeyNotFoundError) Is(target error) bool { return target == ErrNotFound }

// NotLeaderError says that the node asked does not lead the shard. It applied nothing.
type NotLeaderError struct {
	Shard placement.ShardID
	// Leader is the node that leads as far as the node asked knows; empty during an election.
	Leader placement.NodeID
	// Endpoint is the client address of that node; empty when unknown.
	Endpoint string
}

func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return fmt.Sprintf("shard %d has no leader now", e.Shard)
	}
	return fmt.Sprintf("shard %d is led by node %s at %s", e.Shard, e.Leader, e.Endpoint)
}

// StaleRouteError says that the shard asked does not serve the key any more. It applied nothing.
type StaleRouteError struct {
	Shard placement.ShardID
	Slot  placement.Slot
}

func (e *StaleRouteError) Error() string {
	return fmt.Sprintf("shard %d does not serve slot %d", e.Shard, e.Slot)
}

// LimitError says that a bound was passed. Nothing was applied.
type LimitError struct {
	// Field is the path of the field in the request, or the name of the bound.
	Field string
	// Limit and Actual are in the unit of the field.
	Limit, Actual uint64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s is %d, the limit is %d", e.Field, e.Actual, e.Limit)
}

// OverloadedError says that a queue of the node was full. Nothing was applied.
type OverloadedError struct {
	// Field names the bound, Limit and Actual are in its unit; empty and zero if the node did not tell.
	Field         string
	Limit, Actual uint64
	// RetryAfter is how long the node asked to wait.
	RetryAfter time.Duration
}

func (e *OverloadedError) Error() string {
	if e.Field == "" {
		return "the node is overloaded"
	}
	return fmt.Sprintf("the node is overloaded: %s is at %d of at most %d", e.Field, e.Actual, e.Limit)
}

// DiskFullError says that the disk of a node is nearly full, so that the shard takes deletes and reads only. Nothing was applied. The client
// does not try again by itself: a disk seldom gets room while a call waits.
type DiskFullError struct {
	// Node is whose disk it is.
	Node  placement.NodeID
	Shard placement.ShardID
	// RetryAfter is how long the node asked to wait.
	RetryAfter time.Duration
}

func (e *DiskFullError) Error() string {
	return fmt.Sprintf("the disk of node %s is nearly full, so shard %d takes no puts; delete keys or free space on that disk", e.Node, e.Shard)
}

// InvalidError says that a request is wrong in itself. Nothing was applied.
type InvalidError struct {
	// Problem names the field and what is wrong with it.
	Problem string
}

func (e *InvalidError) Error() string { return "invalid request: " + e.Problem }

// CrossShardError says that the keys of a batch or transaction live on several shards, or that those of a range to be read at a revision may. Nothing was
// applied.
type CrossShardError struct {
	// Groups are the keys by shard; of a range only the shards.
	Groups []ShardKeys
}

// ShardKeys are keys of one shard.
type ShardKeys struct {
	Shard placement.ShardID
	Keys  []string
}

func (e *CrossShardError) Error() string {
	if len(e.Groups) > 0 && len(e.Groups[0].Keys) == 0 {
		return fmt.Sprintf("each shard counts its own revisions, and this range may have keys of %d shards; read a range within one {tag} at a revision, or this one without", len(e.Groups))
	}
	return fmt.Sprintf("a batch or transaction may touch one shard only and this one touches %d; give its keys one {tag}", len(e.Groups))
}

// PreconditionFailedError says that the condition of a write does not hold. Nothing was applied.
type PreconditionFailedError struct {
	Key string
	// Current is the revision of the last write of the key when the condition was checked; 0 if the key did not exist.
	Current uint64
	Shard   placement.ShardID
}

func (e *PreconditionFailedError) Error() string {
	if e.Current == 0 {
		return "the condition does not hold: the key does not exist"
	}
	return fmt.Sprintf("the condition does not hold: the key is at revision %d", e.Current)
}

// CompactedError says that the shard has forgotten the revision that was asked for. Nothing was changed.
type CompactedError struct {
	// Oldest is the oldest revision that the shard knows.
	Revision, Oldest uint64
	Shard            placement.ShardID
}

func (e *CompactedError) Error() string {
	return fmt.Sprintf("revision %d is forgotten, the oldest known is %d; ask for that or a later one, or begin the watch anew", e.Revision, e.Oldest)
}

// FutureRevisionError says that the shard has not reached the revision that was asked for: it is of another shard or cluster. Nothing was changed.
type FutureRevisionError struct {
	// Current is the revision of the shard.
	Revision, Current uint64
	Shard             placement.ShardID
}

func (e *FutureRevisionError) Error() string {
	return fmt.Sprintf("revision %d is not reached, the shard is at %d; a revision is one of the shard that has told it", e.Revision, e.Current)
}

// SessionExpiredError says that the identity of a write may have been forgotten by the cluster, so that an attempt
// with it was refused.
type SessionExpiredError struct {
	// Floor: what the client has asked for before it had seen this revision may be forgotten; 0 if it has acknowledged the answer. Revision is the shard's.
	Floor, Revision uint64
}

func (e *SessionExpiredError) Error() string {
	if e.Floor == 0 {
		return "the client itself has acknowledged the answer to this write, so the cluster has forgotten it; this attempt was not applied"
	}
	return fmt.Sprintf("the cluster may have forgotten what was asked for before revision %d, so a retry cannot be told from a new write", e.Floor)
}

// ServerError is an error for which there is no type of its own.
type ServerError struct {
	// Code is the name of the RPC code; Reason the one of google.rpc.ErrorInfo, which may be empty.
	Code, Reason, Message string
}

func (e *ServerError) Error() string {
	if e.Reason == "" {
		return e.Code + ": " + e.Message
	}
	return e.Code + " (" + e.Reason + "): " + e.Message
}

// failure is a failed attempt, judged.
type failure struct {
	err error
	// unknown: the attempt may have been applied, now or later.
	unknown bool
	// decided: the cluster has executed the write, to this end. Like the result of one that was applied, the answer holds for all attempts.
	decided bool
	// retry: another attempt may succeed.
	retry bool
	// ended: the caller's patience or the client ended, so there is no use in another attempt.
	ended bool
	// after is how long the server asked to wait before the next attempt.
	after time.Duration
	// slow: the attempt was given up because it took too long. free: another one takes nothing from the budget, as this one was not sent or got lost on its
	// way, which is no sign of load.
	slow, free bool
}

// notSent judges an attempt of which no byte left the client.
func notSent(cause error) *failure {
	return &failure{err: fmt.Errorf("not sent: %w", cause), retry: true, free: true}
}

// givenUp judges an attempt that the caller no longer waits for.
func givenUp(cause error, sent bool) *failure {
	return &failure{err: cause, unknown: sent, ended: true}
}

// brokenStream judges an attempt that was under way on a stream that ended with cause. served says that the stream
// had given results before.
func brokenStream(cause error, served bool) *failure {
	if errors.Is(cause, ErrClosed) {
		return givenUp(ErrClosed, true)
	}
	if !served && refuses(connect.CodeOf(cause)) {
		return &failure{err: fmt.Errorf("%w: %w", ErrRefused, cause)}
	}
	if errors.Is(cause, io.EOF) {
		cause = errors.New("the node ended the stream")
	}
	return &failure{err: fmt.Errorf("connection lost: %w", cause), unknown: true, retry: true, free: true}
}

// refuses reports codes with which a server turns a caller away as a whole, so that no node will serve it.
func refuses(code connect.Code) bool {
	return code == connect.CodeUnimplemented || code == connect.CodeUnauthenticated || code == connect.CodePermissionDenied
}

// judgeStatus judges the error of one operation on a stream.
func judgeStatus(s *status.Status) *failure {
	d := gather(func(yield func(proto.Message)) {
		for _, a := range s.GetDetails() {
			yield(unpack(a))
		}
	})
	return d.judge(connect.Code(s.GetCode()), s.GetMessage(), nil)
}

// Reasons of a node that serves nothing for now: it cannot read its state, is going, or is not part of a cluster yet. Others are not concerned.
const (
	reasonReadFailed = "READ_FAILED"
	reasonStopping   = "STOPPING"
	reasonForming    = "FORMING"
)

// judgeCall judges the error of a unary call. reached says that the request may have left the client.
func judgeCall(err error, reached bool) *failure {
	if !reached {
		return notSent(err)
	}
	ce := new(connect.Error)
	if !errors.As(err, &ce) {
		return brokenStream(err, true)
	}
	d := gather(func(yield func(proto.Message)) {
		for _, detail := range ce.Details() {
			if m, err := detail.Value(); err == nil {
				yield(m)
			}
		}
	})
	if refuses(ce.Code()) && d.info == nil {
		return brokenStream(err, false)
	}
	if d.info == nil && strings.HasPrefix(ce.Message(), strconv.Itoa(http.StatusUnsupportedMediaType)) {
		return &failure{err: errGRPCPort}
	}
	return d.judge(ce.Code(), ce.Message(), err)
}

func unpack(a *anypb.Any) proto.Message {
	m, err := a.UnmarshalNew()
	if err != nil {
		return nil // a detail of a later version; the code and the known details still tell
	}
	return m
}

// details are those of an error that the client knows.
type details struct {
	typed proto.Message
	info  *errdetails.ErrorInfo
	retry *errdetails.RetryInfo
}

func gather(each func(yield func(proto.Message))) details {
	var d details
	each(func(m proto.Message) {
		switch m := m.(type) {
		case nil:
		case *errdetails.ErrorInfo:
			d.info = m
		case *errdetails.RetryInfo:
			d.retry = m
		default:
			d.typed = m
		}
	})
	return d
}

// judge turns an error of a server into a failure. Without a detail that says so, nothing counts as not applied:
// the error may stem from something between the client and the server.
func (d *details) judge(code connect.Code, message string, cause error) *failure {
	if f := d.judgeTyped(); f != nil {
		if _, lost := d.typed.(*raftkvv1.OutcomeUnknown); lost {
			f.free = code != connect.CodeDeadlineExceeded // which may be a sign of load; otherwise the node has lost the leader
		}
		return f
	}
	var err error = &ServerError{Code: code.String(), Reason: d.info.GetReason(), Message: message}
	if cause != nil && d.info == nil {
		err = cause
	}
	f := &failure{err: err, unknown: d.info == nil, after: d.retry.GetRetryDelay().AsDuration()}
	switch code {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange:
		f.err, f.unknown = &InvalidError{Problem: message}, false
	case connect.CodeFailedPrecondition, connect.CodeNotFound, connect.CodeAlreadyExists:
		f.unknown = false
	case connect.CodeUnimplemented, connect.CodeUnauthenticated, connect.CodePermissionDenied:
		f.err, f.unknown = fmt.Errorf("%w: %w", ErrRefused, err), false
	case connect.CodeResourceExhausted:
		f.retry = d.retry != nil
		if f.retry {
			f.err, f.unknown = &OverloadedError{RetryAfter: f.after}, false
		}
	case connect.CodeUnavailable:
		f.retry, f.err = true, fmt.Errorf("%w: %w", ErrUnavailable, err)
	default: // deadlines, cancelled, aborted, unknown, internal, data loss
		f.retry = code != connect.CodeDataLoss
	}
	return f
}

// judgeTyped judges the errors that have a detail of their own.
func (d *details) judgeTyped() *failure {
	after := d.retry.GetRetryDelay().AsDuration()
	switch t := d.typed.(type) {
	case *raftkvv1.KeyNotFound:
		return &failure{err: &KeyNotFoundError{
			Key: t.Key, Revision: t.Revision, Shard: placement.ShardID(t.Shard),
			Age: ageOf(&raftkvv1.ResponseHeader{FreshnessMs: t.FreshnessMs, FreshnessUnknown: t.FreshnessUnknown}),
		}}
	case *raftkvv1.NotLeader:
		return &failure{retry: true, after: after, err: &NotLeaderError{
			Shard: placement.ShardID(t.Shard), Leader: placement.NodeID(t.LeaderNodeId), Endpoint: t.LeaderEndpoint,
		}}
	case *raftkvv1.TooStale:
		return &failure{retry: true, after: after, err: &TooStaleError{
			Shard: placement.ShardID(t.Shard), Age: time.Duration(t.FreshnessMs) * time.Millisecond, Bound: time.Duration(t.MaxStalenessMs) * time.Millisecond,
		}}
	case *raftkvv1.StaleRoute:
		err := &StaleRouteError{Shard: placement.ShardID(t.Shard), Slot: placement.Slot(t.Slot)}
		return &failure{retry: true, after: after, err: err}
	case *raftkvv1.LimitExceeded:
		if d.retry == nil {
			return &failure{err: &LimitError{Field: t.Field, Limit: t.Limit, Actual: t.Actual}}
		}
		err := &OverloadedError{Field: t.Field, Limit: t.Limit, Actual: t.Actual, RetryAfter: after}
		return &failure{retry: true, after: after, err: err}
	case *raftkvv1.DiskFull:
		return &failure{after: after, err: &DiskFullError{Node: placement.NodeID(t.NodeId), Shard: placement.ShardID(t.Shard), RetryAfter: after}}
	case *raftkvv1.OutcomeUnknown:
		return &failure{unknown: true, retry: true, after: after, err: errors.New("the node does not know the outcome: " + t.Cause)}
	case *raftkvv1.CrossShard:
		err := &CrossShardError{}
		for _, g := range t.Groups {
			err.Groups = append(err.Groups, ShardKeys{Shard: placement.ShardID(g.Shard), Keys: g.Keys})
		}
		return &failure{err: err}
	case *raftkvv1.PreconditionFailed:
		return &failure{decided: true, err: &PreconditionFailedError{Key: t.Key, Current: t.Current, Shard: placement.ShardID(t.Shard)}}
	case *raftkvv1.Compacted:
		return &failure{err: &CompactedError{Revision: t.Revision, Oldest: t.Oldest, Shard: placement.ShardID(t.Shard)}}
	case *raftkvv1.FutureRevision:
		return &failure{err: &FutureRevisionError{Revision: t.Revision, Current: t.Current, Shard: placement.ShardID(t.Shard)}}
	case *raftkvv1.SessionExpired:
		return &failure{err: &SessionExpiredError{Floor: t.Floor, Revision: t.Revision}}
	case *raftkvv1.RequestFenced:
		return &failure{decided: true, err: &FencedError{Shard: placement.ShardID(t.Shard)}}
	}
	return judgeLater(d.typed, after)
}
