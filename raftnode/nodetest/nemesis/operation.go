package main

import (
	"errors"
	"fmt"
	"math/rand/v2"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/nodetest"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// errShape says that an answer is not one to the question.
var errShape = errors.New("the answer does not have the form that the contract gives it")

// drawRead draws a read of a group: of a key, of all in a transaction, of its page, or of a page that begins with it.
func drawRead(r *rand.Rand, op *nodetest.Operation) *call {
	op.Kind = nodetest.Read
	prefix := groupPrefix(op.Group)
	switch n := r.IntN(10); {
	case n < 4:
		op.From = r.IntN(nodetest.GroupKeys)
		return &call{get: &raftkvv1.GetRequest{Key: keyName(op.Group, op.From)}}
	case n < 5:
		return &call{txn: &raftkvv1.TxnRequest{Then: gets(op.Group, 0, 1, 2)}}
	case n < 7:
		return &call{list: &raftkvv1.ListRequest{Prefix: prefix, Reverse: r.IntN(2) == 0}}
	case n < 8: // The groups behind it may be of other shards.
		return &call{list: &raftkvv1.ListRequest{Start: prefix, Limit: uint32(1 + r.IntN(2*nodetest.GroupKeys))}} //nolint:gosec // small
	default:
		return &call{scan: &raftkvv1.ScanRequest{Range: &raftkvv1.KeyRange{Prefix: prefix}}}
	}
}

// sizes are those of values: small ones, such as are stored apart, and such as fill a frame.
var sizes = []int{0, 0, 200, 1500, 5000}

// draft is a write before it is put into the form of the contract.
type draft struct {
	op *nodetest.Operation
	// txn: it is sent as a transaction, also if something simpler would do.
	txn bool
	// previous: it is to show what it replaces.
	previous bool
	// glimpse are keys of the group that a transaction reads and does not write.
	glimpse []int
}

// drawWrite draws a write to a group.
func drawWrite(r *rand.Rand, v *values, rec *recorder, op *nodetest.Operation) *draft {
	op.Kind, op.Changes = nodetest.Write, drawChanges(r, v)
	d := &draft{op: op, previous: r.IntN(3) == 0}
	if r.IntN(100) < 35 {
		drawTxn(r, v, rec, d)
		return d
	}
	drawCondition(r, rec, op)
	return d
}

// drawChanges draws what a write does to the keys of its group.
func drawChanges(r *rand.Rand, v *values) []nodetest.Change {
	first, n := r.IntN(nodetest.GroupKeys), 1
	if r.IntN(5) < 2 {
		n = 2 + r.IntN(nodetest.GroupKeys-1)
	}
	var out []nodetest.Change
	for i := range n {
		c := nodetest.Change{Key: (first + i) % nodetest.GroupKeys}
		if r.IntN(100) < 15 {
			c.Delete = true
		} else {
			c.Value = v.next(sizes[r.IntN(len(sizes))])
		}
		out = append(out, c)
	}
	return out
}

// drawCondition draws, for some writes of one key, what must hold of it: that it is as somebody saw it last, or that it does not exist.
func drawCondition(r *rand.Rand, rec *recorder, op *nodetest.Operation) {
	if len(op.Changes) != 1 || r.IntN(100) >= 30 {
		return
	}
	k := op.Changes[0].Key
	known := rec.known(op.Group, k)
	if known.Version == 0 && op.Changes[0].Delete {
		return
	}
	op.Condition = &nodetest.Condition{Key: k, Value: known.Value, ByRevision: known.Version > 0 || r.IntN(2) == 0, Revision: known.Revision}
}

// conditionOf is a condition in the form of the contract.
func conditionOf(c *nodetest.Condition) *raftkvv1.Condition {
	switch {
	case c == nil:
		return nil
	case c.ByRevision:
		return &raftkvv1.Condition{Condition: &raftkvv1.Condition_ModRevision{ModRevision: c.Revision}}
	default:
		return &raftkvv1.Condition{Condition: &raftkvv1.Condition_Exists{Exists: false}}
	}
}

// call is a write in the form of the contract.
func (d *draft) call(id *raftkvv1.RequestId) *call {
	op := d.op
	switch {
	case d.txn:
		return d.txnCall(id)
	case len(op.Changes) == 1:
		key, c, condition := keyName(op.Group, op.Changes[0].Key), op.Changes[0], conditionOf(op.Condition)
		if c.Delete {
			return &call{delete: &raftkvv1.DeleteRequest{Key: key, RequestId: id, Condition: condition, PrevKv: d.previous}}
		}
		return &call{put: &raftkvv1.PutRequest{Key: key, Value: encode(c.Value), RequestId: id, Condition: condition, PrevKv: d.previous}}
	}
	batch := &raftkvv1.BatchRequest{RequestId: id}
	for _, c := range op.Changes {
		key, one := keyName(op.Group, c.Key), &raftkvv1.BatchOperation{}
		if c.Delete {
			one.Operation = &raftkvv1.BatchOperation_Delete_{Delete: &raftkvv1.BatchOperation_Delete{Key: key}}
		} else {
			one.Operation = &raftkvv1.BatchOperation_Put_{Put: &raftkvv1.BatchOperation_Put{Key: key, Value: encode(c.Value)}}
		}
		batch.Operations = append(batch.Operations, one)
	}
	return &call{batch: batch}
}

// take puts the answer to a call into its operation.
func (r *result) take(op *nodetest.Operation, c *call) (err error) {
	switch {
	case c.get != nil && r.get != nil:
		op.Cells = make([]nodetest.Cell, 1)
		op.Cells[0], err = cellOf(r.get.GetKv())
		return errors.Join(err, locate(op, r.get.GetHeader()))
	case c.put != nil && r.put != nil:
		op.Cells = []nodetest.Cell{written(op.Changes[0], r.put.GetVersion())}
		return errors.Join(takeBefore(op, []previous{{c.put.GetPrevKv(), r.put.GetPrevKv()}}), locate(op, r.put.GetHeader()))
	case c.delete != nil && r.delete != nil:
		op.Cells = []nodetest.Cell{{Existed: r.delete.GetDeleted()}}
		return errors.Join(takeBefore(op, []previous{{c.delete.GetPrevKv(), r.delete.GetPrevKv()}}), locate(op, r.delete.GetHeader()))
	case c.batch != nil && r.batch != nil:
		return r.takeBatch(op)
	case c.txn != nil && r.txn != nil:
		return r.takeTxn(op, c.txn)
	case c.list != nil && r.list != nil:
		op.Cells, err = cellsOf(op.Group, r.list.GetKvs(), r.list.GetNextPageToken() != "")
		return errors.Join(err, r.locatePage(op))
	case c.scan != nil:
		op.Cells, err = cellsOf(op.Group, r.kvs, false)
		return errors.Join(err, r.locatePage(op))
	}
	return errShape
}

// locatePage takes over the state of the shard of a group that a page shows, of which its part and the token of the page must say the same.
func (r *result) locatePage(op *nodetest.Operation) error {
	h := r.header()
	if h == nil {
		return nil // a scan of several pages
	}
	part := r.shown(op.Shard)
	if part == nil {
		return fmt.Errorf("%w: a page of shard %d does not say what it shows of shard %d: %v", errShape, h.GetShard(), op.Shard, r.list.GetParts())
	}
	said, err := revisionIn(h.GetToken(), op.Shard)
	if err == nil && said != part.GetRevision() {
		err = fmt.Errorf("%w: the token of a page stands for revision %d of shard %d, which shows %d", errShape, said, op.Shard, part.GetRevision())
	}
	if h.GetFreshnessMs() < part.GetFreshnessMs() || part.GetFreshnessUnknown() && !h.GetFreshnessUnknown() {
		err = errors.Join(err, fmt.Errorf("%w: a page is newer than its part of shard %d: %v, %v", errShape, op.Shard, h, part))
	}
	op.Origin = part.GetRevision()
	return err
}

// shown is the header of what an answer shows of a shard; nil if it does not say.
func (r *result) shown(shard placement.ShardID) *raftkvv1.ResponseHeader {
	h := r.header()
	if r.list == nil && r.page == nil || placement.ShardID(h.GetShard()) == shard {
		return h
	}
	for _, p := range append(r.parts, r.list.GetParts()...) {
		if placement.ShardID(p.GetShard()) == shard {
			return p
		}
	}
	return nil
}

func (r *result) takeBatch(op *nodetest.Operation) error {
	results := r.batch.GetResults()
	if len(results) != len(op.Changes) {
		return errShape
	}
	for i, c := range op.Changes {
		switch one := results[i]; {
		case c.Delete && one.GetDelete() != nil:
			op.Cells = append(op.Cells, nodetest.Cell{Existed: one.GetDelete().GetDeleted()})
		case !c.Delete && one.GetPut() != nil:
			op.Cells = append(op.Cells, written(c, one.GetPut().GetVersion()))
		default:
			return errShape
		}
	}
	return locate(op, r.batch.GetHeader())
}

// takeMissing puts the answer to a Get of a key that does not exist into its operation.
func takeMissing(op *nodetest.Operation, m *raftkvv1.KeyNotFound) error {
	op.Cells = make([]nodetest.Cell, 1)
	return locate(op, &raftkvv1.ResponseHeader{Shard: m.GetShard(), Revision: m.GetRevision()})
}

// takeUnmet puts the answer to a write whose condition did not hold into its operation.
func takeUnmet(op *nodetest.Operation, u *raftkvv1.PreconditionFailed) error {
	if op.Condition == nil || u.GetKey() != keyName(op.Group, op.Condition.Key) {
		return errShape
	}
	op.Current = u.GetCurrent()
	err := locate(op, &raftkvv1.ResponseHeader{Shard: u.GetShard(), Revision: u.GetRevision()})
	op.Revision = 0 // It has made none.
	return err
}

// written is a key as a put has left it. The version tells whether it found the key.
func written(c nodetest.Change, version uint64) nodetest.Cell {
	return nodetest.Cell{Value: c.Value, Version: version, Existed: version > 1}
}

// previous is what a write shows of a key that it has replaced, if it was asked.
type previous struct {
	asked bool
	kv    *raftkvv1.KeyValue
}

// takeBefore puts what a write has found into its operation. In the answer to a retry it may have been forgotten, and shows no revisions then.
func takeBefore(op *nodetest.Operation, found []previous) error {
	var before []nodetest.Cell
	forgotten, asked := false, len(found) > 0
	for i, p := range found {
		asked = asked && p.asked
		if p.kv != nil && (!p.asked || !op.Cells[i].Existed) || p.asked && p.kv == nil && op.Cells[i].Existed {
			return fmt.Errorf("%w: key %d existed %t, and what it was is shown: %v", errShape, i, op.Cells[i].Existed, p.kv)
		}
		if p.kv != nil && p.kv.GetModRevision() == 0 {
			forgotten = true
			continue
		}
		cell, err := cellOf(p.kv)
		if err != nil {
			return fmt.Errorf("what key %s was: %w", p.kv.GetKey(), err)
		}
		before = append(before, cell)
	}
	if asked && !forgotten {
		op.Before = before
	}
	return nil
}

// locate takes over the state that an answer shows. Slots do not move here, so the shard is known.
func locate(op *nodetest.Operation, h *raftkvv1.ResponseHeader) error {
	if placement.ShardID(h.GetShard()) != op.Shard {
		return fmt.Errorf("shard %d answers for a key of shard %d", h.GetShard(), op.Shard)
	}
	op.Origin = h.GetRevision()
	if op.Kind == nodetest.Write {
		op.Revision = h.GetRevision()
	}
	return nil
}
