package service

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/google/go-cmp/cmp"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

func header(revision uint64) *raftkvv1.ResponseHeader {
	return &raftkvv1.ResponseHeader{
		ClusterId: fakeCluster, NodeId: fakeID, Shard: fakeShard, Term: 3, Revision: revision, Role: raftkvv1.Role_ROLE_LEADER,
	}
}

var nodeHeader = &raftkvv1.ResponseHeader{ClusterId: fakeCluster, NodeId: fakeID}

func requestID(sequence uint64) *raftkvv1.RequestId {
	return &raftkvv1.RequestId{ClientId: []byte("0123456789abcdef"), Sequence: sequence}
}

func putOp(key, value string) *raftkvv1.BatchOperation {
	return &raftkvv1.BatchOperation{Operation: &raftkvv1.BatchOperation_Put_{Put: &raftkvv1.BatchOperation_Put{Key: key, Value: []byte(value)}}}
}

func deleteOp(key string) *raftkvv1.BatchOperation {
	return &raftkvv1.BatchOperation{Operation: &raftkvv1.BatchOperation_Delete_{Delete: &raftkvv1.BatchOperation_Delete{Key: key}}}
}

func ifExists(exists bool) *raftkvv1.Condition {
	return &raftkvv1.Condition{Condition: &raftkvv1.Condition_Exists{Exists: exists}}
}

func ifRevision(revision uint64) *raftkvv1.Condition {
	return &raftkvv1.Condition{Condition: &raftkvv1.Condition_ModRevision{ModRevision: revision}}
}

const (
	kvPath      = "/raftkv.v1.KvService/"
	clusterPath = "/raftkv.v1.ClusterService/"
	leasePath   = "/raftkv.v1.LeaseService/"
)

// script is a story that every protocol must tell alike.
var script = []struct {
	procedure string
	req, want proto.Message
}{
	{kvPath + "Put", &raftkvv1.PutRequest{Key: "a", Value: []byte("1")}, &raftkvv1.PutResponse{Header: header(1), CreateRevision: 1, Version: 1}},
	{kvPath + "Put", &raftkvv1.PutRequest{Key: "a", Value: []byte("2"), RequestId: requestID(1)}, &raftkvv1.PutResponse{Header: header(2), CreateRevision: 1, Version: 2}},
	{kvPath + "Put", &raftkvv1.PutRequest{Key: "a", Value: []byte("2"), RequestId: requestID(1)}, &raftkvv1.PutResponse{Header: header(2), CreateRevision: 1, Version: 2}},
	{kvPath + "Get", &raftkvv1.GetRequest{Key: "a"}, &raftkvv1.GetResponse{Header: header(2), Kv: &raftkvv1.KeyValue{Key: "a", Value: []byte("2"), CreateRevision: 1, ModRevision: 2, Version: 2}}},
	{kvPath + "Batch", &raftkvv1.BatchRequest{Operations: []*raftkvv1.BatchOperation{putOp("b/c", "3"), deleteOp("a"), deleteOp("none")}}, &raftkvv1.BatchResponse{
		Header: header(3), Results: []*raftkvv1.BatchResult{
			{Result: &raftkvv1.BatchResult_Put{Put: &raftkvv1.PutResponse{CreateRevision: 3, Version: 1}}},
			{Result: &raftkvv1.BatchResult_Delete{Delete: &raftkvv1.DeleteResponse{Deleted: true}}},
			{Result: &raftkvv1.BatchResult_Delete{Delete: &raftkvv1.DeleteResponse{}}},
		},
	}},
	{kvPath + "Batch", &raftkvv1.BatchRequest{Atomic: proto.Bool(false), Operations: []*raftkvv1.BatchOperation{putOp("b/d", ""), deleteOp("none")}}, &raftkvv1.BatchResponse{
		Header: nodeHeader, Results: []*raftkvv1.BatchResult{
			{Result: &raftkvv1.BatchResult_Put{Put: &raftkvv1.PutResponse{Header: header(4), CreateRevision: 4, Version: 1}}},
			{Result: &raftkvv1.BatchResult_Delete{Delete: &raftkvv1.DeleteResponse{Header: header(4)}}},
		},
	}},
	{kvPath + "List", &raftkvv1.ListRequest{Prefix: "b/", KeysOnly: true}, &raftkvv1.ListResponse{Header: header(4), Kvs: []*raftkvv1.KeyValue{
		{Key: "b/c", CreateRevision: 3, ModRevision: 3, Version: 1}, {Key: "b/d", CreateRevision: 4, ModRevision: 4, Version: 1},
	}}},
	{kvPath + "Delete", &raftkvv1.DeleteRequest{Key: "b/c", RequestId: requestID(2)}, &raftkvv1.DeleteResponse{Header: header(5), Deleted: true}},
	{kvPath + "Delete", &raftkvv1.DeleteRequest{Key: "b/c", RequestId: requestID(2)}, &raftkvv1.DeleteResponse{Header: header(5), Deleted: true}},
	{kvPath + "Delete", &raftkvv1.DeleteRequest{Key: "b/c"}, &raftkvv1.DeleteResponse{Header: header(5)}},
	{kvPath + "Delete", &raftkvv1.DeleteRequest{Key: "b/d"}, &raftkvv1.DeleteResponse{Header: header(6), Deleted: true}},
	{kvPath + "Put", &raftkvv1.PutRequest{Key: "t", TtlMs: 5000}, &raftkvv1.PutResponse{Header: header(7), CreateRevision: 7, Version: 1}},
	{kvPath + "Get", &raftkvv1.GetRequest{Key: "t"}, &raftkvv1.GetResponse{Header: header(7), Kv: &raftkvv1.KeyValue{
		Key: "t", CreateRevision: 7, ModRevision: 7, Version: 1, TtlRemainingMs: 5000,
	}}},
	{kvPath + "Delete", &raftkvv1.DeleteRequest{Key: "t"}, &raftkvv1.DeleteResponse{Header: header(8), Deleted: true}},
	{leasePath + "Grant", &raftkvv1.GrantRequest{TtlMs: 3000, RequestId: requestID(7)}, &raftkvv1.GrantResponse{Header: header(8), Lease: scriptLease}},
	{leasePath + "Grant", &raftkvv1.GrantRequest{TtlMs: 3000, RequestId: requestID(7)}, &raftkvv1.GrantResponse{Header: header(8), Lease: scriptLease}},
	{leasePath + "KeepAlive", &raftkvv1.KeepAliveRequest{Id: scriptLease.Id}, &raftkvv1.KeepAliveResponse{Header: header(8), Lease: scriptLease}},
	{kvPath + "Batch", &raftkvv1.BatchRequest{Operations: []*raftkvv1.BatchOperation{{Operation: &raftkvv1.BatchOperation_Put_{
		Put: &raftkvv1.BatchOperation_Put{Key: "l", LeaseId: scriptLease.Id},
	}}}}, &raftkvv1.BatchResponse{Header: header(9), Results: []*raftkvv1.BatchResult{
		{Result: &raftkvv1.BatchResult_Put{Put: &raftkvv1.PutResponse{CreateRevision: 9, Version: 1}}},
	}}},
	{kvPath + "List", &raftkvv1.ListRequest{KeysOnly: true}, &raftkvv1.ListResponse{Header: header(9), Kvs: []*raftkvv1.KeyValue{
		{Key: "l", CreateRevision: 9, ModRevision: 9, Version: 1, LeaseId: scriptLease.Id},
	}}},
	{leasePath + "GetLease", &raftkvv1.GetLeaseRequest{Id: scriptLease.Id, Keys: true}, &raftkvv1.GetLeaseResponse{Header: header(9), Lease: scriptLease, Keys: []string{"l"}}},
	{leasePath + "ListLeases", &raftkvv1.ListLeasesRequest{}, &raftkvv1.ListLeasesResponse{Header: nodeHeader, Leases: []*raftkvv1.Lease{scriptLease}}},
	{leasePath + "Revoke", &raftkvv1.RevokeRequest{Id: scriptLease.Id, RequestId: requestID(8)}, &raftkvv1.RevokeResponse{Header: header(10)}},
	{leasePath + "Revoke", &raftkvv1.RevokeRequest{Id: scriptLease.Id, RequestId: requestID(8)}, &raftkvv1.RevokeResponse{Header: header(10)}},
	{kvPath + "GetOutcome", outcomeOf("b/c", 2), &raftkvv1.GetOutcomeResponse{
		Header: header(5), Outcome: raftkvv1.Outcome_OUTCOME_APPLIED, Revision: 5, Results: []*raftkvv1.OutcomeResult{{Existed: true}},
	}},
	{kvPath + "GetOutcome", outcomeOf("a", 99), &raftkvv1.GetOutcomeResponse{Header: header(10), Outcome: raftkvv1.Outcome_OUTCOME_NOT_APPLIED, Revision: 10}},
	{kvPath + "GetOutcome", &raftkvv1.GetOutcomeRequest{RequestId: requestID(7), Subject: &raftkvv1.GetOutcomeRequest_Grant{Grant: true}}, &raftkvv1.GetOutcomeResponse{
		Header: header(8), Outcome: raftkvv1.Outcome_OUTCOME_APPLIED, Revision: 8, LeaseId: scriptLease.Id,
	}},
	{kvPath + "Put", keyedPut("1"), &raftkvv1.PutResponse{Header: header(11), CreateRevision: 11, Version: 1}},
	{kvPath + "Put", keyedPut("1"), &raftkvv1.PutResponse{Header: replayed(11), CreateRevision: 11, Version: 1}},
	{kvPath + "Batch", keyedBatch, &raftkvv1.BatchResponse{Header: header(12), Results: []*raftkvv1.BatchResult{
		{Result: &raftkvv1.BatchResult_Delete{Delete: &raftkvv1.DeleteResponse{Deleted: true}}},
	}}},
	{kvPath + "Batch", keyedBatch, &raftkvv1.BatchResponse{Header: replayed(12), Results: []*raftkvv1.BatchResult{
		{Result: &raftkvv1.BatchResult_Delete{Delete: &raftkvv1.DeleteResponse{Deleted: true}}},
	}}},
	{clusterPath + "ListNodes", &raftkvv1.ListNodesRequest{}, &raftkvv1.ListNodesResponse{Header: nodeHeader, Nodes: []*raftkvv1.Node{{
		Id: fakeID, ClientAddress: "127.0.0.1:2", PeerAddress: "127.0.0.1:1", Reachable: true, Shards: []uint32{0, 1}, Leads: []uint32{1},
	}}}},
	{clusterPath + "ListShards", &raftkvv1.ListShardsRequest{}, &raftkvv1.ListShardsResponse{Header: nodeHeader, Shards: wantShards, MapVersion: 9}},
	{clusterPath + "Status", &raftkvv1.StatusRequest{}, &raftkvv1.StatusResponse{
		Header:    nodeHeader,
		ClusterId: fakeCluster, NodeId: fakeID, Version: "test", Ready: true, UptimeMs: 1000, LogBytes: 10, StateBytes: 20, SyncWrite: true, Shards: wantShards,
	}},
	{clusterPath + "LocateKey", &raftkvv1.LocateKeyRequest{Key: "x/y"}, &raftkvv1.LocateKeyResponse{Header: nodeHeader, RoutingPart: "x/y", Slot: 3, Shard: 1, LeaderNodeId: fakeID}},
	{clusterPath + "GetLimits", &raftkvv1.GetLimitsRequest{}, &raftkvv1.GetLimitsResponse{Header: nodeHeader, Limits: &raftkvv1.Limits{
		KeyBytes: 4096, ValueBytes: 1 << 20, BatchOperations: 1000, BatchBytes: 4 << 20, PageItems: 1000, PageBytes: 1 << 20, RequestBytes: 8 << 20, TimeoutMs: 10_000,
		IdempotencyWindowMs: 3_600_000,
	}}},
	{clusterPath + "TransferLeader", &raftkvv1.TransferLeaderRequest{Shard: 1, NodeId: "n2"}, &raftkvv1.TransferLeaderResponse{
		Header: &raftkvv1.ResponseHeader{ClusterId: fakeCluster, NodeId: fakeID, Shard: 1, Term: 4}, LeaderNodeId: "n2", Term: 4,
	}},
}

func outcomeOf(key string, sequence uint64) *raftkvv1.GetOutcomeRequest {
	return &raftkvv1.GetOutcomeRequest{RequestId: requestID(sequence), Subject: &raftkvv1.GetOutcomeRequest_Key{Key: key}}
}

func keyedPut(value string) *raftkvv1.PutRequest {
	return &raftkvv1.PutRequest{Key: "keyed", Value: []byte(value), IdempotencyKey: "order-1"}
}

var keyedBatch = &raftkvv1.BatchRequest{Operations: []*raftkvv1.BatchOperation{deleteOp("keyed")}, IdempotencyKey: "order-2"}

// replayed is the header of an answer that came before.
func replayed(revision uint64) *raftkvv1.ResponseHeader {
	h := header(revision)
	h.Replayed = true
	return h
}

// scriptLease has the id that its request's makes.
var scriptLease = &raftkvv1.Lease{Id: leaseID(requestID(7)), TtlMs: 3000, RemainingMs: 3000}

var wantShards = []*raftkvv1.Shard{{
	Id: 1, Slots: []*raftkvv1.SlotRange{{First: 0, Last: 4095}}, LeaderNodeId: fakeID,
	Replicas: []*raftkvv1.Replica{{Id: 1, NodeId: fakeID, Role: raftkvv1.Role_ROLE_LEADER, MatchIndex: 7}},
	Term:     3, CommitIndex: 7, AppliedIndex: 7, DurableIndex: 6, FirstLogIndex: 1, LastLogIndex: 7, Revision: 5,
}}

func TestEveryMethodOnEveryProtocol(t *testing.T) {
	names := newFixture(t).protocols(t)
	for name := range names {
		t.Run(name, func(t *testing.T) {
			call := newFixture(t)
			protocol := call.protocols(t)[name]
			for _, step := range script {
				got := step.want.ProtoReflect().New().Interface()
				if failed := protocol(t, step.procedure, step.req, got); failed != nil {
					t.Fatalf("%s %v: %v", step.procedure, step.req, failed)
				}
				ignore := []cmp.Option{protocmp.Transform(), protocmp.IgnoreFields(&raftkvv1.ResponseHeader{}, "raft_index", "token")}
				if diff := cmp.Diff(step.want, got, ignore...); diff != "" {
					t.Errorf("%s %v:\n%s", step.procedure, step.req, diff)
				}
			}
		})
	}
}

// TestRoutesMatchContract holds restRoutes to the paths that the contract's annotations registered with the gateway.
func TestRoutesMatchContract(t *testing.T) {
	f := newFixture(t)
	for _, r := range restRoutes {
		path := strings.NewReplacer("{shard}", "1", "{id}", "1").Replace(r.path)
		body := []byte("{}")
		if r.bare() {
			body = nil
		}
		f.node.leases[1] = 1000
		if code, b := f.rest(t, r.method, path, body); code == 404 || code == 405 {
			t.Errorf("%s %s: %d %s", r.method, path, code, b)
		}
		if code, _ := f.rest(t, "PATCH", path, nil); code != 405 {
			t.Errorf("PATCH %s: %d", path, code)
		}
	}
}

// TestOpenAPIDescribesRawValues holds the document to what raw.go does.
func TestOpenAPIDescribesRawValues(t *testing.T) {
	var document struct {
		Paths map[string]map[string]struct {
			Consumes, Produces []string
			Parameters         []struct{ Name, In string }
			Responses          map[string]struct{ Headers map[string]any }
		}
	}
	f := newFixture(t)
	res, b := f.restResponse(t, "GET", "/openapi.json", nil)
	if res.Header.Get("Content-Type") != "application/json" {
		t.Errorf("the document comes as %q", res.Header.Get("Content-Type"))
	}
	if err := json.Unmarshal(b, &document); err != nil {
		t.Fatal(err)
	}
	key := document.Paths["/v1/kv/{key}"]
	for _, method := range []string{"PUT", "GET", "DELETE"} {
		described := key[strings.ToLower(method)]
		res, _ := f.restResponse(t, method, "/v1/kv/k", []byte("v"))
		for name := range res.Header {
			if strings.HasPrefix(name, "Raftkv-") && described.Responses["200"].Headers[name] == nil {
				t.Errorf("%s: the header %s is not described", method, name)
			}
		}
		parameters := make(map[string]string)
		for _, p := range described.Parameters {
			parameters[p.Name] = p.In
			if p.In == "query" && (method != "GET" || !readNames[p.Name]) && !writeNames[p.Name] && (method != "PUT" || p.Name != "ttl" && p.Name != "lease") {
				t.Errorf("%s: the parameter %s is not taken", method, p.Name)
			}
		}
		if parameters["If-Match"] != "header" || parameters["If-None-Match"] != "header" || described.Responses["412"].Headers["ETag"] == nil {
			t.Errorf("%s: conditions are not described", method)
		}
		if kind := res.Header.Get("Content-Type"); described.Produces != nil && !slices.Contains(described.Produces, kind) {
			t.Errorf("%s: %s is not described", method, kind)
		}
	}
	if !slices.Contains(key["put"].Consumes, "application/octet-stream") {
		t.Error("PUT of bytes is not described")
	}
}
