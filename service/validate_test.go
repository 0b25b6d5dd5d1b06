package service

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// Generators of messages near the borders of the rules.

func genKey(label string) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		switch rapid.IntRange(0, 6).Draw(t, label) {
		case 0:
			return ""
		case 1:
			return strings.Repeat("k", 4096)
		case 2:
			return strings.Repeat("k", 4097)
		case 3:
			return strings.Repeat("é", 2048)
		case 4:
			return strings.Repeat("é", 2048) + "x"
		default:
			return rapid.String().Draw(t, label)
		}
	})
}

func genRequestID() *rapid.Generator[*raftkvv1.RequestId] {
	return rapid.Custom(func(t *rapid.T) *raftkvv1.RequestId {
		if rapid.Bool().Draw(t, "absent") {
			return nil
		}
		return &raftkvv1.RequestId{
			ClientId: make([]byte, rapid.SampledFrom([]int{0, 15, 16, 17}).Draw(t, "client")),
			Sequence: rapid.Uint64Range(0, 2).Draw(t, "sequence"), Seen: rapid.Uint64().Draw(t, "seen"), AckedBelow: rapid.Uint64().Draw(t, "acked"),
		}
	})
}

func genIdempotencyKey() *rapid.Generator[string] {
	return rapid.SampledFrom([]string{"", "", "", "k", "a b", "é", "\x7f", strings.Repeat("k", 255), strings.Repeat("k", 256)})
}

func genCondition() *rapid.Generator[*raftkvv1.Condition] {
	return rapid.Custom(func(t *rapid.T) *raftkvv1.Condition {
		switch rapid.IntRange(0, 3).Draw(t, "condition") {
		case 0:
			return nil
		case 1:
			return &raftkvv1.Condition{}
		case 2:
			return ifExists(rapid.Bool().Draw(t, "exists"))
		default:
			return ifRevision(rapid.Uint64().Draw(t, "revision"))
		}
	})
}

func genTTL() *rapid.Generator[uint64] {
	return rapid.SampledFrom([]uint64{0, 0, 0, 1, ttlMillisMax, ttlMillisMax + 1})
}

func genLeaseID() *rapid.Generator[uint64] {
	return rapid.SampledFrom([]uint64{0, 0, 0, 1, leaseIDMax, leaseIDMax + 1})
}

func genBatchOperation() *rapid.Generator[*raftkvv1.BatchOperation] {
	return rapid.Custom(func(t *rapid.T) *raftkvv1.BatchOperation {
		key := genKey("batch key").Draw(t, "key")
		switch rapid.IntRange(0, 6).Draw(t, "kind") {
		case 0:
			return &raftkvv1.BatchOperation{}
		case 1, 2:
			return deleteOp(key)
		default:
			op := putOp(key, "v")
			op.GetPut().TtlMs, op.GetPut().LeaseId = genTTL().Draw(t, "ttl"), genLeaseID().Draw(t, "lease")
			return op
		}
	})
}

func genBatch() *rapid.Generator[*raftkvv1.BatchRequest] {
	return rapid.Custom(func(t *rapid.T) *raftkvv1.BatchRequest {
		m := &raftkvv1.BatchRequest{RequestId: genRequestID().Draw(t, "id"), IdempotencyKey: genIdempotencyKey().Draw(t, "idempotency key")}
		if rapid.Bool().Draw(t, "atomic set") {
			m.Atomic = proto.Bool(rapid.Bool().Draw(t, "atomic"))
		}
		if rapid.IntRange(0, 9).Draw(t, "many") == 0 {
			for i := range rapid.SampledFrom([]int{999, 1000, 1001}).Draw(t, "count") {
				m.Operations = append(m.Operations, deleteOp(fmt.Sprint(i)))
			}
			return m
		}
		m.Operations = rapid.SliceOfN(genBatchOperation(), 0, 4).Draw(t, "operations")
		return m
	})
}

func genTxnOperation() *rapid.Generator[*raftkvv1.TxnOperation] {
	return rapid.Custom(func(t *rapid.T) *raftkvv1.TxnOperation {
		key := genKey("txn key").Draw(t, "key")
		switch rapid.IntRange(0, 6).Draw(t, "kind") {
		case 0:
			return &raftkvv1.TxnOperation{}
		case 1, 2:
			return txnDelete(key, rapid.Bool().Draw(t, "prev"))
		case 3:
			return txnGet(key)
		default:
			return txnPut(key, "v", rapid.Bool().Draw(t, "prev"))
		}
	})
}

func genCompare() *rapid.Generator[*raftkvv1.Compare] {
	return rapid.Custom(func(t *rapid.T) *raftkvv1.Compare {
		c := keyExists(genKey("compare key").Draw(t, "key"), rapid.Bool().Draw(t, "exists"))
		switch rapid.IntRange(0, 4).Draw(t, "condition") {
		case 0:
			c.Condition = nil
		case 1:
			c.Condition = &raftkvv1.Compare_Value{Value: []byte("v")}
		case 2:
			c.Condition = &raftkvv1.Compare_ModRevision{ModRevision: 7}
		}
		return c
	})
}

func genTxn() *rapid.Generator[*raftkvv1.TxnRequest] {
	return rapid.Custom(func(t *rapid.T) *raftkvv1.TxnRequest {
		m := &raftkvv1.TxnRequest{
			Compare: rapid.SliceOfN(genCompare(), 0, 2).Draw(t, "compare"), Then: rapid.SliceOfN(genTxnOperation(), 0, 3).Draw(t, "then"),
			Else: rapid.SliceOfN(genTxnOperation(), 0, 2).Draw(t, "else"), RequestId: genRequestID().Draw(t, "id"),
			IdempotencyKey: genIdempotencyKey().Draw(t, "idempotency key"),
		}
		if rapid.IntRange(0, 9).Draw(t, "many") == 0 {
			for i := range rapid.SampledFrom([]int{128, 129}).Draw(t, "count") {
				m.Then = append(m.Then, txnGet(fmt.Sprint("key ", i)))
			}
		}
		return m
	})
}

func genHot() *rapid.Generator[proto.Message] {
	return rapid.Custom(func(t *rapid.T) proto.Message {
		key := genKey("key").Draw(t, "key")
		switch rapid.IntRange(0, 4).Draw(t, "message") {
		case 0:
			return &raftkvv1.GetRequest{
				Key: key, Revision: rapid.SampledFrom([]uint64{0, 0, 7}).Draw(t, "revision"),
				Consistency:    rapid.SampledFrom([]raftkvv1.Consistency{0, 0, 1, 2, 2, 3, -1}).Draw(t, "consistency"),
				MaxStalenessMs: rapid.SampledFrom([]uint64{0, 0, 1, stalenessMax, stalenessMax + 1}).Draw(t, "staleness"),
				Token:          rapid.SampledFrom([]string{"", "", "x", strings.Repeat("x", tokenBytesMax), strings.Repeat("x", tokenBytesMax+1)}).Draw(t, "token"),
			}
		case 1:
			return &raftkvv1.PutRequest{
				Key: key, Value: []byte("v"), RequestId: genRequestID().Draw(t, "id"), Condition: genCondition().Draw(t, "condition"),
				TtlMs: genTTL().Draw(t, "ttl"), LeaseId: genLeaseID().Draw(t, "lease"),
				IdempotencyKey: genIdempotencyKey().Draw(t, "idempotency key"),
			}
		case 2:
			return &raftkvv1.DeleteRequest{
				Key: key, RequestId: genRequestID().Draw(t, "id"), Condition: genCondition().Draw(t, "condition"),
				IdempotencyKey: genIdempotencyKey().Draw(t, "idempotency key"),
			}
		case 3:
			return genTxn().Draw(t, "txn")
		default:
			return genBatch().Draw(t, "batch")
		}
	})
}

func genTraceparent() *rapid.Generator[string] {
	return rapid.SampledFrom([]string{"", "", "", "unreadable", strings.Repeat("0", traceparentBytesMax), strings.Repeat("0", traceparentBytesMax+1)})
}

// TestRulesAgree holds the hand-written rules of the hot messages to the annotations of the contract.
func TestRulesAgree(t *testing.T) {
	r := testRules(t)
	validator, err := protovalidate.New()
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		m := genHot().Draw(t, "message")
		agree(t, r.check(m), validator.Validate(m))
		op := execOf(m)
		op.Traceparent = genTraceparent().Draw(t, "traceparent")
		fast, slow := r.checkExecOperation(op), validator.Validate(op)
		if duplicate(fast) {
			return
		}
		if (fast == nil) != (slow == nil) {
			t.Fatalf("exec: by hand %v, by annotation %v", fast, slow)
		}
	})
}

// agree fails unless both accept, or the field refused by hand is among those refused by annotation.
func agree(t *rapid.T, fast, slow error) {
	if duplicate(fast) {
		return // a rule that no annotation can say; it may hide a later field that both refuse
	}
	if (fast == nil) != (slow == nil) {
		t.Fatalf("by hand %v, by annotation %v", fast, slow)
	}
	if fast == nil {
		return
	}
	var invalid *protovalidate.ValidationError
	if !errors.As(slow, &invalid) {
		t.Fatal(slow)
	}
	for _, v := range invalid.Violations {
		if sameRefusal(fast, violationError(v)) {
			return
		}
	}
	t.Fatalf("by hand %v, by annotation %v", fast, slow)
}

// sameRefusal says whether two errors refuse the same field in the same way. Rules over several fields, and ones over the
// members of a oneof, name less by annotation.
func sameRefusal(fast, slow error) bool {
	var fastLimit, slowLimit *raftnode.LimitError
	if errors.As(fast, &fastLimit) {
		return errors.As(slow, &slowLimit) && *fastLimit == *slowLimit
	}
	var fastInvalid, slowInvalid *raftnode.InvalidError
	return errors.As(fast, &fastInvalid) && errors.As(slow, &slowInvalid) &&
		(strings.HasPrefix(fastInvalid.Field, slowInvalid.Field) || slowInvalid.Field == "request")
}

func duplicate(err error) bool {
	return err != nil && strings.Contains(err.Error(), " may touch a key once")
}

func testRules(t testing.TB) *rules {
	t.Helper()
	l, err := Limits{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRules(l)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tracedGet(traceparent string) *raftkvv1.ExecOperation {
	op := execGet(1, "k")
	op.Traceparent = traceparent
	return op
}

// FuzzRulesAgree does the same from bytes on the wire, which a message can come from that no generator makes.
func FuzzRulesAgree(f *testing.F) {
	for _, m := range []proto.Message{
		&raftkvv1.ExecRequest{Operations: []*raftkvv1.ExecOperation{execGet(1, "k"), execPut(2, "", "v"), {Id: 3}}},
		&raftkvv1.ExecRequest{Operations: []*raftkvv1.ExecOperation{execGet(1, "\xff")}},
		&raftkvv1.ExecRequest{Operations: []*raftkvv1.ExecOperation{
			execOf(&raftkvv1.PutRequest{Key: "k", Condition: &raftkvv1.Condition{}}), execOf(&raftkvv1.DeleteRequest{Key: "k", Condition: ifRevision(1)}),
		}},
		&raftkvv1.ExecRequest{Operations: []*raftkvv1.ExecOperation{
			tracedGet(strings.Repeat("0", traceparentBytesMax)), tracedGet(strings.Repeat("0", traceparentBytesMax+1)),
		}},
	} {
		b, err := (&connectCodec{}).Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	r := testRules(f)
	validator, err := protovalidate.New()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fast := new(raftkvv1.ExecRequest)
		if readMessage(b, fast) != nil {
			return
		}
		for _, op := range fast.GetOperations() {
			err := r.checkExecOperation(op)
			if duplicate(err) || (err != nil && strings.Contains(err.Error(), "UTF-8")) {
				continue // proto.Unmarshal would not have let it in
			}
			if slow := validator.Validate(op); (err == nil) != (slow == nil) {
				t.Fatalf("%v: by hand %v, by annotation %v", op, err, slow)
			}
		}
	})
}

// TestLimitsOnEveryProtocol has the bounds that no annotation knows, and the strings that are no UTF-8.
func TestLimitsOnEveryProtocol(t *testing.T) {
	f := newFixture(t, func(o *Options) {
		o.Limits.ValueBytes, o.Limits.BatchBytes, o.Limits.BatchOperations = 100, 150, 3
	})
	big := strings.Repeat("v", 101)
	cases := []struct {
		procedure string
		req       proto.Message
		reason    string
		detail    proto.Message
	}{
		{kvPath + "Put", &raftkvv1.PutRequest{Key: "k", Value: []byte(big)}, "LIMIT_EXCEEDED", &raftkvv1.LimitExceeded{Field: "value", Limit: 100, Actual: 101}},
		{kvPath + "Put", &raftkvv1.PutRequest{Key: strings.Repeat("k", 4097)}, "LIMIT_EXCEEDED", &raftkvv1.LimitExceeded{Field: "key", Limit: 4096, Actual: 4097}},
		{kvPath + "Batch", &raftkvv1.BatchRequest{Operations: []*raftkvv1.BatchOperation{deleteOp("a"), putOp("b", big)}}, "LIMIT_EXCEEDED", &raftkvv1.LimitExceeded{Field: "operations[1].put.value", Limit: 100, Actual: 101}},
		{kvPath + "Batch", &raftkvv1.BatchRequest{Operations: []*raftkvv1.BatchOperation{putOp("a", big[:90]), putOp("b", big[:90])}}, "LIMIT_EXCEEDED", &raftkvv1.LimitExceeded{Field: "operations", Limit: 150, Actual: 182}},
		{kvPath + "Batch", &raftkvv1.BatchRequest{Operations: []*raftkvv1.BatchOperation{deleteOp("a"), deleteOp("b"), deleteOp("c"), deleteOp("d")}}, "LIMIT_EXCEEDED", &raftkvv1.LimitExceeded{Field: "operations", Limit: 3, Actual: 4}},
		{kvPath + "Batch", &raftkvv1.BatchRequest{Operations: []*raftkvv1.BatchOperation{deleteOp("a"), putOp("a", "")}}, "INVALID", badRequest("operations[1].put.key", "operations[0] has the same key; a batch may touch a key once")},
		{kvPath + "List", &raftkvv1.ListRequest{Limit: 10_001}, "LIMIT_EXCEEDED", &raftkvv1.LimitExceeded{Field: "limit", Limit: 10_000, Actual: 10_001}},
		{kvPath + "List", &raftkvv1.ListRequest{Prefix: strings.Repeat("k", 4097)}, "LIMIT_EXCEEDED", &raftkvv1.LimitExceeded{Field: "prefix", Limit: 4096, Actual: 4097}},
		{kvPath + "List", &raftkvv1.ListRequest{Prefix: "a", Start: "b"}, "INVALID", badRequest("request", "prefix cannot be combined with start or end")},
		{kvPath + "List", &raftkvv1.ListRequest{PageToken: "garbage"}, "INVALID", badRequest("page_token", "is not a token that this server made")},
		{kvPath + "Put", &raftkvv1.PutRequest{Key: "k", TtlMs: ttlMillisMax + 1}, "LIMIT_EXCEEDED", &raftkvv1.LimitExceeded{Field: "ttl_ms", Limit: ttlMillisMax, Actual: ttlMillisMax + 1}},
		{kvPath + "Put", &raftkvv1.PutRequest{Key: "k", TtlMs: 1, LeaseId: 1}, "INVALID", badRequest("lease_id", "cannot be combined with ttl_ms")},
		{clusterPath + "TransferLeader", &raftkvv1.TransferLeaderRequest{Shard: 1}, "INVALID", badRequest("node_id", "must be at least 1 characters")},
	}
	for name, call := range f.protocols(t) {
		for _, c := range cases {
			t.Run(name+"/"+c.reason, func(t *testing.T) {
				got := call(t, c.procedure, c.req, new(raftkvv1.GetResponse))
				checkStatus(t, got, codes.InvalidArgument, c.reason, c.detail, 0)
			})
		}
	}
	f.node.mu.Lock()
	defer f.node.mu.Unlock()
	if f.node.index != 0 {
		t.Error("the node was asked")
	}
}

// TestInvalidUTF8 sends strings that are no UTF-8 through the decoders that do not look.
func TestInvalidUTF8(t *testing.T) {
	r := testRules(t)
	for _, m := range []proto.Message{
		&raftkvv1.GetRequest{Key: "\xff"}, &raftkvv1.PutRequest{Key: "a\xc0\x80"}, &raftkvv1.DeleteRequest{Key: "\xed\xa0\x80"},
		&raftkvv1.BatchRequest{Operations: []*raftkvv1.BatchOperation{deleteOp("\xff")}},
		&raftkvv1.ListRequest{Prefix: "\xff"}, &raftkvv1.ListRequest{PageToken: "\xff"},
		&raftkvv1.ScanRequest{Range: &raftkvv1.KeyRange{End: "\xff"}},
		&raftkvv1.LocateKeyRequest{Key: "\xff"}, &raftkvv1.TransferLeaderRequest{NodeId: "\xff"},
	} {
		var invalid *raftnode.InvalidError
		if err := r.check(m); !errors.As(err, &invalid) || invalid.Problem != "must be valid UTF-8" {
			t.Errorf("%T: %v", m, err)
		}
	}
}
