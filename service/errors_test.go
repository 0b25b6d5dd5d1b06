package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/google/go-cmp/cmp"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

var ignored = &raftnode.RevisionIgnoredError{Node: "n2", Shard: 3, Revision: 4, Shown: 9}

// errorRows are one error for each row of the table, and what clients must see.
var errorRows = []struct {
	err    error
	code   codes.Code
	http   int
	reason string
	detail proto.Message
	retry  time.Duration
}{
	{&expiredError{&raftnode.UnknownOutcomeError{Shard: 2, Cause: "slow"}}, codes.DeadlineExceeded, 504, "OUTCOME_UNKNOWN", &raftkvv1.OutcomeUnknown{Shard: 2, Cause: "slow"}, 0},
	{&raftnode.UnknownOutcomeError{Shard: 2, Cause: "lost"}, codes.Unknown, 500, "OUTCOME_UNKNOWN", &raftkvv1.OutcomeUnknown{Shard: 2, Cause: "lost"}, 0},
	{&keyNotFoundError{key: "k", revision: 3, shard: 1}, codes.NotFound, 404, "KEY_NOT_FOUND", &raftkvv1.KeyNotFound{Key: "k", Revision: 3, Shard: 1}, 0},
	{&raftnode.NotLeaderError{Shard: 1, Leader: "n2", Endpoint: "h:1"}, codes.Unavailable, 503, "NOT_LEADER", &raftkvv1.NotLeader{Shard: 1, LeaderNodeId: "n2", LeaderEndpoint: "h:1"}, time.Millisecond},
	{&raftnode.NotLeaderError{Shard: 1}, codes.Unavailable, 503, "NOT_LEADER", &raftkvv1.NotLeader{Shard: 1}, 100 * time.Millisecond},
	{&raftnode.NoReplicaError{Shard: 4}, codes.Unavailable, 503, "NO_REPLICA", &raftkvv1.NotLeader{Shard: 4}, 100 * time.Millisecond},
	{&raftnode.StaleRouteError{Shard: 4, Slot: 17}, codes.Unavailable, 503, "STALE_ROUTE", &raftkvv1.StaleRoute{Shard: 4, Slot: 17}, 10 * time.Millisecond},
	{fmt.Errorf("wrapped: %w", raftnode.ErrStopped), codes.Unavailable, 503, "STOPPING", nil, 100 * time.Millisecond},
	{raftnode.ErrForming, codes.Unavailable, 503, "FORMING", nil, 500 * time.Millisecond},
	{raftnode.ErrTimeout, codes.Unavailable, 503, "TIMEOUT", nil, 100 * time.Millisecond},
	{errSlowRequest, codes.Unavailable, 408, "REQUEST_TIMEOUT", nil, 0},
	{errors.Join(raftnode.ErrReadFailed, errors.New("secret of the disk")), codes.Unavailable, 503, "READ_FAILED", nil, 10 * time.Millisecond},
	{&raftnode.DiskFullError{Shard: 3, Node: "n2", RetryAfter: time.Second}, codes.ResourceExhausted, 507, "DISK_FULL", &raftkvv1.DiskFull{NodeId: "n2", Shard: 3}, time.Second},
	{&raftnode.OverloadedError{Field: "queue", Limit: 5, Actual: 6, RetryAfter: 2 * time.Second}, codes.ResourceExhausted, 429, "OVERLOADED", &raftkvv1.LimitExceeded{Field: "queue", Limit: 5, Actual: 6}, 2 * time.Second},
	{&requestSizeError{limit: 5, actual: 6}, codes.ResourceExhausted, 413, "REQUEST_TOO_LARGE", &raftkvv1.LimitExceeded{Field: "request", Limit: 5, Actual: 6}, 0},
	{&contentSizeError{limit: 5, actual: 6}, codes.InvalidArgument, 413, "LIMIT_EXCEEDED", &raftkvv1.LimitExceeded{Field: "value", Limit: 5, Actual: 6}, 0},
	{&raftnode.LimitError{Field: "key", Limit: 5, Actual: 6}, codes.InvalidArgument, 400, "LIMIT_EXCEEDED", &raftkvv1.LimitExceeded{Field: "key", Limit: 5, Actual: 6}, 0},
	{&raftnode.InvalidError{Field: "key", Problem: "is odd"}, codes.InvalidArgument, 400, "INVALID", badRequest("key", "is odd"), 0},
	{&malformedError{part: "body", problem: "is odd"}, codes.InvalidArgument, 400, "MALFORMED", badRequest("body", "is odd"), 0},
	{&mediaTypeError{header: "Content-Encoding", got: "br", want: "none"}, codes.InvalidArgument, 415, "UNSUPPORTED_MEDIA_TYPE", badRequest("Content-Encoding", `Content-Encoding is "br", send none`), 0},
	{&notAcceptableError{got: "text/html", offers: "application/json"}, codes.InvalidArgument, 406, "NOT_ACCEPTABLE", badRequest("Accept", `Accept is "text/html", but the answer comes as application/json; leave Accept out or name one of these`), 0},
	{&raftnode.CrossShardError{Groups: []raftnode.ShardKeys{{Shard: 1, Keys: []string{"a"}}, {Shard: 2, Keys: []string{"b"}}}}, codes.FailedPrecondition, 400, "CROSS_SHARD", &raftkvv1.CrossShard{Groups: []*raftkvv1.CrossShard_Group{{Shard: 1, Keys: []string{"a"}}, {Shard: 2, Keys: []string{"b"}}}}, 0},
	{&raftnode.SessionExpiredError{Shard: 1, Floor: 8, Revision: 9}, codes.FailedPrecondition, 400, "SESSION_EXPIRED", &raftkvv1.SessionExpired{Floor: 8, Revision: 9}, 0},
	{&raftnode.SessionExpiredError{Shard: 1, Revision: 9}, codes.FailedPrecondition, 400, "SESSION_EXPIRED", &raftkvv1.SessionExpired{Revision: 9}, 0},
	{&preconditionError{key: "k", current: 7, revision: 9, shard: 1}, codes.FailedPrecondition, 412, "PRECONDITION_FAILED", &raftkvv1.PreconditionFailed{Key: "k", Current: 7, Revision: 9, Shard: 1}, 0},
	{
		&raftnode.TooStaleError{Shard: 1, Age: 31 * time.Second, Bound: time.Second, RetryAfter: 100 * time.Millisecond}, codes.Unavailable, 503, "TOO_STALE",
		&raftkvv1.TooStale{Shard: 1, FreshnessMs: 31_000, MaxStalenessMs: 1000}, 100 * time.Millisecond,
	},
	{&raftnode.CutOffError{Shard: 1, For: 31 * time.Second}, codes.Unavailable, 503, "CUT_OFF", &raftkvv1.CutOff{Shard: 1, ForMs: 31_000}, time.Millisecond},
	{&raftnode.FencedError{Shard: 3}, codes.FailedPrecondition, 409, "REQUEST_FENCED", &raftkvv1.RequestFenced{Shard: 3}, 0},
	{
		&raftnode.IdempotencyKeyReusedError{Shard: 3, Key: "k"}, codes.FailedPrecondition, 422, "IDEMPOTENCY_KEY_REUSED",
		&raftkvv1.IdempotencyKeyReused{Shard: 3, IdempotencyKey: "k"}, 0,
	},
	{&raftnode.LeaseNotFoundError{ID: 7}, codes.FailedPrecondition, 404, "LEASE_NOT_FOUND", &raftkvv1.LeaseNotFound{LeaseId: 7}, 0},
	{&raftnode.LeaseExistsError{ID: 7}, codes.FailedPrecondition, 409, "LEASE_EXISTS", &raftkvv1.LeaseExists{LeaseId: 7}, 0},
	{
		&raftnode.CompactedError{Shard: 3, Revision: 4, Oldest: 9}, codes.OutOfRange, 410, "COMPACTED",
		&raftkvv1.Compacted{Shard: 3, Revision: 4, Oldest: 9}, 0,
	},
	{
		&raftnode.FutureRevisionError{Shard: 3, Revision: 12, Current: 9}, codes.OutOfRange, 400, "FUTURE_REVISION",
		&raftkvv1.FutureRevision{Shard: 3, Revision: 12, Current: 9}, 0,
	},
	{&routeError{"/x"}, codes.NotFound, 404, "NO_SUCH_ROUTE", nil, 0},
	{&unknownServiceError{"x"}, codes.NotFound, 404, "NO_SUCH_SERVICE", nil, 0},
	{&methodError{method: "PATCH", path: "/x", allow: "GET"}, codes.Unimplemented, 405, "METHOD_NOT_ALLOWED", nil, 0},
	{&unsupportedError{"If-Match"}, codes.Unimplemented, 501, "NOT_IMPLEMENTED", badRequest("If-Match", (&unsupportedError{"If-Match"}).Error()), 0},
	{ignored, codes.Unimplemented, 501, "NOT_IMPLEMENTED", badRequest("revision", ignored.Error()), 0},
	{&originError{"http://x"}, codes.PermissionDenied, 403, "CROSS_ORIGIN", nil, 0},
	{context.Canceled, codes.Canceled, 499, "CANCELED", nil, 0},
	{context.DeadlineExceeded, codes.DeadlineExceeded, 504, "READ_TIMEOUT", nil, 0},
	{errors.New("secret of the node"), codes.Unknown, 500, "INTERNAL", &raftkvv1.OutcomeUnknown{Cause: "internal error"}, 0},
}

func TestEveryErrorOnEveryProtocol(t *testing.T) {
	f := newFixture(t)
	protocols := f.writeCallers(t)
	for _, row := range errorRows {
		for name, call := range protocols {
			t.Run(fmt.Sprintf("%s/%s", row.reason, name), func(t *testing.T) {
				f.node.fail = func(*raftnode.Request) error { return row.err }
				got := call(t, kvPath+"Get", &raftkvv1.GetRequest{Key: "k"}, new(raftkvv1.GetResponse))
				checkStatus(t, got, row.code, row.reason, row.detail, row.retry)
			})
		}
		t.Run(row.reason+"/rest status", func(t *testing.T) {
			f.node.fail = func(*raftnode.Request) error { return row.err }
			res, b := f.restResponse(t, "GET", "/v1/kv/k", nil)
			if res.StatusCode != row.http {
				t.Errorf("status %d, want %d", res.StatusCode, row.http)
			}
			if strings.Contains(string(b), "secret") {
				t.Errorf("the answer tells what is inside: %s", b)
			}
			if (res.Header.Get("Retry-After") != "") != (row.retry > 0) {
				t.Errorf("Retry-After is %q", res.Header.Get("Retry-After"))
			}
			if !strings.HasPrefix(string(b), `{"code":`) {
				t.Errorf("body %s", b)
			}
		})
	}
}

func checkStatus(t *testing.T, got *spb.Status, code codes.Code, reason string, detail proto.Message, retry time.Duration) {
	t.Helper()
	if got == nil {
		t.Fatal("no error came")
	}
	if codes.Code(got.GetCode()) != code {
		t.Errorf("code %v, want %v: %s", codes.Code(got.GetCode()), code, got.GetMessage())
	}
	var gotDetail proto.Message
	var gotReason string
	var gotRetry time.Duration
	for _, a := range got.GetDetails() {
		m, err := a.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		switch d := m.(type) {
		case *errdetails.ErrorInfo:
			gotReason = d.GetReason()
			if d.GetDomain() != "raftkv" {
				t.Errorf("domain %q", d.GetDomain())
			}
		case *errdetails.RetryInfo:
			gotRetry = d.GetRetryDelay().AsDuration()
		default:
			gotDetail = m
		}
	}
	if gotReason != reason || gotRetry != retry {
		t.Errorf("reason %q, retry after %v; want %q, %v", gotReason, gotRetry, reason, retry)
	}
	if (detail == nil) != (gotDetail == nil) || (detail != nil && cmp.Diff(detail, gotDetail, protocmp.Transform()) != "") {
		t.Errorf("detail %v, want %v", gotDetail, detail)
	}
}

// TestTableIsCovered fails if a row of the table has no test or no line in DESIGN.md.
func TestTableIsCovered(t *testing.T) {
	design, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, row := range table {
		if !slices.ContainsFunc(errorRows, func(tested struct {
			err    error
			code   codes.Code
			http   int
			reason string
			detail proto.Message
			retry  time.Duration
		},
		) bool {
			for j := range table {
				if _, _, ok := table[j].match(tested.err); ok {
					return i == j
				}
			}
			return false
		}) {
			t.Errorf("row %d (%s) has no test", i, row.reason)
		}
		line := fmt.Sprintf("| `%s` | %s | %d |", row.reason, strings.ToUpper(row.code.String()), row.http)
		if !strings.Contains(string(design), line) {
			t.Errorf("DESIGN.md lacks the line %s", line)
		}
	}
}

// TestExpiredWrite checks that a write whose time runs out has an unknown outcome, on every protocol.
func TestExpiredWrite(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.Limits.Timeout = 20 * time.Millisecond })
	f.node.hold = true
	for name, call := range f.protocols(t) {
		t.Run(name, func(t *testing.T) {
			for _, m := range []proto.Message{
				&raftkvv1.PutRequest{Key: "k"}, &raftkvv1.BatchRequest{Operations: []*raftkvv1.BatchOperation{putOp("a", "1")}},
			} {
				got := call(t, kvPath+strings.TrimSuffix(string(m.ProtoReflect().Descriptor().Name()), "Request"), m, new(raftkvv1.PutResponse))
				if got.GetCode() != int32(codes.DeadlineExceeded) || !strings.Contains(protojson.Format(got), "OutcomeUnknown") {
					t.Errorf("%v", got)
				}
			}
		})
	}
}

// TestPanic checks that a panic of one request is the end of that request only.
func TestPanic(t *testing.T) {
	f := newFixture(t)
	f.node.fail = func(r *raftnode.Request) error {
		if r.Read.GetKeys()[0] == "bad" {
			f.node.mu.Unlock() // as execute's caller would
			defer f.node.mu.Lock()
			panic("bad")
		}
		return nil
	}
	for name, call := range f.protocols(t) {
		t.Run(name, func(t *testing.T) {
			got := call(t, kvPath+"Get", &raftkvv1.GetRequest{Key: "bad"}, new(raftkvv1.GetResponse))
			checkStatus(t, got, codes.Unknown, "INTERNAL", &raftkvv1.OutcomeUnknown{Cause: "internal error"}, 0)
			got = call(t, kvPath+"Get", &raftkvv1.GetRequest{Key: "good"}, new(raftkvv1.GetResponse))
			checkStatus(t, got, codes.NotFound, "KEY_NOT_FOUND", &raftkvv1.KeyNotFound{Key: "good", Shard: fakeShard}, 0)
		})
	}
}
