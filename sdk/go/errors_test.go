package raftkv

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// Every error of a server is judged: whether it may have been applied, and whether to try again. The same error means
// the same on a stream and in a unary call.
func TestJudgement(t *testing.T) {
	info := &errdetails.ErrorInfo{Reason: "X", Domain: "raftkv"}
	wait := &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)}
	for _, row := range []struct {
		code           connect.Code
		details        []proto.Message
		unknown, retry bool
		as             any
	}{
		{connect.CodeNotFound, []proto.Message{info, &raftkvv1.KeyNotFound{Key: "k"}}, false, false, new(*KeyNotFoundError)},
		{connect.CodeUnavailable, []proto.Message{info, &raftkvv1.NotLeader{Shard: 1}}, false, true, new(*NotLeaderError)},
		{connect.CodeUnavailable, []proto.Message{info, &raftkvv1.StaleRoute{Slot: 1}}, false, true, new(*StaleRouteError)},
		{connect.CodeUnavailable, []proto.Message{info}, false, true, new(*ServerError)},
		{connect.CodeUnavailable, nil, true, true, nil}, // a proxy may say so
		{connect.CodeResourceExhausted, []proto.Message{info, &raftkvv1.LimitExceeded{}, wait}, false, true, new(*OverloadedError)},
		{connect.CodeResourceExhausted, []proto.Message{info, wait}, false, true, new(*OverloadedError)},
		{connect.CodeResourceExhausted, []proto.Message{info, &raftkvv1.DiskFull{NodeId: "n2"}, wait}, false, false, new(*DiskFullError)},
		{connect.CodeResourceExhausted, []proto.Message{info, &raftkvv1.LimitExceeded{}}, false, false, new(*LimitError)},
		{connect.CodeInvalidArgument, []proto.Message{info, &raftkvv1.LimitExceeded{}}, false, false, new(*LimitError)},
		{connect.CodeInvalidArgument, nil, false, false, new(*InvalidError)},
		{connect.CodeDeadlineExceeded, []proto.Message{info, &raftkvv1.OutcomeUnknown{}}, true, true, nil},
		{connect.CodeUnknown, []proto.Message{info, &raftkvv1.OutcomeUnknown{}}, true, true, nil},
		{connect.CodeDeadlineExceeded, []proto.Message{info}, false, true, new(*ServerError)},
		{connect.CodeInternal, nil, true, true, nil},
		{connect.CodeFailedPrecondition, []proto.Message{info, &raftkvv1.CrossShard{}}, false, false, new(*CrossShardError)},
		{connect.CodeFailedPrecondition, []proto.Message{info, &raftkvv1.PreconditionFailed{}}, false, false, new(*PreconditionFailedError)},
		{connect.CodeFailedPrecondition, []proto.Message{info, &raftkvv1.SessionExpired{}}, false, false, new(*SessionExpiredError)},
		{connect.CodeFailedPrecondition, []proto.Message{info, &raftkvv1.RequestFenced{}}, false, false, new(*FencedError)},
		{connect.CodeFailedPrecondition, []proto.Message{info, &raftkvv1.LeaseNotFound{LeaseId: 7}}, false, false, new(*LeaseNotFoundError)},
		{connect.CodeFailedPrecondition, []proto.Message{info, &raftkvv1.LeaseExists{LeaseId: 7}}, false, false, new(*LeaseExistsError)},
		{connect.CodeUnavailable, []proto.Message{info, &raftkvv1.TooStale{Shard: 1}, wait}, false, true, new(*TooStaleError)},
		{connect.CodeUnavailable, []proto.Message{info, &raftkvv1.CutOff{Shard: 1}, wait}, false, true, new(*CutOffError)},
		{connect.CodeOutOfRange, []proto.Message{info, &raftkvv1.Compacted{}}, false, false, new(*CompactedError)},
		{connect.CodePermissionDenied, []proto.Message{info}, false, false, nil},
	} {
		t.Run(fmt.Sprint(row.code, " ", len(row.details)), func(t *testing.T) {
			s := &status.Status{Code: int32(row.code), Message: "m"}
			e := connect.NewError(row.code, errors.New("m"))
			for _, m := range row.details {
				a, err := anypb.New(m)
				if err != nil {
					t.Fatal(err)
				}
				d, err := connect.NewErrorDetail(m)
				if err != nil {
					t.Fatal(err)
				}
				s.Details = append(s.Details, a)
				e.AddDetail(d)
			}
			for _, f := range []*failure{judgeStatus(s), judgeCall(e, true)} {
				if f.unknown != row.unknown || f.retry != row.retry || f.ended {
					t.Errorf("unknown %t, retry %t: %v", f.unknown, f.retry, f.err)
				}
				if row.as != nil && !errors.As(f.err, row.as) {
					t.Errorf("%T: %v", f.err, f.err)
				}
			}
			if f := judgeCall(e, false); f.unknown || !f.retry {
				t.Errorf("not sent, yet unknown %t, retry %t", f.unknown, f.retry)
			}
		})
	}
}

func TestAttemptsAreBounded(t *testing.T) {
	c := call{name: "put", key: strings.Repeat("k", 1000), write: true, lost: true}
	for i := range 20 {
		c.record("host:1", fmt.Errorf("error %d", i))
	}
	var e *OutcomeUnknownError
	if err := c.end(ErrTimeout); !errors.As(err, &e) || len(e.Attempts) != attemptsMax || e.Omitted != 12 {
		t.Fatalf("%v", err)
	}
	if text := e.Error(); !strings.Contains(text, "20 attempts") || !strings.Contains(text, "error 19") || len(text) > 1000 {
		t.Fatalf("%s", text)
	}
}

// An error that is that of the only attempt is told once, and with it for whom it was waited.
func TestOneAttemptIsToldOnce(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{context.DeadlineExceeded, `get "k": context deadline exceeded; waiting for host:1`},
		{ErrTimeout, `get "k": the timeout of the client passed: context deadline exceeded; waiting for host:1`},
		{&KeyNotFoundError{Key: "k"}, `get "k": key "k" not found`},
	} {
		story := call{name: "get", key: "k"}
		story.record("host:1", c.err)
		if got := story.end(c.err).Error(); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}

// Why the answer of a write is gone: the cluster has not kept it, or the client has said that it has it.
func TestSessionExpiredTellsWhy(t *testing.T) {
	for floor, want := range map[uint64]string{7: "before revision 7", 0: "the client itself has acknowledged"} {
		a, err := anypb.New(&raftkvv1.SessionExpired{Floor: floor, Revision: 9})
		if err != nil {
			t.Fatal(err)
		}
		f := judgeStatus(&status.Status{Code: int32(connect.CodeFailedPrecondition), Details: []*anypb.Any{a}})
		if text := f.err.Error(); !strings.Contains(text, want) || strings.Contains(text, "revision 0") {
			t.Errorf("floor %d: %s", floor, text)
		}
	}
}

// Attempts in a row that failed alike are told once.
func TestRepeatedAttemptsAreToldOnce(t *testing.T) {
	c := call{name: "status"}
	for _, text := range []string{"refused", "refused", "refused", "reset", "refused"} {
		c.record("host:1", errors.New(text))
	}
	c.record("host:2", errors.New("refused"))
	text := c.end(ErrTimeout).Error()
	if want := "; 6 attempts: host:1: refused (3 times), host:1: reset, host:1: refused, host:2: refused"; !strings.HasSuffix(text, want) {
		t.Error(text)
	}
}

// The server gets less time than the caller has, so that its answer comes first.
func TestServerGetsLessTime(t *testing.T) {
	for left, most := range map[time.Duration]uint32{10 * time.Second: 9750, 400 * time.Millisecond: 300, 0: 1} {
		request := &raftkvv1.ExecRequest{}
		fill(request, 1, []*op{{deadline: time.Now().Add(left)}}, time.Hour)
		if request.TimeoutMs > most || request.TimeoutMs == 0 {
			t.Errorf("of %s the server gets %d ms", left, request.TimeoutMs)
		}
	}
}

// Names of metrics and spans do not differ from call to call.
func TestOperationNames(t *testing.T) {
	for name, want := range map[string]string{
		"get": "get", "batch of 3 from": "batch", "txn on": "txn", "list nodes": "list nodes", `locate "list 5"`: "locate", "keep lease 17 alive": "keep lease alive",
	} {
		if got := operationOf(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// What got lost on its way tells nothing about load, so another attempt takes nothing from the budget.
func TestWhatIsFree(t *testing.T) {
	unknown := func(code connect.Code) *failure {
		a, err := anypb.New(&raftkvv1.OutcomeUnknown{Cause: "a test"})
		if err != nil {
			t.Fatal(err)
		}
		return judgeStatus(&status.Status{Code: int32(code), Details: []*anypb.Any{a}})
	}
	for _, row := range []struct {
		f    *failure
		free bool
	}{
		{notSent(errors.New("refused")), true},
		{brokenStream(errors.New("reset"), true), true},
		{unknown(connect.CodeUnknown), true},
		{unknown(connect.CodeDeadlineExceeded), false},
		{judgeStatus(&status.Status{Code: int32(connect.CodeUnavailable)}), false},
		{(&op{attempt: time.Second}).expired(true), false},
	} {
		if row.f.free != row.free || !row.f.retry {
			t.Errorf("%v: free %t", row.f.err, row.f.free)
		}
	}
}
