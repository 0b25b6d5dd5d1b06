package raftkv

import (
	"context"
	"strconv"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// Txn is a transaction: if all compares hold, Then is done, else Else is, atomically and under one revision. All keys must live on one shard, which
// keys with the same {tag} do; otherwise the error is a *CrossShardError. Each branch may touch a key once; it has at most 128 operations.
type Txn struct {
	If         []Compare
	Then, Else []Op
}

// Compare is what must hold of a key.
type Compare struct {
	key     string
	message *raftkvv1.Compare
}

// Exists holds if the key exists.
func Exists(key string) Compare {
	return Compare{key, &raftkvv1.Compare{Key: key, Condition: &raftkvv1.Compare_Exists{Exists: true}}}
}

// Absent holds if the key does not exist.
func Absent(key string) Compare {
	return Compare{key, &raftkvv1.Compare{Key: key, Condition: &raftkvv1.Compare_Exists{Exists: false}}}
}

// RevisionIs holds if the last write of the key made this revision; 0 says that the key does not exist.
func RevisionIs(key string, revision uint64) Compare {
	return Compare{key, &raftkvv1.Compare{Key: key, Condition: &raftkvv1.Compare_ModRevision{ModRevision: revision}}}
}

// ValueIs holds if the key exists and has this value, which must not change before Txn returns.
func ValueIs(key string, value []byte) Compare {
	return Compare{key, &raftkvv1.Compare{Key: key, Condition: &raftkvv1.Compare_Value{Value: value}}}
}

// TxnResult is what a transaction did.
type TxnResult struct {
	// Revision is the one that the transaction made, or the current one if it changed nothing. What it read is of this revision.
	Revision uint64
	Shard    placement.ShardID
	// Succeeded says that all compares held, and Then was done.
	Succeeded bool
	// Failed is the index in If of the first compare that did not hold, and Current the revision of the last write of its key, 0 if that did not
	// exist. Both are 0 if all held.
	Failed  int
	Current uint64
	// Results are those of the operations that were done, in their order.
	Results []Result
	// ValuesOmitted says that values of items were left out: beyond 4 MiB in total, from the first that did not fit, or because the answer is that of an earlier attempt and the shard has
	// forgotten them since. Those items have no revisions either, and one may be of a key that was not there.
	ValuesOmitted bool
}

// Txn executes a transaction. That a compare does not hold is no error.
func (c *Client) Txn(ctx context.Context, t Txn) (TxnResult, error) {
	o, err := c.newTxn(&t)
	if err != nil {
		return TxnResult{}, err
	}
	defer o.release()
	r, err := c.do(ctx, o)
	if err != nil {
		return TxnResult{}, err
	}
	return readTxn(o, r)
}

func (c *Client) newTxn(t *Txn) (*op, error) {
	key, err := c.checkTxn(t)
	if err != nil {
		return nil, &CallError{Operation: "txn", Err: err}
	}
	o := newOp("txn on", key)
	o.setTxn(t)
	return o, nil
}

func readTxn(o *op, r *raftkvv1.ExecResult) (TxnResult, error) {
	txn, ok := r.Result.(*raftkvv1.ExecResult_Txn)
	if !ok {
		return TxnResult{}, mixedUp(o, r)
	}
	h := txn.Txn.GetHeader()
	result := TxnResult{
		Revision: h.GetRevision(), Shard: placement.ShardID(h.GetShard()), Succeeded: txn.Txn.GetSucceeded(),
		Failed: int(txn.Txn.GetFailed().GetIndex()), Current: txn.Txn.GetFailed().GetCurrent(), ValuesOmitted: txn.Txn.GetValuesOmitted(),
	}
	for _, one := range txn.Txn.GetResults() {
		result.Results = append(result.Results, txnResult(one, h))
	}
	done := o.txnRequest.Then
	if !result.Succeeded {
		done = o.txnRequest.Else
	}
	if len(done) != len(result.Results) {
		return TxnResult{}, mixedUp(o, r)
	}
	return result, nil
}

func txnResult(r *raftkvv1.TxnResult, h *raftkvv1.ResponseHeader) Result {
	out := Result{Revision: h.GetRevision(), Shard: placement.ShardID(h.GetShard())}
	switch r := r.GetResult().(type) {
	case *raftkvv1.TxnResult_Get_:
		out.Item = itemOrNil(r.Get.GetKv())
	case *raftkvv1.TxnResult_Put_:
		out.CreateRevision, out.Version, out.Previous = r.Put.GetCreateRevision(), r.Put.GetVersion(), itemOrNil(r.Put.GetPrevKv())
	case *raftkvv1.TxnResult_Delete_:
		out.Deleted, out.Previous = r.Delete.GetDeleted(), itemOrNil(r.Delete.GetPrevKv())
	}
	return out
}

// txnItemsMax is fixed by the contract.
const txnItemsMax = 128

// checkTxn refuses what the servers would refuse, and returns the key that routes the transaction.
func (c *Client) checkTxn(t *Txn) (key string, err error) {
	for field, n := range map[string]int{"if": len(t.If), "then": len(t.Then), "else": len(t.Else)} {
		if n > txnItemsMax {
			return "", &LimitError{Field: field, Limit: txnItemsMax, Actual: uint64(n)}
		}
	}
	switch {
	case len(t.If)+len(t.Then) == 0:
		return "", &InvalidError{Problem: "a transaction needs something in If or Then"}
	case len(t.If) == 0 && len(t.Else) > 0:
		return "", &InvalidError{Problem: "Else needs a compare that may not hold"}
	}
	bytes := uint64(0)
	for i, compare := range t.If {
		if compare.message == nil {
			return "", &InvalidError{Problem: "if[" + strconv.Itoa(i) + "] is made by Exists, Absent, RevisionIs or ValueIs"}
		}
		if err := c.checkPart("if["+strconv.Itoa(i)+"].", compare.key, compare.message.GetValue()); err != nil {
			return "", err
		}
		bytes += uint64(len(compare.key) + len(compare.message.GetValue()))
	}
	for i := range 2 {
		field, ops := "then[", t.Then
		if i == 1 {
			field, ops = "else[", t.Else
		}
		for i, o := range ops {
			if err := c.checkPart(field+strconv.Itoa(i)+"].", o.key, o.value); err != nil {
				return "", err
			}
			if _, _, err := o.life.resolve(field + strconv.Itoa(i) + "]."); err != nil {
				return "", err
			}
			bytes += uint64(len(o.key) + len(o.value))
		}
	}
	if limit := c.routes.limits.Load().BatchBytes; limit > 0 && bytes > limit {
		return "", &LimitError{Field: "transaction", Limit: limit, Actual: bytes}
	}
	if len(t.Then) > 0 {
		return t.Then[0].key, nil // under whose slot the cluster keeps the answer
	}
	return t.If[0].key, nil
}

// setTxn makes o carry a transaction, with its own copy of all values.
func (o *op) setTxn(t *Txn) {
	size := 0
	for _, c := range t.If {
		size += len(c.message.GetValue())
		o.bytes += opOverheadBytes + len(c.key) + len(c.message.GetValue())
	}
	for _, ops := range [2][]Op{t.Then, t.Else} {
		for _, w := range ops {
			size += len(w.value)
			o.bytes += opOverheadBytes + len(w.key) + len(w.value)
		}
	}
	o.room(size)
	o.txnRequest.Compare = make([]*raftkvv1.Compare, len(t.If))
	for i, c := range t.If {
		o.txnRequest.Compare[i] = c.message
		if v, ok := c.message.Condition.(*raftkvv1.Compare_Value); ok {
			o.txnRequest.Compare[i] = &raftkvv1.Compare{Key: c.key, Condition: &raftkvv1.Compare_Value{Value: o.keep(v.Value)}}
		}
	}
	o.txnRequest.Then, o.txnRequest.Else = o.txnOperations(t.Then), o.txnOperations(t.Else)
	o.wire.Operation = &o.txn.ExecOperation_Txn
	o.write = true
}

func (o *op) txnOperations(ops []Op) []*raftkvv1.TxnOperation {
	out := make([]*raftkvv1.TxnOperation, len(ops))
	for i, w := range ops {
		out[i] = &raftkvv1.TxnOperation{}
		switch w.kind {
		case opGets:
			out[i].Operation = &raftkvv1.TxnOperation_Get_{Get: &raftkvv1.TxnOperation_Get{Key: w.key}}
		case opDeletes:
			out[i].Operation = &raftkvv1.TxnOperation_Delete_{Delete: &raftkvv1.TxnOperation_Delete{Key: w.key, PrevKv: w.previous}}
		default:
			p := &raftkvv1.TxnOperation_Put{Key: w.key, Value: o.keep(w.value), PrevKv: w.previous}
			p.TtlMs, p.LeaseId = w.life.must()
			out[i].Operation = &raftkvv1.TxnOperation_Put_{Put: p}
		}
	}
	return out
}
