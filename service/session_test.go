package service

import (
	"crypto/rand"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// retried is a write of a key by one method, and an empty answer to it.
type retried struct{ req, res proto.Message }

// retries are a write of a key by every method, under one identity.
func retries(id *raftkvv1.RequestId) map[string]retried {
	return map[string]retried{
		"Put":    {&raftkvv1.PutRequest{Key: "k", Value: []byte("again"), RequestId: id}, new(raftkvv1.PutResponse)},
		"Delete": {&raftkvv1.DeleteRequest{Key: "k", RequestId: id}, new(raftkvv1.DeleteResponse)},
		"Batch":  {&raftkvv1.BatchRequest{Operations: []*raftkvv1.BatchOperation{putOp("k", "again")}, RequestId: id}, new(raftkvv1.BatchResponse)},
		"Txn":    {&raftkvv1.TxnRequest{Then: []*raftkvv1.TxnOperation{txnPut("k", "again", false)}, RequestId: id}, new(raftkvv1.TxnResponse)},
	}
}

func mustPutAs(t *testing.T, call caller, id *raftkvv1.RequestId, value string) (revision uint64) {
	t.Helper()
	res := new(raftkvv1.PutResponse)
	if failed := call(t, kvPath+"Put", &raftkvv1.PutRequest{Key: "k", Value: []byte(value), RequestId: id}, res); failed != nil {
		t.Fatal(failed)
	}
	return res.GetHeader().GetRevision()
}

// mustBeForgotten wants that a write under an identity is refused by every method and changes nothing, and that its outcome is forgotten, too.
func (f *fixture) mustBeForgotten(t *testing.T, call caller, id *raftkvv1.RequestId, want *raftkvv1.SessionExpired) {
	t.Helper()
	for method, retry := range retries(id) {
		checkStatus(t, call(t, kvPath+method, retry.req, retry.res), codes.FailedPrecondition, "SESSION_EXPIRED", want, 0)
	}
	unary := f.protocols(t)["grpc"]
	outcome := new(raftkvv1.GetOutcomeResponse)
	ask := &raftkvv1.GetOutcomeRequest{RequestId: id, Subject: &raftkvv1.GetOutcomeRequest_Key{Key: "k"}}
	if failed := unary(t, kvPath+"GetOutcome", ask, outcome); failed != nil || outcome.GetOutcome() != raftkvv1.Outcome_OUTCOME_FORGOTTEN {
		t.Errorf("the outcome is %v, %v", outcome, failed)
	}
	if code, b := f.rest(t, "GET", "/v1/kv/k", nil); code != 200 || string(b) != "last" {
		t.Errorf("%d %q: a refused write was applied", code, b)
	}
}

// A client that has acknowledged an answer and asks again gets no second one, nor is the write made again.
func TestSequenceBelowTheAcknowledged(t *testing.T) {
	f := newNodeFixture(t)
	for name, call := range f.writeCallers(t) {
		t.Run(name, func(t *testing.T) {
			client := make([]byte, clientIDBytes)
			_, _ = rand.Read(client)
			mustPutAs(t, call, &raftkvv1.RequestId{ClientId: client, Sequence: 1}, "first")
			revision := mustPutAs(t, call, &raftkvv1.RequestId{ClientId: client, Sequence: 2, AckedBelow: 2}, "last")
			f.mustBeForgotten(t, call, &raftkvv1.RequestId{ClientId: client, Sequence: 1}, &raftkvv1.SessionExpired{Revision: revision})
			if again := mustPutAs(t, call, &raftkvv1.RequestId{ClientId: client, Sequence: 2, AckedBelow: 2}, "last"); again != revision {
				t.Errorf("the answer that is not acknowledged was of revision %d, now %d", revision, again)
			}
		})
	}
}

// A shard that keeps as many answers as it may forgets the client that was silent for the longest, and refuses what that has asked for before.
func TestEvictedSession(t *testing.T) {
	const kept, ofClient = 65_536, 4_096
	n := openNode(t, func(o *raftnode.Options) { o.NoSync = true })
	f := newFixture(t, func(o *Options) { o.Node = n })
	callers := f.writeCallers(t)
	id := &raftkvv1.RequestId{ClientId: make([]byte, clientIDBytes), Sequence: 1}
	first := mustPutAs(t, callers["grpc"], id, "last")
	others := func(from, to uint64) {
		results := make(chan error, ofClient)
		for i := from; i < to; i++ {
			if i >= from+ofClient {
				if err := <-results; err != nil {
					t.Fatal(err)
				}
			}
			client := make([]byte, clientIDBytes)
			client[0] = byte(1 + i/ofClient)
			r := new(writeCall).remove(&raftkvv1.DeleteRequest{Key: "none", RequestId: &raftkvv1.RequestId{ClientId: client, Sequence: 1 + i%ofClient}})
			r.Deadline, r.Done = time.Now().Add(time.Minute), func(res raftnode.Result) { results <- res.Err }
			n.Submit(r)
		}
		for range min(to-from, ofClient) {
			if err := <-results; err != nil {
				t.Fatal(err)
			}
		}
	}
	others(0, kept-1)
	for name, call := range callers {
		if again := mustPutAs(t, call, id, "last"); again != first {
			t.Errorf("%s: the answer was of revision %d, now %d", name, first, again)
		}
	}
	others(kept-1, kept)
	for name, call := range callers {
		t.Run(name, func(t *testing.T) {
			f.mustBeForgotten(t, call, id, &raftkvv1.SessionExpired{Floor: first + 1, Revision: first})
		})
	}
	seen := first // The answer named it, so a first attempt may be made again with it.
	for name, call := range callers {
		again := &raftkvv1.RequestId{ClientId: []byte(name + "0123456789abcdef")[:clientIDBytes], Sequence: 1, Seen: seen}
		seen = mustPutAs(t, call, again, "last")
	}
}
