package service

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

func failedWith(current, revision uint64) *raftkvv1.PreconditionFailed {
	return &raftkvv1.PreconditionFailed{Key: "k", Current: current, Revision: revision, Shard: fakeShard}
}

// conditions is a story of one key that every protocol must tell alike.
var conditions = []struct {
	name   string
	req    proto.Message
	want   proto.Message
	failed *raftkvv1.PreconditionFailed
}{
	{"put over nothing", &raftkvv1.PutRequest{Key: "k", Condition: ifExists(true)}, nil, failedWith(0, 0)},
	{"put over a revision that never was", &raftkvv1.PutRequest{Key: "k", Condition: ifRevision(5)}, nil, failedWith(0, 0)},
	{"create", &raftkvv1.PutRequest{Key: "k", Condition: ifExists(false)}, &raftkvv1.PutResponse{Header: header(1), CreateRevision: 1, Version: 1}, nil},
	{"create again", &raftkvv1.PutRequest{Key: "k", Condition: ifExists(false)}, nil, failedWith(1, 1)},
	{"create again, by revision", &raftkvv1.PutRequest{Key: "k", Condition: ifRevision(0)}, nil, failedWith(1, 1)},
	{"put over a revision", &raftkvv1.PutRequest{Key: "k", Condition: ifRevision(1)}, &raftkvv1.PutResponse{Header: header(2), CreateRevision: 1, Version: 2}, nil},
	{"put over an old revision", &raftkvv1.PutRequest{Key: "k", Condition: ifRevision(1), RequestId: requestID(1)}, nil, failedWith(2, 2)},
	{"put whatever is there", &raftkvv1.PutRequest{Key: "k"}, &raftkvv1.PutResponse{Header: header(3), CreateRevision: 1, Version: 3}, nil},
	{"a retry hears what was", &raftkvv1.PutRequest{Key: "k", Condition: ifRevision(1), RequestId: requestID(1)}, nil, failedWith(2, 2)},
	{"put over something", &raftkvv1.PutRequest{Key: "k", Condition: ifExists(true), RequestId: requestID(2)}, &raftkvv1.PutResponse{Header: header(4), CreateRevision: 1, Version: 4}, nil},
	{"a retry does not compare", &raftkvv1.PutRequest{Key: "k", Condition: ifExists(true), RequestId: requestID(2)}, &raftkvv1.PutResponse{Header: header(4), CreateRevision: 1, Version: 4}, nil},
	{"delete an old revision", &raftkvv1.DeleteRequest{Key: "k", Condition: ifRevision(3)}, nil, failedWith(4, 4)},
	{"delete nothing", &raftkvv1.DeleteRequest{Key: "k", Condition: ifExists(false)}, nil, failedWith(4, 4)},
	{"delete a revision", &raftkvv1.DeleteRequest{Key: "k", Condition: ifRevision(4)}, &raftkvv1.DeleteResponse{Header: header(5), Deleted: true}, nil},
	{"delete what has gone", &raftkvv1.DeleteRequest{Key: "k", Condition: ifExists(true)}, nil, failedWith(0, 5)},
	{"delete nothing where nothing is", &raftkvv1.DeleteRequest{Key: "k", Condition: ifRevision(0)}, &raftkvv1.DeleteResponse{Header: header(5)}, nil},
	{"create by revision", &raftkvv1.PutRequest{Key: "k", Condition: ifRevision(0)}, &raftkvv1.PutResponse{Header: header(6), CreateRevision: 6, Version: 1}, nil},
}

func TestConditionsOnEveryProtocol(t *testing.T) {
	onEveryProtocol(t, func(t *testing.T, call caller) {
		for _, step := range conditions {
			procedure, got := kvPath+"Put", proto.Message(new(raftkvv1.PutResponse))
			if _, ok := step.req.(*raftkvv1.DeleteRequest); ok {
				procedure, got = kvPath+"Delete", new(raftkvv1.DeleteResponse)
			}
			status := call(t, procedure, step.req, got)
			if step.failed != nil {
				checkStatus(t, status, codes.FailedPrecondition, "PRECONDITION_FAILED", step.failed, 0)
				continue
			}
			ignore := protocmp.IgnoreFields(&raftkvv1.ResponseHeader{}, "raft_index", "token")
			if diff := cmp.Diff(step.want, got, protocmp.Transform(), ignore); status != nil || diff != "" {
				t.Errorf("%s: %v\n%s", step.name, status, diff)
			}
		}
	})
}

// TestConditionOfNoKind checks that a condition that says nothing, or something that only a later version knows, is no write without one.
func TestConditionOfNoKind(t *testing.T) {
	f := newFixture(t)
	protocols := f.writeCallers(t)
	delete(protocols, "rest") // its query cannot say it
	later := &raftkvv1.Condition{}
	later.ProtoReflect().SetUnknown([]byte{7 << 3, 1}) // a varint in field 7
	for name, call := range protocols {
		t.Run(name, func(t *testing.T) {
			want := badRequest("condition.condition", "must be exists or mod_revision")
			for _, c := range []*raftkvv1.Condition{{}, later} {
				got := call(t, kvPath+"Put", &raftkvv1.PutRequest{Key: "k", Condition: c}, new(raftkvv1.PutResponse))
				checkStatus(t, got, codes.InvalidArgument, "INVALID", want, 0)
				got = call(t, kvPath+"Delete", &raftkvv1.DeleteRequest{Key: "k", Condition: c}, new(raftkvv1.DeleteResponse))
				checkStatus(t, got, codes.InvalidArgument, "INVALID", want, 0)
			}
		})
	}
	if f.node.executed() != 0 {
		t.Error("the node was asked")
	}
}
