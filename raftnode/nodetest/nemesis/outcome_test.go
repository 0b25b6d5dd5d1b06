package main

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

func TestJudge(t *testing.T) {
	own := &errdetails.ErrorInfo{Domain: errorDomain}
	coded := func(code connect.Code, details ...proto.Message) error {
		e := connect.NewError(code, errors.New("x"))
		for _, d := range details {
			detail, err := connect.NewErrorDetail(d)
			if err != nil {
				t.Fatal(err)
			}
			e.AddDetail(detail)
		}
		return e
	}
	for name, test := range map[string]struct {
		err                            error
		definite, missing, mislabelled bool
	}{
		"not leader":                  {err: coded(connect.CodeUnavailable, own, &raftkvv1.NotLeader{}), definite: true},
		"overload":                    {err: coded(connect.CodeResourceExhausted, own), definite: true},
		"session expired":             {err: coded(connect.CodeFailedPrecondition, own, &raftkvv1.SessionExpired{}), definite: true},
		"fenced":                      {err: coded(connect.CodeFailedPrecondition, own, &raftkvv1.RequestFenced{}), definite: true},
		"key reused":                  {err: coded(connect.CodeFailedPrecondition, own, &raftkvv1.IdempotencyKeyReused{}), definite: true},
		"no such key":                 {err: coded(connect.CodeNotFound, own, &raftkvv1.KeyNotFound{}), definite: true, missing: true},
		"outcome unknown":             {err: coded(connect.CodeUnknown, own, &raftkvv1.OutcomeUnknown{})},
		"late":                        {err: coded(connect.CodeDeadlineExceeded, own, &raftkvv1.OutcomeUnknown{})},
		"internal":                    {err: coded(connect.CodeInternal, own)},
		"of a stranger":               {err: coded(connect.CodeUnavailable, &errdetails.ErrorInfo{Domain: "proxy"})},
		"connection lost":             {err: coded(connect.CodeUnavailable)},
		"nothing listens":             {err: connect.NewError(connect.CodeUnavailable, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), definite: true},
		"reset":                       {err: connect.NewError(connect.CodeUnavailable, &net.OpError{Op: "read", Err: syscall.ECONNRESET})},
		"unknown, called unavailable": {err: coded(connect.CodeUnavailable, own, &raftkvv1.OutcomeUnknown{}), mislabelled: true},
		"no error of the library":     {err: errors.New("x")},
	} {
		f := judge(test.err)
		if f.expired != (name == "session expired") || f.fenced != (name == "fenced") || f.reused != (name == "key reused") {
			t.Errorf("%s: %+v", name, f)
		}
		if f.definite != test.definite || (f.missing != nil) != test.missing || (f.mislabelled != "") != test.mislabelled {
			t.Errorf("%s: %+v", name, f)
		}
	}
}
