package service

import (
	"errors"
	"fmt"
	"sync"
	"unicode/utf8"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// request is any request message.
type request = proto.Message

// rules check requests. The contract's annotations are the law, and protovalidate reads them; but it costs more than the
// rest of a small request, so the messages of the hot path are checked by hand first. TestRulesAgree holds the two together.
type rules struct {
	limits    Limits
	validator protovalidate.Validator
}

// annotations compiles the contract's rules, which takes a while, once.
var annotations = sync.OnceValues(func() (protovalidate.Validator, error) {
	return protovalidate.New(protovalidate.WithMessages(
		new(raftkvv1.ScanRequest), new(raftkvv1.ListRequest), new(raftkvv1.LocateKeyRequest), new(raftkvv1.TransferLeaderRequest),
		new(raftkvv1.WatchRequest), new(raftkvv1.GetOutcomeRequest),
		new(raftkvv1.GrantRequest), new(raftkvv1.KeepAliveRequest), new(raftkvv1.RevokeRequest), new(raftkvv1.GetLeaseRequest), new(raftkvv1.ListLeasesRequest),
	))
})

func newRules(l Limits) (*rules, error) {
	v, err := annotations()
	if err != nil {
		return nil, fmt.Errorf("the rules of the contract cannot be compiled: %w", err)
	}
	return &rules{limits: l, validator: v}, nil
}

// check returns nil, a *malformedError, a *raftnode.InvalidError or a *raftnode.LimitError.
func (r *rules) check(m request) error {
	if err := unread(m); err != nil {
		return err
	}
	switch m := m.(type) {
	case *raftkvv1.GetRequest:
		return r.checkGet(m)
	case *raftkvv1.PutRequest:
		return r.checkPut(m)
	case *raftkvv1.DeleteRequest:
		return r.checkDelete(m)
	case *raftkvv1.BatchRequest:
		return r.checkBatch(m)
	case *raftkvv1.TxnRequest:
		return r.checkTxn(m)
	default:
		return r.checkAnnotations(m)
	}
}

func (r *rules) checkGet(m *raftkvv1.GetRequest) error {
	if err := checkKey("key", m.GetKey()); err != nil {
		return err
	}
	stale := m.GetConsistency() == raftkvv1.Consistency_CONSISTENCY_STALE
	if stale && m.GetRevision() != 0 {
		return &raftnode.InvalidError{Field: "revision", Problem: "cannot be combined with consistency STALE: any replica that has the revision shows it without asking others"}
	}
	return checkStaleness(m.GetConsistency(), m.GetMaxStalenessMs(), m.GetToken())
}

// Bounds of the fields that say how new a read must be.
const (
	stalenessMax  = 86_400_000 // a day, in milliseconds
	tokenBytesMax = 64 << 10
)

func checkStaleness(c raftkvv1.Consistency, maxMs uint64, token string) error {
	switch {
	case c < 0 || c > raftkvv1.Consistency_CONSISTENCY_STALE:
		return &raftnode.InvalidError{Field: "consistency", Problem: "must be LINEARIZABLE or STALE"}
	case maxMs > stalenessMax:
		return &raftnode.LimitError{Field: "max_staleness_ms", Limit: stalenessMax, Actual: maxMs}
	case len(token) > tokenBytesMax:
		return &raftnode.LimitError{Field: "token", Limit: tokenBytesMax, Actual: uint64(len(token))}
	case c != raftkvv1.Consistency_CONSISTENCY_STALE && (maxMs != 0 || token != ""):
		return &raftnode.InvalidError{Field: "consistency", Problem: "max_staleness_ms and token need STALE"}
	}
	return nil
}

func (r *rules) checkPut(m *raftkvv1.PutRequest) error {
	if err := checkKey("key", m.GetKey()); err != nil {
		return err
	}
	if n := uint64(len(m.GetValue())); n > r.limits.ValueBytes {
		return &raftnode.LimitError{Field: "value", Limit: r.limits.ValueBytes, Actual: n}
	}
	if err := checkIdentity(m); err != nil {
		return err
	}
	if err := checkLife("", m.GetTtlMs(), m.GetLeaseId()); err != nil {
		return err
	}
	return checkCondition(m.GetCondition())
}

func (r *rules) checkDelete(m *raftkvv1.DeleteRequest) error {
	if err := checkKey("key", m.GetKey()); err != nil {
		return err
	}
	if err := checkIdentity(m); err != nil {
		return err
	}
	return checkCondition(m.GetCondition())
}

func (r *rules) checkBatch(m *raftkvv1.BatchRequest) error {
	n := uint64(len(m.GetOperations()))
	if n == 0 {
		return &raftnode.InvalidError{Field: "operations", Problem: "must not be empty"}
	}
	if n > r.limits.BatchOperations {
		return &raftnode.LimitError{Field: "operations", Limit: r.limits.BatchOperations, Actual: n}
	}
	if err := checkIdentity(m); err != nil {
		return err
	}
	if m.Atomic != nil && !m.GetAtomic() && (m.GetRequestId() != nil || m.GetIdempotencyKey() != "") {
		return &raftnode.InvalidError{Field: "atomic", Problem: "must be true for a batch with request_id or idempotency_key"}
	}
	seen := make(map[string]int, n)
	total := uint64(0)
	for i, op := range m.GetOperations() {
		key, size, err := r.checkBatchOperation(i, op)
		if err != nil {
			return err
		}
		if first, twice := seen[key]; twice {
			return &raftnode.InvalidError{
				Field:   batchKeyField(i, op),
				Problem: fmt.Sprintf("operations[%d] has the same key; a batch may touch a key once", first),
			}
		}
		seen[key] = i
		total += size
	}
	if total > r.limits.BatchBytes {
		return &raftnode.LimitError{Field: "operations", Limit: r.limits.BatchBytes, Actual: total}
	}
	return nil
}

// checkBatchOperation returns the key, and the bytes of key and value.
func (r *rules) checkBatchOperation(i int, op *raftkvv1.BatchOperation) (key string, size uint64, err error) {
	var value []byte
	switch o := op.GetOperation().(type) {
	case *raftkvv1.BatchOperation_Put_:
		key, value = o.Put.GetKey(), o.Put.GetValue()
	case *raftkvv1.BatchOperation_Delete_:
		key = o.Delete.GetKey()
	default:
		return "", 0, &raftnode.InvalidError{Field: fmt.Sprintf("operations[%d].operation", i), Problem: "must be put or delete"}
	}
	if !validKey(key) {
		return "", 0, checkKey(batchKeyField(i, op), key)
	}
	if n := uint64(len(value)); n > r.limits.ValueBytes {
		return "", 0, &raftnode.LimitError{Field: fmt.Sprintf("operations[%d].put.value", i), Limit: r.limits.ValueBytes, Actual: n}
	}
	if p := op.GetPut(); p.GetTtlMs() != 0 || p.GetLeaseId() != 0 {
		if err := checkLife(fmt.Sprintf("operations[%d].put.", i), p.GetTtlMs(), p.GetLeaseId()); err != nil {
			return "", 0, err
		}
	}
	return key, uint64(len(key) + len(value)), nil
}

func batchKeyField(i int, op *raftkvv1.BatchOperation) string {
	if op.GetDelete() != nil {
		return fmt.Sprintf("operations[%d].delete.key", i)
	}
	return fmt.Sprintf("operations[%d].put.key", i)
}

// checkExec checks a message of Exec, but not its operations: those fail one by one.
func checkExec(m *raftkvv1.ExecRequest) error {
	if n := len(m.GetOperations()); n > execOperationsMax {
		return &raftnode.LimitError{Field: "operations", Limit: execOperationsMax, Actual: uint64(n)}
	}
	return nil
}

// traceparentBytesMax is the length of a traceparent. Whether it can be read is no matter of the rules: one that cannot is none.
const traceparentBytesMax = 55

// checkExecOperation checks one operation of Exec.
func (r *rules) checkExecOperation(op *raftkvv1.ExecOperation) error {
	if n := len(op.GetTraceparent()); n > traceparentBytesMax {
		return &raftnode.LimitError{Field: "traceparent", Limit: traceparentBytesMax, Actual: uint64(n)}
	}
	switch o := op.GetOperation().(type) {
	case *raftkvv1.ExecOperation_Get:
		return r.checkGet(o.Get)
	case *raftkvv1.ExecOperation_Put:
		return r.checkPut(o.Put)
	case *raftkvv1.ExecOperation_Delete:
		return r.checkDelete(o.Delete)
	case *raftkvv1.ExecOperation_Batch:
		return r.checkBatch(o.Batch)
	case *raftkvv1.ExecOperation_Txn:
		return r.checkTxn(o.Txn)
	default:
		return &raftnode.InvalidError{Field: "operation", Problem: "must be get, put, delete, batch or txn"}
	}
}

func validKey(key string) bool {
	return key != "" && len(key) <= keyBytesMax && utf8.ValidString(key)
}

func checkKey(field, key string) error {
	switch {
	case validKey(key):
		return nil
	case key == "":
		return &raftnode.InvalidError{Field: field, Problem: "must not be empty"}
	case len(key) > keyBytesMax:
		return &raftnode.LimitError{Field: field, Limit: keyBytesMax, Actual: uint64(len(key))}
	default:
		return &raftnode.InvalidError{Field: field, Problem: "must be valid UTF-8"}
	}
}

// identified is a write that may be made safe to retry.
type identified interface {
	GetRequestId() *raftkvv1.RequestId
	GetIdempotencyKey() string
}

// checkIdentity checks what makes a write safe to retry.
func checkIdentity(m identified) error {
	if err := checkRequestID(m.GetRequestId()); err != nil {
		return err
	}
	return checkIdempotencyKey(m.GetIdempotencyKey(), m.GetRequestId())
}

func checkRequestID(id *raftkvv1.RequestId) error {
	switch {
	case id == nil:
		return nil
	case len(id.GetClientId()) != clientIDBytes:
		return &raftnode.InvalidError{Field: "request_id.client_id", Problem: fmt.Sprintf("must be %d bytes, is %d", clientIDBytes, len(id.GetClientId()))}
	case id.GetSequence() == 0:
		return &raftnode.InvalidError{Field: "request_id.sequence", Problem: "must be at least 1"}
	default:
		return nil
	}
}

// checkCondition also refuses conditions of a kind that this version does not know: without one, the write would be unconditional.
func checkCondition(m *raftkvv1.Condition) error {
	if m != nil && m.GetCondition() == nil {
		return &raftnode.InvalidError{Field: "condition.condition", Problem: "must be exists or mod_revision"}
	}
	return nil
}

// checkAnnotations checks any message by the annotations of the contract, and that its strings are UTF-8, which a fast
// decoder does not.
func (r *rules) checkAnnotations(m request) error {
	if field := invalidUTF8(m.ProtoReflect()); field != "" {
		return &raftnode.InvalidError{Field: field, Problem: "must be valid UTF-8"}
	}
	err := r.validator.Validate(m)
	var invalid *protovalidate.ValidationError
	if !errors.As(err, &invalid) {
		return err
	}
	return violationError(invalid.Violations[0])
}

// violationError is the error of one violated annotation. Bounds from above become limits, with both numbers.
func violationError(v *protovalidate.Violation) error {
	field := protovalidate.FieldPathString(v.Proto.GetField())
	switch v.Proto.GetRuleId() {
	case "string.max_bytes":
		return &raftnode.LimitError{Field: field, Limit: v.RuleValue.Uint(), Actual: uint64(len(v.FieldValue.String()))}
	case "uint32.lte", "uint64.lte":
		return &raftnode.LimitError{Field: field, Limit: v.RuleValue.Uint(), Actual: v.FieldValue.Uint()}
	case "repeated.max_items":
		return &raftnode.LimitError{Field: field, Limit: v.RuleValue.Uint(), Actual: uint64(v.FieldValue.List().Len())}
	}
	if field == "" {
		field = "request" // a rule about several fields
	}
	return &raftnode.InvalidError{Field: field, Problem: v.Proto.GetMessage()}
}

// invalidUTF8 names the first string of m, its messages included, that is no UTF-8.
func invalidUTF8(m protoreflect.Message) (field string) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.IsList() || f.IsMap() {
			return true // no request that comes here has one
		}
		switch f.Kind() {
		case protoreflect.StringKind:
			if !utf8.ValidString(v.String()) {
				field = string(f.Name())
			}
		case protoreflect.MessageKind:
			if inner := invalidUTF8(v.Message()); inner != "" {
				field = string(f.Name()) + "." + inner
			}
		default:
		}
		return field == ""
	})
	return field
}
