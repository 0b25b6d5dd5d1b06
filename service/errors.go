package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// errorDomain is the domain of every google.rpc.ErrorInfo. An UNAVAILABLE that carries it was not applied.
const errorDomain = "raftkv"

// code is the code of an answer: Connect's, which are gRPC's, and codeOK.
type code = connect.Code

// codeOK is the code of a success, which Connect has no name for.
const codeOK code = 0

// reasonInternal is the reason of errors that are in no row. They are logged instead of told, and claim nothing about
// what was applied.
const reasonInternal = "INTERNAL"

// reasonReadFailed is the reason of reads that met damage. The cause is logged, too.
const reasonReadFailed = "READ_FAILED"

// row is one line of the error table.
type row struct {
	// reason is that of google.rpc.ErrorInfo. A reason has one code, but OUTCOME_UNKNOWN and LIMIT_EXCEEDED.
	reason string
	code   code
	// http is the status of REST; Connect's own follows from code.
	http int
	// match returns the typed detail (may be nil) and how long to wait before a retry (0: no RetryInfo).
	match func(error) (detail proto.Message, retryAfter time.Duration, ok bool)
}

// table translates errors; the first row that matches counts. DESIGN.md shows it to people. Three rules hold:
// UNAVAILABLE and RESOURCE_EXHAUSTED were not applied and may be retried; INVALID_ARGUMENT and FAILED_PRECONDITION were not
// applied and may not be retried unchanged; what may have been applied carries OutcomeUnknown.
var table = []row{
	{"OUTCOME_UNKNOWN", connect.CodeDeadlineExceeded, 504, as(func(e *expiredError) (proto.Message, time.Duration) {
		var unknown *raftnode.UnknownOutcomeError
		errors.As(e.error, &unknown)
		return &raftkvv1.OutcomeUnknown{Shard: uint32(unknown.Shard), Cause: unknown.Cause}, 0
	})},
	{"OUTCOME_UNKNOWN", connect.CodeUnknown, 500, as(func(e *raftnode.UnknownOutcomeError) (proto.Message, time.Duration) {
		return &raftkvv1.OutcomeUnknown{Shard: uint32(e.Shard), Cause: e.Cause}, 0
	})},
	{"KEY_NOT_FOUND", connect.CodeNotFound, 404, as(func(e *keyNotFoundError) (proto.Message, time.Duration) {
		return &raftkvv1.KeyNotFound{
			Key: e.key, Revision: e.revision, Shard: e.shard, FreshnessMs: e.origin.GetFreshnessMs(), FreshnessUnknown: e.origin.GetFreshnessUnknown(),
		}, 0
	})},
	{"CUT_OFF", connect.CodeUnavailable, 503, as(func(e *raftnode.CutOffError) (proto.Message, time.Duration) {
		return &raftkvv1.CutOff{Shard: uint32(e.Shard), ForMs: uint64(e.For.Milliseconds())}, time.Millisecond
	})},
	{"TOO_STALE", connect.CodeUnavailable, 503, as(func(e *raftnode.TooStaleError) (proto.Message, time.Duration) {
		return &raftkvv1.TooStale{
			Shard: uint32(e.Shard), FreshnessMs: uint64(e.Age.Milliseconds()), MaxStalenessMs: uint64(e.Bound.Milliseconds()),
		}, max(e.RetryAfter, time.Millisecond)
	})},
	{"NOT_LEADER", connect.CodeUnavailable, 503, as(func(e *raftnode.NotLeaderError) (proto.Message, time.Duration) {
		d := &raftkvv1.NotLeader{Shard: uint32(e.Shard), LeaderNodeId: string(e.Leader), LeaderEndpoint: e.Endpoint}
		if e.Leader == "" {
			return d, 100 * time.Millisecond // an election takes about this long
		}
		return d, time.Millisecond
	})},
	{"NO_REPLICA", connect.CodeUnavailable, 503, as(func(e *raftnode.NoReplicaError) (proto.Message, time.Duration) {
		return &raftkvv1.NotLeader{Shard: uint32(e.Shard)}, 100 * time.Millisecond
	})},
	{"STALE_ROUTE", connect.CodeUnavailable, 503, as(func(e *raftnode.StaleRouteError) (proto.Message, time.Duration) {
		return &raftkvv1.StaleRoute{Shard: uint32(e.Shard), Slot: uint32(e.Slot)}, 10 * time.Millisecond
	})},
	{"STOPPING", connect.CodeUnavailable, 503, is(raftnode.ErrStopped, 100*time.Millisecond)},
	{"FORMING", connect.CodeUnavailable, 503, is(raftnode.ErrForming, 500*time.Millisecond)},
	{"TIMEOUT", connect.CodeUnavailable, 503, is(raftnode.ErrTimeout, 100*time.Millisecond)},
	{"REQUEST_TIMEOUT", connect.CodeUnavailable, 408, is(errSlowRequest, 0)},
	{reasonReadFailed, connect.CodeUnavailable, 503, is(raftnode.ErrReadFailed, 10*time.Millisecond)},
	{"OVERLOADED", connect.CodeResourceExhausted, 429, as(func(e *raftnode.OverloadedError) (proto.Message, time.Duration) {
		return &raftkvv1.LimitExceeded{Field: e.Field, Limit: e.Limit, Actual: e.Actual}, max(e.RetryAfter, time.Millisecond)
	})},
	{"DISK_FULL", connect.CodeResourceExhausted, 507, as(func(e *raftnode.DiskFullError) (proto.Message, time.Duration) {
		return &raftkvv1.DiskFull{NodeId: string(e.Node), Shard: uint32(e.Shard)}, max(e.RetryAfter, time.Millisecond)
	})},
	{"REQUEST_TOO_LARGE", connect.CodeResourceExhausted, 413, as(func(e *requestSizeError) (proto.Message, time.Duration) {
		return &raftkvv1.LimitExceeded{Field: "request", Limit: e.limit, Actual: e.actual}, 0
	})},
	{"LIMIT_EXCEEDED", connect.CodeInvalidArgument, 413, as(func(e *contentSizeError) (proto.Message, time.Duration) {
		return &raftkvv1.LimitExceeded{Field: "value", Limit: e.limit, Actual: e.actual}, 0
	})},
	{"LIMIT_EXCEEDED", connect.CodeInvalidArgument, 400, as(func(e *raftnode.LimitError) (proto.Message, time.Duration) {
		return &raftkvv1.LimitExceeded{Field: e.Field, Limit: e.Limit, Actual: e.Actual}, 0
	})},
	{"INVALID", connect.CodeInvalidArgument, 400, as(func(e *raftnode.InvalidError) (proto.Message, time.Duration) {
		return badRequest(e.Field, e.Problem), 0
	})},
	{"MALFORMED", connect.CodeInvalidArgument, 400, as(func(e *malformedError) (proto.Message, time.Duration) {
		return badRequest(e.part, e.problem), 0
	})},
	{"UNSUPPORTED_MEDIA_TYPE", connect.CodeInvalidArgument, 415, as(func(e *mediaTypeError) (proto.Message, time.Duration) {
		return badRequest(e.header, e.Error()), 0
	})},
	{"NOT_ACCEPTABLE", connect.CodeInvalidArgument, 406, as(func(e *notAcceptableError) (proto.Message, time.Duration) {
		return badRequest("Accept", e.Error()), 0
	})},
	{"CROSS_SHARD", connect.CodeFailedPrecondition, 400, as(func(e *raftnode.CrossShardError) (proto.Message, time.Duration) {
		return crossShard(e), 0
	})},
	{"SESSION_EXPIRED", connect.CodeFailedPrecondition, 400, as(func(e *raftnode.SessionExpiredError) (proto.Message, time.Duration) {
		return &raftkvv1.SessionExpired{Floor: e.Floor, Revision: e.Revision}, 0
	})},
	{"PRECONDITION_FAILED", connect.CodeFailedPrecondition, 412, as(func(e *preconditionError) (proto.Message, time.Duration) {
		return &raftkvv1.PreconditionFailed{Key: e.key, Current: e.current, Revision: e.revision, Shard: e.shard}, 0
	})},
	{"COMPACTED", connect.CodeOutOfRange, 410, as(func(e *raftnode.CompactedError) (proto.Message, time.Duration) {
		return &raftkvv1.Compacted{Revision: e.Revision, Oldest: e.Oldest, Shard: uint32(e.Shard)}, 0
	})},
	{"FUTURE_REVISION", connect.CodeOutOfRange, 400, as(func(e *raftnode.FutureRevisionError) (proto.Message, time.Duration) {
		return &raftkvv1.FutureRevision{Revision: e.Revision, Current: e.Current, Shard: uint32(e.Shard)}, 0
	})},
	{"REQUEST_FENCED", connect.CodeFailedPrecondition, 409, as(func(e *raftnode.FencedError) (proto.Message, time.Duration) {
		return &raftkvv1.RequestFenced{Shard: uint32(e.Shard)}, 0
	})},
	{"IDEMPOTENCY_KEY_REUSED", connect.CodeFailedPrecondition, 422, as(func(e *raftnode.IdempotencyKeyReusedError) (proto.Message, time.Duration) {
		return &raftkvv1.IdempotencyKeyReused{IdempotencyKey: e.Key, Shard: uint32(e.Shard)}, 0
	})},
	{"LEASE_NOT_FOUND", connect.CodeFailedPrecondition, 404, as(func(e *raftnode.LeaseNotFoundError) (proto.Message, time.Duration) {
		return &raftkvv1.LeaseNotFound{LeaseId: e.ID}, 0
	})},
	{"LEASE_EXISTS", connect.CodeFailedPrecondition, 409, as(func(e *raftnode.LeaseExistsError) (proto.Message, time.Duration) {
		return &raftkvv1.LeaseExists{LeaseId: e.ID}, 0
	})},
	{"NO_SUCH_ROUTE", connect.CodeNotFound, 404, as(func(*routeError) (proto.Message, time.Duration) { return nil, 0 })},
	{"NO_SUCH_SERVICE", connect.CodeNotFound, 404, as(func(*unknownServiceError) (proto.Message, time.Duration) { return nil, 0 })},
	{"METHOD_NOT_ALLOWED", connect.CodeUnimplemented, 405, as(func(*methodError) (proto.Message, time.Duration) { return nil, 0 })},
	{"NOT_IMPLEMENTED", connect.CodeUnimplemented, 501, as(func(e *unsupportedError) (proto.Message, time.Duration) {
		return badRequest(e.what, e.Error()), 0
	})},
	{"NOT_IMPLEMENTED", connect.CodeUnimplemented, 501, as(func(e *raftnode.RevisionIgnoredError) (proto.Message, time.Duration) {
		return badRequest("revision", e.Error()), 0
	})},
	{"CROSS_ORIGIN", connect.CodePermissionDenied, 403, as(func(*originError) (proto.Message, time.Duration) { return nil, 0 })},
	{"CANCELED", connect.CodeCanceled, 499, is(context.Canceled, 0)},
	{"READ_TIMEOUT", connect.CodeDeadlineExceeded, 504, is(context.DeadlineExceeded, 0)},
}

// as matches errors of one type.
func as[E error](detail func(E) (proto.Message, time.Duration)) func(error) (proto.Message, time.Duration, bool) {
	return func(err error) (proto.Message, time.Duration, bool) {
		var e E
		if !errors.As(err, &e) {
			return nil, 0, false
		}
		d, after := detail(e)
		return d, after, true
	}
}

// is matches a sentinel.
func is(target error, retryAfter time.Duration) func(error) (proto.Message, time.Duration, bool) {
	return func(err error) (proto.Message, time.Duration, bool) {
		return nil, retryAfter, errors.Is(err, target)
	}
}

func badRequest(field, problem string) proto.Message {
	return &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: problem}}}
}

func crossShard(e *raftnode.CrossShardError) *raftkvv1.CrossShard {
	d := &raftkvv1.CrossShard{Groups: make([]*raftkvv1.CrossShard_Group, 0, len(e.Groups))}
	for _, g := range e.Groups {
		d.Groups = append(d.Groups, &raftkvv1.CrossShard_Group{Shard: uint32(g.Shard), Keys: g.Keys})
	}
	return d
}

// failure is an error as clients see it. grpc-go and the gateway find its status by GRPCStatus, Connect its own error by
// As, so the adapters pass it on as it is.
type failure struct {
	code       code
	http       int
	reason     string
	message    string
	detail     proto.Message
	retryAfter time.Duration
	// replayed: the answer is that of an earlier request under the same idempotency key.
	replayed bool
}

// failureOf finds the row of an error.
func failureOf(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	for i := range table {
		if detail, after, ok := table[i].match(err); ok {
			f := &failure{
				code: table[i].code, http: table[i].http, reason: table[i].reason,
				message: err.Error(), detail: detail, retryAfter: after,
			}
			var condition *preconditionError
			f.replayed = errors.As(err, &condition) && condition.replayed
			if f.reason == reasonReadFailed {
				f.message = raftnode.ErrReadFailed.Error() // what it wraps is for the operator
			}
			return f
		}
	}
	return &failure{
		code: connect.CodeUnknown, http: 500, reason: reasonInternal,
		message: "internal error; the log of the node has the cause. A write may or may not have been applied",
		detail:  &raftkvv1.OutcomeUnknown{Cause: "internal error"},
	}
}

func (f *failure) Error() string { return f.message }

// status is the failure as gRPC, REST and the items of Exec and Batch show it.
func (f *failure) status() *rpcstatus.Status {
	details := []proto.Message{&errdetails.ErrorInfo{Reason: f.reason, Domain: errorDomain}}
	if f.detail != nil {
		details = append(details, f.detail)
	}
	if f.retryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(f.retryAfter)})
	}
	s := &rpcstatus.Status{Code: int32(f.code), Message: f.message}
	for _, d := range details {
		a, err := anypb.New(d)
		if err != nil {
			continue // a detail holds a string that is no UTF-8; the code and the message still tell
		}
		s.Details = append(s.Details, a)
	}
	return s
}

// GRPCStatus makes grpc-go and the gateway answer with the failure.
func (f *failure) GRPCStatus() *status.Status { return status.FromProto(f.status()) }

// As makes Connect answer with the failure.
func (f *failure) As(target any) bool {
	t, ok := target.(**connect.Error)
	if !ok {
		return false
	}
	e := connect.NewError(f.code, f)
	for _, d := range f.status().GetDetails() {
		if detail, err := connect.NewErrorDetail(d); err == nil {
			e.AddDetail(detail)
		}
	}
	*t = e
	return true
}

// streamError explains why a stream could not be read or written on. limit is that of one message.
func streamError(err error, limit uint64) error {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	var c *connect.Error
	code, message := code(status.Code(err)), err.Error()
	if errors.As(err, &c) {
		code, message = c.Code(), c.Message()
	}
	switch code {
	case connect.CodeCanceled:
		return context.Canceled
	case connect.CodeDeadlineExceeded:
		return context.DeadlineExceeded
	case connect.CodeResourceExhausted:
		return &requestSizeError{limit: limit, actual: limit + 1}
	case connect.CodeInvalidArgument:
		return &malformedError{part: "message", problem: message}
	default:
		return err
	}
}

// Errors of this package.

// errSlowRequest says that a request has not come in within its time. It was not executed.
var errSlowRequest = fmt.Errorf("the request did not come in within %s; nothing was done with it", transferTimeout)

var errPanic = errors.New("the service panicked while it worked on the request")

// keyNotFoundError says that a key does not exist.
type keyNotFoundError struct {
	key      string
	revision uint64
	shard    uint32
	origin   *peerv1.Origin // of what was read
}

func (e *keyNotFoundError) Error() string { return fmt.Sprintf("the key %q does not exist", e.key) }

// preconditionError says that the condition of a request does not hold. Nothing was done.
type preconditionError struct {
	key               string
	current, revision uint64
	shard             uint32
	replayed          bool
}

func (e *preconditionError) Error() string {
	if e.current == 0 {
		return fmt.Sprintf("the condition does not hold, so nothing was done: the key %q does not exist", e.key)
	}
	return fmt.Sprintf("the condition does not hold, so nothing was done: the key %q is at mod revision %d", e.key, e.current)
}

// expiredError marks an unknown outcome whose cause is that the time of the request ran out.
type expiredError struct{ error }

func (e *expiredError) Unwrap() error { return e.error }

// requestSizeError says that a request message is too long. It was not read.
type requestSizeError struct{ limit, actual uint64 }

func (e *requestSizeError) Error() string {
	return fmt.Sprintf("the request is at least %d bytes long, the limit is %d", e.actual, e.limit)
}

// contentSizeError says that the body of a raw PUT is longer than a value may be.
type contentSizeError struct{ limit, actual uint64 }

func (e *contentSizeError) Error() string {
	return fmt.Sprintf("the value is at least %d bytes long, the limit is %d", e.actual, e.limit)
}

// malformedError says that a part of a request cannot be decoded.
type malformedError struct{ part, problem string }

func (e *malformedError) Error() string { return "cannot read the " + e.part + ": " + e.problem }

// mediaTypeError says that a body comes in a form that the route does not take.
type mediaTypeError struct{ header, got, want string }

func (e *mediaTypeError) Error() string {
	return fmt.Sprintf("%s is %q, send %s", e.header, e.got, e.want)
}

// notAcceptableError says that an answer has none of the forms that a client takes.
type notAcceptableError struct{ got, offers string }

func (e *notAcceptableError) Error() string {
	return fmt.Sprintf("Accept is %q, but the answer comes as %s; leave Accept out or name one of these", e.got, e.offers)
}

// routeError says that nothing is at a path.
type routeError struct{ path string }

func (e *routeError) Error() string {
	return fmt.Sprintf("nothing is at %s; GET / lists what is", e.path)
}

// unknownServiceError says that a health check names a service that is not here.
type unknownServiceError struct{ service string }

func (e *unknownServiceError) Error() string {
	return fmt.Sprintf("there is no service %q here; an empty name checks all", e.service)
}

// methodError says that a path does not take a method.
type methodError struct{ method, path, allow string }

func (e *methodError) Error() string {
	return fmt.Sprintf("%s does not take %s; it takes %s", e.path, e.method, e.allow)
}

// unsupportedError names what a request asks for and no release does yet.
type unsupportedError struct{ what string }

func (e *unsupportedError) Error() string {
	return e.what + " is not implemented; the request was refused rather than executed without it"
}

// originError says that a page of a foreign origin tried to write.
type originError struct{ origin string }

func (e *originError) Error() string {
	return fmt.Sprintf("pages of %s may not call this server; add the origin to its configuration", e.origin)
}
