package service

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

func txnGet(key string) *raftkvv1.TxnOperation {
	return &raftkvv1.TxnOperation{Operation: &raftkvv1.TxnOperation_Get_{Get: &raftkvv1.TxnOperation_Get{Key: key}}}
}

func txnPut(key, value string, prev bool) *raftkvv1.TxnOperation {
	return &raftkvv1.TxnOperation{Operation: &raftkvv1.TxnOperation_Put_{Put: &raftkvv1.TxnOperation_Put{Key: key, Value: []byte(value), PrevKv: prev}}}
}

func txnDelete(key string, prev bool) *raftkvv1.TxnOperation {
	return &raftkvv1.TxnOperation{Operation: &raftkvv1.TxnOperation_Delete_{Delete: &raftkvv1.TxnOperation_Delete{Key: key, PrevKv: prev}}}
}

func keyExists(key string, exists bool) *raftkvv1.Compare {
	return &raftkvv1.Compare{Key: key, Condition: &raftkvv1.Compare_Exists{Exists: exists}}
}

func keyValue(key, value string, create, mod, version uint64) *raftkvv1.KeyValue {
	return &raftkvv1.KeyValue{Key: key, Value: []byte(value), CreateRevision: create, ModRevision: mod, Version: version}
}

func gotResult(kv *raftkvv1.KeyValue) *raftkvv1.TxnResult {
	return &raftkvv1.TxnResult{Result: &raftkvv1.TxnResult_Get_{Get: &raftkvv1.TxnResult_Get{Kv: kv}}}
}

func putResult(create, version uint64, prev *raftkvv1.KeyValue) *raftkvv1.TxnResult {
	return &raftkvv1.TxnResult{Result: &raftkvv1.TxnResult_Put_{Put: &raftkvv1.TxnResult_Put{CreateRevision: create, Version: version, PrevKv: prev}}}
}

func deleteResult(deleted bool, prev *raftkvv1.KeyValue) *raftkvv1.TxnResult {
	return &raftkvv1.TxnResult{Result: &raftkvv1.TxnResult_Delete_{Delete: &raftkvv1.TxnResult_Delete{Deleted: deleted, PrevKv: prev}}}
}

// transactions is a story that every protocol must tell alike.
var transactions = []struct {
	name string
	req  proto.Message
	want proto.Message
}{
	{
		"create two", &raftkvv1.TxnRequest{Compare: []*raftkvv1.Compare{keyExists("a", false)}, Then: []*raftkvv1.TxnOperation{txnPut("a", "1", true), txnPut("b", "1", false)}},
		&raftkvv1.TxnResponse{Header: header(1), Succeeded: true, Results: []*raftkvv1.TxnResult{putResult(1, 1, nil), putResult(1, 1, nil)}},
	},
	{
		"the other branch", &raftkvv1.TxnRequest{
			Compare: []*raftkvv1.Compare{keyExists("b", true), {Key: "a", Condition: &raftkvv1.Compare_ModRevision{ModRevision: 7}}},
			Then:    []*raftkvv1.TxnOperation{txnPut("a", "2", true)}, Else: []*raftkvv1.TxnOperation{txnGet("a"), txnGet("z")},
		},
		&raftkvv1.TxnResponse{Header: header(1), Failed: &raftkvv1.FailedCompare{Index: 1, Current: 1}, Results: []*raftkvv1.TxnResult{gotResult(keyValue("a", "1", 1, 1, 1)), gotResult(nil)}},
	},
	{
		"by value, with what was there", &raftkvv1.TxnRequest{
			Compare:   []*raftkvv1.Compare{{Key: "a", Condition: &raftkvv1.Compare_Value{Value: []byte("1")}}},
			Then:      []*raftkvv1.TxnOperation{txnPut("a", "2", true), txnGet("b"), txnDelete("c", true)},
			RequestId: requestID(1),
		},
		&raftkvv1.TxnResponse{Header: header(2), Succeeded: true, Results: []*raftkvv1.TxnResult{
			putResult(1, 2, keyValue("a", "1", 1, 1, 1)), gotResult(keyValue("b", "1", 1, 1, 1)), deleteResult(false, nil),
		}},
	},
	{
		"put shows what it replaces", &raftkvv1.PutRequest{Key: "a", Value: []byte("3"), PrevKv: true},
		&raftkvv1.PutResponse{Header: header(3), CreateRevision: 1, Version: 3, PrevKv: keyValue("a", "2", 1, 2, 2)},
	},
	{
		"a retry shows what it has seen", &raftkvv1.TxnRequest{
			Compare:   []*raftkvv1.Compare{{Key: "a", Condition: &raftkvv1.Compare_Value{Value: []byte("1")}}},
			Then:      []*raftkvv1.TxnOperation{txnPut("a", "2", true), txnGet("b"), txnDelete("c", true)},
			RequestId: requestID(1),
		},
		&raftkvv1.TxnResponse{Header: header(2), Succeeded: true, Results: []*raftkvv1.TxnResult{
			putResult(1, 2, keyValue("a", "1", 1, 1, 1)), gotResult(keyValue("b", "1", 1, 1, 1)), deleteResult(false, nil),
		}},
	},
	{
		"delete shows what it removes", &raftkvv1.DeleteRequest{Key: "b", PrevKv: true},
		&raftkvv1.DeleteResponse{Header: header(4), Deleted: true, PrevKv: keyValue("b", "1", 1, 1, 1)},
	},
	{"an old revision", &raftkvv1.GetRequest{Key: "b", Revision: 3}, &raftkvv1.GetResponse{Header: header(3), Kv: keyValue("b", "1", 1, 1, 1)}},
	{
		"compares alone", &raftkvv1.TxnRequest{Compare: []*raftkvv1.Compare{keyExists("b", true)}},
		&raftkvv1.TxnResponse{Header: header(4), Failed: &raftkvv1.FailedCompare{}},
	},
	{
		"delete with what was there", &raftkvv1.TxnRequest{Then: []*raftkvv1.TxnOperation{txnDelete("a", true)}},
		&raftkvv1.TxnResponse{Header: header(5), Succeeded: true, Results: []*raftkvv1.TxnResult{deleteResult(true, keyValue("a", "3", 1, 3, 3))}},
	},
}

func TestTransactionsOnEveryProtocol(t *testing.T) {
	onEveryProtocol(t, func(t *testing.T, call caller) {
		for _, step := range transactions {
			procedure := kvPath + strings.TrimSuffix(string(step.req.ProtoReflect().Descriptor().Name()), "Request")
			got := step.want.ProtoReflect().New().Interface()
			status := call(t, procedure, step.req, got)
			ignore := protocmp.IgnoreFields(&raftkvv1.ResponseHeader{}, "raft_index", "token")
			if diff := cmp.Diff(step.want, got, protocmp.Transform(), ignore); status != nil || diff != "" {
				t.Errorf("%s: %v\n%s", step.name, status, diff)
			}
		}
		for revision, reason := range map[uint64]string{1: "KEY_NOT_FOUND", 99: "FUTURE_REVISION"} {
			status := call(t, kvPath+"Get", &raftkvv1.GetRequest{Key: "never", Revision: revision}, new(raftkvv1.GetResponse))
			if !strings.Contains(fmt.Sprint(status), reason) {
				t.Errorf("revision %d: %v, want %s", revision, status, reason)
			}
		}
	})
}

// What a transaction shows is charged to its stream, and given back.
func TestTransactionsAreCharged(t *testing.T) {
	f := newFixture(t)
	f.node.records["a"], f.node.revision = recordOf(strings.Repeat("v", 1<<20)), 1
	f.node.past["a"] = []pastRecord{{1, f.node.records["a"]}}
	call := f.execCaller(t)
	res := new(raftkvv1.TxnResponse)
	if status := call(t, kvPath+"Txn", &raftkvv1.TxnRequest{Then: []*raftkvv1.TxnOperation{txnGet("a")}}, res); status != nil || len(res.GetResults()[0].GetGet().GetKv().GetValue()) != 1<<20 {
		t.Fatalf("%v", status)
	}
	retry(t, func() bool { return f.service.budget.used.Load() == 0 })
}

// A stream takes no more operations than it has room for what they may show, and gets the room back that they have not needed.
func TestWhatWritesShowIsBounded(t *testing.T) {
	const value, room = 1 << 20, 9 << 20
	f := newFixture(t, func(o *Options) { o.Limits.StreamBytes, o.Limits.ValueBytes = room, value })
	for name, c := range map[string]struct {
		op   *raftkvv1.ExecOperation
		most int
	}{
		"put":    {execOf(&raftkvv1.PutRequest{Key: "k", PrevKv: true}), room / value},
		"delete": {execOf(&raftkvv1.DeleteRequest{Key: "k", PrevKv: true}), room / value},
		"txn":    {execOf(&raftkvv1.TxnRequest{Then: []*raftkvv1.TxnOperation{txnGet("a"), txnPut("b", "", true), txnGet("c")}}), room / (3 * value)},
		"a txn that shows more than an answer holds": {execOf(&raftkvv1.TxnRequest{
			Compare: []*raftkvv1.Compare{keyExists("a", true)},
			Else:    []*raftkvv1.TxnOperation{txnGet("a"), txnGet("b"), txnGet("c"), txnGet("d"), txnDelete("e", true), txnDelete("f", true)},
		}), room / (4 * value)},
	} {
		t.Run(name, func(t *testing.T) {
			x := &execution{service: f.service, wake: make(chan struct{}, 1), room: make(chan struct{}, 1), readCharge: chargeReadFirst}
			var ops []*raftkvv1.ExecOperation
			for range 100 {
				ops = append(ops, c.op)
			}
			admitted, ok := x.tryAdmit(ops, time.Now(), time.Now())
			if !ok || len(admitted) == 0 || len(admitted) > c.most {
				t.Fatalf("%d are admitted, there is room for what %d show", len(admitted), c.most)
			}
			for _, o := range admitted {
				o.done(raftnode.Result{Read: &peerv1.ReadResult{Records: []*peerv1.KeyRecord{{Key: "k", Record: recordOf("short")}}}})
			}
			if x.inFlightBytes > uint64(len(admitted))*(chargeBase*8) || f.service.budget.used.Load() != int64(x.inFlightBytes) {
				t.Errorf("%d bytes are in flight, %d in the budget", x.inFlightBytes, f.service.budget.used.Load())
			}
			x.abandon()
			if used := f.service.budget.used.Load(); used != 0 {
				t.Errorf("%d bytes are used", used)
			}
		})
	}
}

func TestBadTransactions(t *testing.T) {
	f := newFixture(t)
	get := []*raftkvv1.TxnOperation{txnGet("a")}
	many := make([]*raftkvv1.TxnOperation, 129)
	for i := range many {
		many[i] = txnGet(fmt.Sprint(i))
	}
	compares := make([]*raftkvv1.Compare, 129)
	for i := range compares {
		compares[i] = keyExists(fmt.Sprint(i), true)
	}
	large := make([]*raftkvv1.TxnOperation, 5)
	for i := range large {
		large[i] = txnPut(fmt.Sprint(i), strings.Repeat("v", 1<<20), false)
	}
	protocols := f.writeCallers(t)
	for name, bad := range map[string]struct {
		req                  *raftkvv1.TxnRequest
		reason, field, limit string
	}{
		"nothing":            {&raftkvv1.TxnRequest{}, "INVALID", "request", ""},
		"else of nothing":    {&raftkvv1.TxnRequest{Then: get, Else: get}, "INVALID", "request", ""},
		"no key":             {&raftkvv1.TxnRequest{Then: []*raftkvv1.TxnOperation{txnGet("")}}, "INVALID", "then[0].get.key", ""},
		"no operation":       {&raftkvv1.TxnRequest{Then: []*raftkvv1.TxnOperation{{}}}, "INVALID", "then[0].operation", ""},
		"no condition":       {&raftkvv1.TxnRequest{Compare: []*raftkvv1.Compare{{Key: "a"}}}, "INVALID", "compare[0].condition", ""},
		"a key twice":        {&raftkvv1.TxnRequest{Then: []*raftkvv1.TxnOperation{txnGet("a"), txnPut("a", "", false)}}, "INVALID", "then[1].put.key", ""},
		"too many":           {&raftkvv1.TxnRequest{Then: many}, "LIMIT_EXCEEDED", "then", "128"},
		"too many otherwise": {&raftkvv1.TxnRequest{Compare: []*raftkvv1.Compare{keyExists("a", true)}, Else: many}, "LIMIT_EXCEEDED", "else", "128"},
		"too many compares":  {&raftkvv1.TxnRequest{Compare: compares}, "LIMIT_EXCEEDED", "compare", "128"},
		"twice otherwise":    {&raftkvv1.TxnRequest{Compare: compares[:1], Else: []*raftkvv1.TxnOperation{txnDelete("a", false), txnGet("a")}}, "INVALID", "else[1].get.key", ""},
		"a long value":       {&raftkvv1.TxnRequest{Then: []*raftkvv1.TxnOperation{txnPut("a", strings.Repeat("v", 1<<20+1), false)}}, "LIMIT_EXCEEDED", "then[0].put.value", "1048576"},
		"too much":           {&raftkvv1.TxnRequest{Then: large}, "LIMIT_EXCEEDED", "request", "4194304"},
		"a bad request id":   {&raftkvv1.TxnRequest{Then: get, RequestId: &raftkvv1.RequestId{Sequence: 1}}, "INVALID", "request_id.client_id", ""},
	} {
		for protocol, call := range protocols {
			text := fmt.Sprint(call(t, kvPath+"Txn", bad.req, new(raftkvv1.TxnResponse)))
			for _, want := range []string{bad.reason, bad.field, bad.limit} {
				if !strings.Contains(text, want) {
					t.Errorf("%s, %s: %s lacks %q", name, protocol, text, want)
				}
			}
		}
	}
	if n := f.node.executed(); n != 0 {
		t.Errorf("%d were executed", n)
	}
}

func TestCompactedOnEveryProtocol(t *testing.T) {
	f := newFixture(t)
	f.node.fail = func(*raftnode.Request) error {
		return &raftnode.CompactedError{Shard: fakeShard, Revision: 3, Oldest: 9}
	}
	for _, call := range f.protocols(t) {
		status := call(t, kvPath+"Get", &raftkvv1.GetRequest{Key: "k", Revision: 3}, new(raftkvv1.GetResponse))
		checkStatus(t, status, codes.OutOfRange, "COMPACTED", &raftkvv1.Compacted{Revision: 3, Oldest: 9, Shard: fakeShard}, 0)
	}
}
