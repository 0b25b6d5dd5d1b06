package main

import (
	"errors"
	"math/rand/v2"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/nodetest"
)

// drawTxn makes a drawn write a transaction: mostly under a condition on any key of its group, often with something to do otherwise, and sometimes
// with reads of keys that neither branch writes.
func drawTxn(r *rand.Rand, v *values, rec *recorder, d *draft) {
	op := d.op
	d.txn = true
	if r.IntN(4) > 0 {
		k := r.IntN(nodetest.GroupKeys)
		known := rec.known(op.Group, k)
		op.Condition = &nodetest.Condition{Key: k, Value: known.Value, ByRevision: r.IntN(2) == 0, Revision: known.Revision}
		if r.IntN(2) == 0 {
			op.Otherwise = drawChanges(r, v)
		}
	}
	if r.IntN(3) > 0 {
		return
	}
	for k := range nodetest.GroupKeys {
		if !changes(op.Changes, k) && !changes(op.Otherwise, k) {
			d.glimpse = append(d.glimpse, k)
		}
	}
}

// changes says whether one of some changes is of a key.
func changes(all []nodetest.Change, key int) bool {
	for _, c := range all {
		if c.Key == key {
			return true
		}
	}
	return false
}

// compareOf is a condition in the form of a transaction.
func compareOf(group int, c *nodetest.Condition) *raftkvv1.Compare {
	out := &raftkvv1.Compare{Key: keyName(group, c.Key), Condition: &raftkvv1.Compare_Exists{Exists: false}}
	switch {
	case c.ByRevision:
		out.Condition = &raftkvv1.Compare_ModRevision{ModRevision: c.Revision}
	case c.Value != "":
		out.Condition = &raftkvv1.Compare_Value{Value: encode(c.Value)}
	}
	return out
}

// txnCall is a write in the form of a transaction. What it reads beside comes last in both branches.
func (d *draft) txnCall(id *raftkvv1.RequestId) *call {
	op := d.op
	txn := &raftkvv1.TxnRequest{RequestId: id, Then: d.branch(op.Changes)}
	if op.Condition != nil {
		txn.Compare = []*raftkvv1.Compare{compareOf(op.Group, op.Condition)}
		txn.Else = d.branch(op.Otherwise)
	}
	return &call{txn: txn}
}

func (d *draft) branch(changes []nodetest.Change) []*raftkvv1.TxnOperation {
	var out []*raftkvv1.TxnOperation
	for _, c := range changes {
		key, one := keyName(d.op.Group, c.Key), &raftkvv1.TxnOperation{}
		if c.Delete {
			one.Operation = &raftkvv1.TxnOperation_Delete_{Delete: &raftkvv1.TxnOperation_Delete{Key: key, PrevKv: d.previous}}
		} else {
			one.Operation = &raftkvv1.TxnOperation_Put_{Put: &raftkvv1.TxnOperation_Put{Key: key, Value: encode(c.Value), PrevKv: d.previous}}
		}
		out = append(out, one)
	}
	return append(out, gets(d.op.Group, d.glimpse...)...)
}

// gets are reads of keys of a group within a transaction.
func gets(group int, keys ...int) []*raftkvv1.TxnOperation {
	var out []*raftkvv1.TxnOperation
	for _, k := range keys {
		out = append(out, &raftkvv1.TxnOperation{Operation: &raftkvv1.TxnOperation_Get_{Get: &raftkvv1.TxnOperation_Get{Key: keyName(group, k)}}})
	}
	return out
}

// takeTxn puts the answer to a transaction into its operation: which branch was done, and what that has done and found.
func (r *result) takeTxn(op *nodetest.Operation, ask *raftkvv1.TxnRequest) error {
	failed, asked := r.txn.GetFailed(), ask.GetThen()
	if (failed == nil) != r.txn.GetSucceeded() {
		return errShape
	}
	op.Outcome = nodetest.Done
	if failed != nil {
		if int(failed.GetIndex()) >= len(ask.GetCompare()) {
			return errShape
		}
		asked, op.Outcome, op.Current = ask.GetElse(), nodetest.CompareFailed, failed.GetCurrent()
	}
	results := r.txn.GetResults()
	if len(results) != len(asked) {
		return errShape
	}
	var found []previous
	done, _ := op.Branches()
	for i, one := range results {
		switch o := asked[i]; {
		case o.GetPut() != nil && one.GetPut() != nil:
			op.Cells = append(op.Cells, written(done[i], one.GetPut().GetVersion()))
			found = append(found, previous{o.GetPut().GetPrevKv(), one.GetPut().GetPrevKv()})
		case o.GetDelete() != nil && one.GetDelete() != nil:
			op.Cells = append(op.Cells, nodetest.Cell{Existed: one.GetDelete().GetDeleted()})
			found = append(found, previous{o.GetDelete().GetPrevKv(), one.GetDelete().GetPrevKv()})
		case o.GetGet() == nil || one.GetGet() == nil:
			return errShape
		case op.Kind == nodetest.Read:
			cell, err := cellOf(one.GetGet().GetKv())
			if err != nil {
				return err
			}
			op.Cells = append(op.Cells, cell)
		}
	}
	return errors.Join(takeBefore(op, found), locate(op, r.txn.GetHeader()))
}

// glimpse is a read that a transaction has done beside its writes, or what is wrong with it.
type glimpse struct {
	*nodetest.Operation
	err error
}

// glimpses are the reads that a write has done beside, as of the revision that it names. In the answer to a retry they may have been forgotten.
func (r *result) glimpses(write *nodetest.Operation, ask *call) []glimpse {
	if ask.txn == nil || r.txn.GetValuesOmitted() {
		return nil
	}
	done, _ := write.Branches()
	var out []glimpse
	for i, one := range r.txn.GetResults() {
		if one.GetGet() == nil {
			continue
		}
		op := &nodetest.Operation{
			Client: write.Client, Group: write.Group, Kind: nodetest.Read, Shard: write.Shard, Call: write.Call, Origin: write.Origin, Attempts: 1,
		}
		asked := ask.txn.GetThen()
		if write.Outcome == nodetest.CompareFailed {
			asked = ask.txn.GetElse()
		}
		op.From = keyIn(write.Group, asked[i].GetGet().GetKey())
		cell, err := cellOf(one.GetGet().GetKv())
		op.Cells = []nodetest.Cell{cell}
		if i < len(done) {
			err = errors.Join(err, errShape)
		}
		out = append(out, glimpse{op, err})
	}
	return out
}
