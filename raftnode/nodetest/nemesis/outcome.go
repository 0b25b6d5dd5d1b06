package main

import (
	"errors"
	"fmt"
	"net"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// errorDomain is that of the error details of raftkv.
const errorDomain = "raftkv"

// failure is an error of a call, judged by what the documentation promises.
type failure struct {
	err  error
	code connect.Code
	// definite: this attempt was certainly not executed, and never will be.
	definite bool
	// missing: the key does not exist.
	missing *raftkvv1.KeyNotFound
	// unmet: the condition of the write did not hold.
	unmet *raftkvv1.PreconditionFailed
	// tooStale: no state was new enough. future: it is asked for a revision that the shard has not come to. compacted: for one that it has forgotten.
	tooStale, future, compacted bool
	// leaseGone: the lease does not exist, or has ended.
	leaseGone bool
	// fenced: somebody was told that the write is not applied. expired: its client was forgotten. reused: another write has its idempotency key.
	fenced, expired, reused bool
	// cutOff: the node has not reached a majority.
	cutOff bool
	// mislabelled says why the error breaks the rules of errors; empty: it does not.
	mislabelled string
}

// judge judges the error of a call.
func judge(err error) *failure {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return &failure{err: err, definite: true} // Nothing was sent.
	}
	var coded *connect.Error
	if !errors.As(err, &coded) {
		return &failure{err: err}
	}
	var details []proto.Message
	for _, d := range coded.Details() {
		if m, err := d.Value(); err == nil {
			details = append(details, m)
		}
	}
	return judgeCode(err, coded.Code(), details)
}

// judgeStatus judges the error of one operation of a stream.
func judgeStatus(s *status.Status) *failure {
	var details []proto.Message
	for _, a := range s.GetDetails() {
		if m, err := a.UnmarshalNew(); err == nil {
			details = append(details, m)
		}
	}
	code := connect.Code(s.GetCode()) //nolint:gosec // codes are small
	return judgeCode(fmt.Errorf("%s: %s", code, s.GetMessage()), code, details)
}

func judgeCode(err error, code connect.Code, details []proto.Message) *failure {
	f := &failure{err: err, code: code}
	own, unknown := false, false
	for _, d := range details {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			own = own || d.GetDomain() == errorDomain
		case *raftkvv1.OutcomeUnknown:
			unknown = true
		case *raftkvv1.KeyNotFound:
			f.missing = d
		case *raftkvv1.PreconditionFailed:
			f.unmet = d
		case *raftkvv1.TooStale:
			f.tooStale = true
		case *raftkvv1.FutureRevision:
			f.future = true
		case *raftkvv1.Compacted:
			f.compacted = true
		case *raftkvv1.LeaseNotFound:
			f.leaseGone = true
		case *raftkvv1.RequestFenced:
			f.fenced = true
		case *raftkvv1.SessionExpired:
			f.expired = true
		case *raftkvv1.IdempotencyKeyReused:
			f.reused = true
		case *raftkvv1.CutOff:
			f.cutOff = true
		}
	}
	if !own {
		return f // Somebody between here and the node may have said so.
	}
	switch code {
	case connect.CodeUnavailable, connect.CodeResourceExhausted, connect.CodeInvalidArgument, connect.CodeFailedPrecondition, connect.CodeNotFound:
		f.definite = !unknown
		if unknown {
			f.mislabelled = fmt.Sprintf("%s says that nothing was applied, and its details that nobody knows: %v", code, err)
		}
	}
	return f
}
