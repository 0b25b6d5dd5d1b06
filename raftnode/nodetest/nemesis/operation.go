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

// drawRead draws a read of a group: of a key, of its page, or of a page that begins with it.
func drawRead(r *rand.Rand, op *nodetest.Operation) *call {
	op.Kind = nodetest.Read
	prefix := groupPrefix(op.Group)
	switch n := r.IntN(10); {
	case n < 5:
		op.From = r.IntN(nodetest.GroupKeys)
		return &call{get: &raftkvv1.GetRequest{Key: keyName(op.Group, op.From)}}
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

// drawWrite draws a write to a group.
func drawWrite(r *rand.Rand, v *values, op *nodetest.Operation) {
	op.Kind = nodetest.Write
	first, n := r.IntN(nodetest.GroupKeys), 1
	if r.IntN(5) < 2 {
		n = 2 + r.IntN(nodetest.GroupKeys-1)
	}
	for i := range n {
		c := nodetest.Change{Key: (first + i) % nodetest.GroupKeys}
		if r.IntN(100) < 15 {
			c.Delete = true
		} else {
			c.Value = v.next(sizes[r.IntN(len(sizes))])
		}
		op.Changes = append(op.Changes, c)
	}
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

// writeCall is a write in the form of the contract.
func writeCall(op *nodetest.Operation, id *raftkvv1.RequestId) *call {
	if len(op.Changes) == 1 {
		c := op.Changes[0]
		if c.Delete {
			return &call{delete: &raftkvv1.DeleteRequest{Key: keyName(op.Group, c.Key), RequestId: id, Condition: conditionOf(op.Condition)}}
		}
		return &call{put: &raftkvv1.PutRequest{
			Key: keyName(op.Group, c.Key), Value: encode(c.Value), RequestId: id, Condition: conditionOf(op.Condition),
		}}
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
		op.Cells = []nodetest.Cell{written(op.Changes[0], r.put)}
		return locate(op, r.put.GetHeader())
	case c.delete != nil && r.delete != nil:
		op.Cells = []nodetest.Cell{{Existed: r.delete.GetDeleted()}}
		return locate(op, r.delete.GetHeader())
	case c.batch != nil && r.batch != nil:
		return r.takeBatch(op)
	case c.list != nil && r.list != nil:
		// Several shards may have taken part, so no revision is that of the page.
		op.Cells, err = cellsOf(op.Group, r.list.GetKvs(), r.list.GetNextPageToken() != "")
		return err
	case c.scan != nil:
		op.Cells, err = cellsOf(op.Group, r.kvs, false)
		return err
	}
	return errShape
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
			op.Cells = append(op.Cells, written(c, one.GetPut()))
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
func written(c nodetest.Change, p *raftkvv1.PutResponse) nodetest.Cell {
	return nodetest.Cell{Value: c.Value, Version: p.GetVersion(), Existed: p.GetVersion() > 1}
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
