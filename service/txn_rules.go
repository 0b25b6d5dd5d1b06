package service

import (
	"fmt"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// txnItemsMax bounds each list of a transaction.
const txnItemsMax = 128

func (r *rules) checkTxn(m *raftkvv1.TxnRequest) error {
	if len(m.GetCompare())+len(m.GetThen()) == 0 {
		return &raftnode.InvalidError{Field: "request", Problem: "compare or then must have something"}
	}
	if len(m.GetElse()) > 0 && len(m.GetCompare()) == 0 {
		return &raftnode.InvalidError{Field: "request", Problem: "else needs a compare that may not hold"}
	}
	total, err := r.checkCompares(m.GetCompare())
	if err != nil {
		return err
	}
	then, err := r.checkTxnOperations("then", m.GetThen())
	if err != nil {
		return err
	}
	otherwise, err := r.checkTxnOperations("else", m.GetElse())
	if err != nil {
		return err
	}
	if total += then + otherwise; total > r.limits.BatchBytes {
		return &raftnode.LimitError{Field: "request", Limit: r.limits.BatchBytes, Actual: total}
	}
	return checkIdentity(m)
}

// checkCompares returns the bytes of keys and values.
func (r *rules) checkCompares(cs []*raftkvv1.Compare) (total uint64, err error) {
	if len(cs) > txnItemsMax {
		return 0, &raftnode.LimitError{Field: "compare", Limit: txnItemsMax, Actual: uint64(len(cs))}
	}
	for i, c := range cs {
		if !validKey(c.GetKey()) {
			return 0, checkKey(fmt.Sprintf("compare[%d].key", i), c.GetKey())
		}
		if c.GetCondition() == nil { // also one of a kind that this version does not know: it must not be left out
			return 0, &raftnode.InvalidError{Field: fmt.Sprintf("compare[%d].condition", i), Problem: "must be exists, mod_revision or value"}
		}
		if n := uint64(len(c.GetValue())); n > r.limits.ValueBytes {
			return 0, &raftnode.LimitError{Field: fmt.Sprintf("compare[%d].value", i), Limit: r.limits.ValueBytes, Actual: n}
		}
		total += uint64(len(c.GetKey()) + len(c.GetValue()))
	}
	return total, nil
}

// checkTxnOperations returns the bytes of keys and values.
func (r *rules) checkTxnOperations(field string, ops []*raftkvv1.TxnOperation) (total uint64, err error) {
	if len(ops) > txnItemsMax {
		return 0, &raftnode.LimitError{Field: field, Limit: txnItemsMax, Actual: uint64(len(ops))}
	}
	seen := make(map[string]int, len(ops))
	for i, op := range ops {
		kind, key, value := txnParts(op)
		if kind == "" {
			return 0, &raftnode.InvalidError{Field: fmt.Sprintf("%s[%d].operation", field, i), Problem: "must be get, put or delete"}
		}
		at := fmt.Sprintf("%s[%d].%s.key", field, i, kind)
		if !validKey(key) {
			return 0, checkKey(at, key)
		}
		if first, twice := seen[key]; twice {
			return 0, &raftnode.InvalidError{Field: at, Problem: fmt.Sprintf("%s[%d] has the same key; a transaction may touch a key once", field, first)}
		}
		seen[key] = i
		if n := uint64(len(value)); n > r.limits.ValueBytes {
			return 0, &raftnode.LimitError{Field: fmt.Sprintf("%s[%d].put.value", field, i), Limit: r.limits.ValueBytes, Actual: n}
		}
		if p := op.GetPut(); p != nil {
			if err := checkLife(fmt.Sprintf("%s[%d].put.", field, i), p.GetTtlMs(), p.GetLeaseId()); err != nil {
				return 0, err
			}
		}
		total += uint64(len(key) + len(value))
	}
	return total, nil
}

// txnParts takes one operation apart; the kind is empty if this version does not know it.
func txnParts(op *raftkvv1.TxnOperation) (kind, key string, value []byte) {
	switch o := op.GetOperation().(type) {
	case *raftkvv1.TxnOperation_Get_:
		return "get", o.Get.GetKey(), nil
	case *raftkvv1.TxnOperation_Put_:
		return "put", o.Put.GetKey(), o.Put.GetValue()
	case *raftkvv1.TxnOperation_Delete_:
		return "delete", o.Delete.GetKey(), nil
	default:
		return "", "", nil
	}
}
