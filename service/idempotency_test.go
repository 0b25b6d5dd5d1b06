package service

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// TestIdempotencyKeyHeader sends each write of keys twice, and then another one.
func TestIdempotencyKeyHeader(t *testing.T) {
	for name, c := range map[string]struct{ method, path, body, other string }{
		"raw put":      {"PUT", "/v1/kv/k?prev_kv=true", "v", "w"},
		"put":          {"POST", "/v1/kv", `{"key":"k","value":"dg=="}`, `{"key":"k","value":"dw=="}`},
		"batch":        {"POST", "/v1/batch", `{"operations":[{"put":{"key":"k"}}]}`, `{"operations":[{"delete":{"key":"k"}}]}`},
		"txn":          {"POST", "/v1/txn", `{"then":[{"put":{"key":"k"}}]}`, `{"then":[{"put":{"key":"l"}}]}`},
		"connect json": {"POST", kvPath + "Put", `{"key":"k"}`, `{"key":"k","ttlMs":"5"}`},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			send := func(body string) (*http.Response, string) {
				res, b := f.restResponse(t, c.method, c.path, []byte(body), "Idempotency-Key", "order-1", "Content-Type", "application/json")
				return res, string(b)
			}
			first, was := send(c.body)
			again, is := send(c.body)
			if first.StatusCode != 200 || again.StatusCode != 200 || f.node.revision != 1 || strings.Contains(was, `"replayed":true`) || !strings.Contains(is, `"replayed":true`) {
				t.Errorf("%d %s, then %d %s; revision %d", first.StatusCode, was, again.StatusCode, is, f.node.revision)
			}
			if rest := strings.HasPrefix(c.path, "/v1/"); first.Header.Get("Idempotency-Replayed") != "" || rest && again.Header.Get("Idempotency-Replayed") != "true" {
				t.Errorf("Idempotency-Replayed is %q, then %q", first.Header.Get("Idempotency-Replayed"), again.Header.Get("Idempotency-Replayed"))
			}
			want := 422
			if strings.HasPrefix(c.path, "/raftkv.") {
				want = 400 // Connect's own
			}
			if res, b := send(c.other); res.StatusCode != want || !strings.Contains(b, "IdempotencyKeyReused") && !strings.Contains(b, "IDEMPOTENCY_KEY_REUSED") {
				t.Errorf("another write: %d %s", res.StatusCode, b)
			}
		})
	}
}

// headerTransport sends a header with every request.
type headerTransport struct {
	http.RoundTripper
	name, value string
}

func (h headerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(h.name, h.value)
	return h.RoundTripper.RoundTrip(r)
}

// protocolsWith are all ways to call a unary method, with a header each.
func (f *fixture) protocolsWith(t testing.TB, name, value string) map[string]caller {
	g := *f
	g.http = &http.Client{Transport: headerTransport{f.http.Transport, name, value}}
	g.h2c = &http.Client{Transport: headerTransport{f.h2c.Transport, name, value}}
	callers := g.protocols(t)
	callers["grpc"] = grpcCaller(f.dial(t, grpc.WithUnaryInterceptor(
		func(ctx context.Context, method string, req, res any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
			return invoke(metadata.AppendToOutgoingContext(ctx, name, value), method, req, res, conn, options...)
		})))
	return callers
}

// TestIdempotencyKeyHeaderOnEveryProtocol sends each write of keys twice, and then another one; a read does not mind the header, a lease has no use for it.
func TestIdempotencyKeyHeaderOnEveryProtocol(t *testing.T) {
	type answer interface {
		proto.Message
		GetHeader() *raftkvv1.ResponseHeader
	}
	for name := range newFixture(t).protocols(t) {
		for method, c := range map[string]struct {
			write, other proto.Message
			res          answer
		}{
			"Put":    {&raftkvv1.PutRequest{Key: "k", Value: []byte("v")}, &raftkvv1.PutRequest{Key: "k", Value: []byte("w")}, new(raftkvv1.PutResponse)},
			"Delete": {&raftkvv1.DeleteRequest{Key: "k"}, &raftkvv1.DeleteRequest{Key: "l"}, new(raftkvv1.DeleteResponse)},
			"Batch": {
				&raftkvv1.BatchRequest{Operations: []*raftkvv1.BatchOperation{deleteOp("k")}},
				&raftkvv1.BatchRequest{Operations: []*raftkvv1.BatchOperation{deleteOp("l")}}, new(raftkvv1.BatchResponse),
			},
			"Txn": {
				&raftkvv1.TxnRequest{Then: []*raftkvv1.TxnOperation{txnDelete("k", true)}},
				&raftkvv1.TxnRequest{Then: []*raftkvv1.TxnOperation{txnDelete("l", true)}}, new(raftkvv1.TxnResponse),
			},
		} {
			t.Run(name+"/"+method, func(t *testing.T) {
				f := newFixture(t)
				call := f.protocolsWith(t, "Idempotency-Key", "order-1")[name]
				for _, replayed := range []bool{false, true} {
					f.mustPut(t, "k", "there")
					before := f.node.latest()
					proto.Reset(c.res)
					if failed := call(t, kvPath+method, c.write, c.res); failed != nil || c.res.GetHeader().GetReplayed() != replayed {
						t.Errorf("%v %v, want replayed %t", failed, c.res, replayed)
					}
					if after := f.node.latest(); (after == before) != replayed {
						t.Errorf("the node was at revision %d, then %d", before, after)
					}
				}
				reused := &raftkvv1.IdempotencyKeyReused{Shard: fakeShard, IdempotencyKey: "order-1"}
				checkStatus(t, call(t, kvPath+method, c.other, c.res), codes.FailedPrecondition, "IDEMPOTENCY_KEY_REUSED", reused, 0)
				if failed := call(t, kvPath+"Get", &raftkvv1.GetRequest{Key: "k"}, new(raftkvv1.GetResponse)); failed != nil {
					t.Errorf("a read: %v", failed)
				}
				refused := badRequest("Idempotency-Key", "is for put, delete, batch and txn")
				checkStatus(t, call(t, leasePath+"Grant", &raftkvv1.GrantRequest{TtlMs: 1000}, new(raftkvv1.GrantResponse)), codes.InvalidArgument, "INVALID", refused, 0)
			})
		}
	}
}

// A delete that is sent again leaves alone what was put since, and its answer has the mark.
func TestReplayedDelete(t *testing.T) {
	f := newFixture(t)
	for i, want := range []string{"", "true"} {
		f.mustPut(t, "k", "v")
		res, b := f.restResponse(t, "DELETE", "/v1/kv/k", nil, "Idempotency-Key", "order-1")
		if res.StatusCode != 200 || !strings.Contains(string(b), `"deleted":true`) || res.Header.Get("Idempotency-Replayed") != want {
			t.Errorf("attempt %d: %d %s, replayed %q", i, res.StatusCode, b, res.Header.Get("Idempotency-Replayed"))
		}
	}
	if code, b := f.rest(t, "GET", "/v1/kv/k", nil); code != 200 || string(b) != "v" {
		t.Errorf("%d %q", code, b)
	}
	if code, b := f.rest(t, "DELETE", "/v1/kv/l", nil, "Idempotency-Key", "order-1"); code != 422 {
		t.Errorf("another delete: %d %s", code, b)
	}
}

// A condition that had failed fails again, and the answer says that it is the same.
func TestReplayedPreconditionFailed(t *testing.T) {
	f := newFixture(t)
	for i, want := range []string{"", "true"} {
		res, b := f.restResponse(t, "PUT", "/v1/kv/k", []byte("v"), "Idempotency-Key", "order-1", "If-Match", `"7"`)
		if res.StatusCode != 412 || res.Header.Get("Idempotency-Replayed") != want {
			t.Errorf("attempt %d: %d %s, replayed %q", i, res.StatusCode, b, res.Header.Get("Idempotency-Replayed"))
		}
		f.rest(t, "PUT", "/v1/kv/k", []byte("v"))
	}
}

func TestIdempotencyKeyIsRefused(t *testing.T) {
	f := newFixture(t)
	for name, c := range map[string]struct{ method, path, body, key string }{
		"lease":            {"POST", "/v1/leases", `{"ttlMs":"1000"}`, "k"},
		"lease end":        {"DELETE", "/v1/leases/1", "", "k"},
		"lead":             {"POST", "/v1/shards/1:transferLeader", `{"nodeId":"n2"}`, "k"},
		"outcome":          {"POST", "/v1/outcome", string(asJSON(t, outcomeOf("a", 1))), "k"},
		"space":            {"PUT", "/v1/kv/k", "v", "a b"},
		"letters":          {"PUT", "/v1/kv/k", "v", "\xc3\xa9"},
		"empty":            {"PUT", "/v1/kv/k", "v", ""},
		"long":             {"PUT", "/v1/kv/k", "v", strings.Repeat("k", 256)},
		"with an id":       {"DELETE", "/v1/kv/k?request_id.client_id=MDEyMzQ1Njc4OWFiY2RlZg%3D%3D&request_id.sequence=1", "", "k"},
		"another field":    {"POST", "/v1/kv", `{"key":"k","idempotencyKey":"l"}`, "k"},
		"items by itself":  {"POST", "/v1/batch", `{"operations":[{"put":{"key":"k"}}],"atomic":false}`, "k"},
		"grant by connect": {"POST", leasePath + "Grant", `{"ttlMs":"1000"}`, "k"},
	} {
		code, b := f.rest(t, c.method, c.path, []byte(c.body), "Idempotency-Key", c.key, "Content-Type", "application/json")
		if code != 400 {
			t.Errorf("%s: %d %s", name, code, b)
		}
	}
	if f.node.executed() != 0 {
		t.Error("something was done")
	}
	f.rest(t, "PUT", "/v1/kv/k", []byte("v"))
	if code, b := f.rest(t, "GET", "/v1/kv/k", nil, "Idempotency-Key", "k"); code != 200 {
		t.Errorf("a read: %d %s", code, b)
	}
	if code, b := f.rest(t, "PUT", "/v1/kv/k", []byte("v"), "Idempotency-Key", strings.Repeat("~", 255)); code != 200 {
		t.Errorf("the longest: %d %s", code, b)
	}
}

// Native gRPC has the header as metadata.
func TestIdempotencyKeyMetadata(t *testing.T) {
	f := newFixture(t)
	client := raftkvv1.NewKvServiceClient(f.dial(t))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "idempotency-key", "order-1")
	for _, want := range []bool{false, true} {
		res, err := client.Put(ctx, &raftkvv1.PutRequest{Key: "k"})
		if err != nil || res.GetHeader().GetReplayed() != want {
			t.Errorf("%v, %v", res, err)
		}
	}
}

// The operations of Exec have the field, too, and their results the mark; one that is used again does not keep it.
func TestIdempotencyKeyInExec(t *testing.T) {
	f := newFixture(t)
	call := f.execCaller(t)
	for i, want := range []bool{false, true, false} {
		req := &raftkvv1.PutRequest{Key: "k", IdempotencyKey: "order-1"}
		if i == 2 {
			req.IdempotencyKey = ""
		}
		res := new(raftkvv1.PutResponse)
		if failed := call(t, kvPath+"Put", req, res); failed != nil || res.GetHeader().GetReplayed() != want {
			t.Errorf("%v %v", res, failed)
		}
	}
	if failed := call(t, kvPath+"Delete", &raftkvv1.DeleteRequest{Key: "k", IdempotencyKey: "order-1"}, new(raftkvv1.DeleteResponse)); failed == nil {
		t.Error("another write is taken")
	}
	stream, err := raftkvv1.NewKvServiceClient(f.dial(t)).Exec(metadata.AppendToOutgoingContext(t.Context(), "idempotency-key", "order-1"))
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("the header of a stream is ignored: %v", err)
	}
}

// What the command carries: the window of the service, and a fingerprint of what is written, whatever way it comes.
func TestFingerprints(t *testing.T) {
	s, err := New(Options{Node: newFakeNode(), Limits: Limits{IdempotencyWindow: 5 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	of := func(r *raftnode.Request) *storev1.Idempotency { return s.keyed(r, "k").Command.GetIdempotency() }
	put := of(new(writeCall).put(&raftkvv1.PutRequest{Key: "a", Value: []byte("1")}))
	if put.GetKey() != "k" || put.GetWindowMs() != 5000 || len(put.GetFingerprint()) != fingerprintBytes {
		t.Error(put)
	}
	batch := of(atomicBatch(&raftkvv1.BatchRequest{Operations: []*raftkvv1.BatchOperation{putOp("a", "1")}}))
	shows := of(new(writeCall).put(&raftkvv1.PutRequest{Key: "a", Value: []byte("1"), PrevKv: true}))
	for name, other := range map[string]*storev1.Idempotency{"the same by a batch": batch, "showing what was there": shows} {
		if !proto.Equal(put, other) {
			t.Errorf("%s is another write", name)
		}
	}
	for name, r := range map[string]*raftnode.Request{
		"value":     new(writeCall).put(&raftkvv1.PutRequest{Key: "a", Value: []byte("2")}),
		"key":       new(writeCall).put(&raftkvv1.PutRequest{Key: "b", Value: []byte("1")}),
		"ttl":       new(writeCall).put(&raftkvv1.PutRequest{Key: "a", Value: []byte("1"), TtlMs: 1}),
		"condition": new(writeCall).put(&raftkvv1.PutRequest{Key: "a", Value: []byte("1"), Condition: ifExists(true)}),
		"delete":    new(writeCall).remove(&raftkvv1.DeleteRequest{Key: "a"}),
	} {
		if string(of(r).GetFingerprint()) == string(put.GetFingerprint()) {
			t.Errorf("another %s is the same write", name)
		}
	}
	if s.keyed(new(writeCall).put(&raftkvv1.PutRequest{Key: "a"}), "").Command.GetIdempotency() != nil {
		t.Error("no key is a key")
	}
	if _, err := New(Options{Node: newFakeNode(), Limits: Limits{IdempotencyWindow: time.Millisecond}}); err == nil {
		t.Error("a window of a millisecond is taken")
	}
}

// TestOutcomes is about what GetOutcome makes of what a node knows.
func TestOutcomes(t *testing.T) {
	f := newFixture(t)
	call := f.protocols(t)["grpc"]
	ask := func(sequence uint64) *raftkvv1.GetOutcomeResponse {
		t.Helper()
		res := new(raftkvv1.GetOutcomeResponse)
		if failed := call(t, kvPath+"GetOutcome", outcomeOf("k", sequence), res); failed != nil {
			t.Fatal(failed)
		}
		return res
	}
	put := func(sequence uint64, condition *raftkvv1.Condition) {
		t.Helper()
		call(t, kvPath+"Put", &raftkvv1.PutRequest{Key: "k", RequestId: requestID(sequence), Condition: condition}, new(raftkvv1.PutResponse))
	}
	put(1, nil)
	put(2, ifExists(false))
	if r := ask(1); r.GetOutcome() != raftkvv1.Outcome_OUTCOME_APPLIED || r.GetRevision() != 1 || r.GetResults()[0].GetVersion() != 1 {
		t.Error(r)
	}
	if r := ask(2); r.GetOutcome() != raftkvv1.Outcome_OUTCOME_CONDITION_FAILED || r.GetFailed().GetCurrent() != 1 {
		t.Error(r)
	}
	for range 2 {
		if r := ask(3); r.GetOutcome() != raftkvv1.Outcome_OUTCOME_NOT_APPLIED {
			t.Error(r)
		}
		got := call(t, kvPath+"Put", &raftkvv1.PutRequest{Key: "k", RequestId: requestID(3)}, new(raftkvv1.PutResponse))
		checkStatus(t, got, codes.FailedPrecondition, "REQUEST_FENCED", &raftkvv1.RequestFenced{Shard: fakeShard}, 0)
	}
	f.node.fail = func(*raftnode.Request) error {
		return &raftnode.SessionExpiredError{Shard: fakeShard, Floor: 8, Revision: 9}
	}
	if r := ask(4); r.GetOutcome() != raftkvv1.Outcome_OUTCOME_FORGOTTEN || r.GetHeader().GetRevision() != 9 || r.GetHeader().GetShard() != fakeShard {
		t.Error(r)
	}
	f.node.fail = nil
	for name, req := range map[string]*raftkvv1.GetOutcomeRequest{
		"no id":      {Subject: &raftkvv1.GetOutcomeRequest_Key{Key: "k"}},
		"no key":     {RequestId: requestID(1)},
		"bad key":    {RequestId: requestID(1), Subject: &raftkvv1.GetOutcomeRequest_Key{}},
		"no lease":   {RequestId: requestID(1), Subject: &raftkvv1.GetOutcomeRequest_LeaseId{}},
		"no grant":   {RequestId: requestID(1), Subject: &raftkvv1.GetOutcomeRequest_Grant{}},
		"no client":  {RequestId: &raftkvv1.RequestId{Sequence: 1}, Subject: &raftkvv1.GetOutcomeRequest_Key{Key: "k"}},
		"sequence 0": {RequestId: &raftkvv1.RequestId{ClientId: requestID(1).ClientId}, Subject: &raftkvv1.GetOutcomeRequest_Key{Key: "k"}},
	} {
		if got := call(t, kvPath+"GetOutcome", req, new(raftkvv1.GetOutcomeResponse)); got.GetCode() != int32(codes.InvalidArgument) {
			t.Errorf("%s: %v", name, got)
		}
	}
}
