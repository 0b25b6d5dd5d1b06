package raftkvtest

import (
	"bytes"
	"slices"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// version is a key as a revision left it; the item is nil after a delete.
type version struct {
	revision uint64
	item     *raftkvv1.KeyValue
}

// set writes or, with nil, removes a key, and keeps what was there.
func (s *shard) set(key string, kv *raftkvv1.KeyValue) {
	s.versions[key] = append(s.versions[key], version{s.revision, kv})
	if kv == nil {
		delete(s.items, key)
		return
	}
	s.items[key] = kv
}

// at is a key as it was at a revision, nil if it did not exist.
func (s *shard) at(key string, revision uint64) *raftkvv1.KeyValue {
	var kv *raftkvv1.KeyValue
	for _, v := range s.versions[key] {
		if v.revision <= revision {
			kv = v.item
		}
	}
	return kv
}

func (s *shard) holds(m *raftkvv1.Compare) bool {
	kv := s.items[m.GetKey()]
	switch c := m.GetCondition().(type) {
	case *raftkvv1.Compare_Exists:
		return c.Exists == (kv != nil)
	case *raftkvv1.Compare_ModRevision:
		return c.ModRevision == kv.GetModRevision()
	case *raftkvv1.Compare_Value:
		return kv != nil && bytes.Equal(c.Value, kv.GetValue())
	}
	return false
}

// txn executes a transaction.
func (c *Cluster) txn(s *shard, m *raftkvv1.TxnRequest) *raftkvv1.TxnResponse {
	res, done := &raftkvv1.TxnResponse{Succeeded: true}, m.GetThen()
	for i, compare := range m.GetCompare() {
		if !s.holds(compare) {
			res.Failed = &raftkvv1.FailedCompare{Index: uint32(i), Current: s.items[compare.GetKey()].GetModRevision()}
			res.Succeeded, done = false, m.GetElse()
			break
		}
	}
	for _, o := range done {
		if o.GetPut() != nil || o.GetDelete() != nil && s.items[o.GetDelete().GetKey()] != nil {
			s.advance()
			break
		}
	}
	for _, o := range done {
		res.Results = append(res.Results, c.txnOperation(s, o))
	}
	res.Header = c.header(s)
	return res
}

func (c *Cluster) txnOperation(s *shard, o *raftkvv1.TxnOperation) *raftkvv1.TxnResult {
	switch o := o.GetOperation().(type) {
	case *raftkvv1.TxnOperation_Put_:
		p := c.put(s, o.Put, o.Put.GetPrevKv())
		return &raftkvv1.TxnResult{Result: &raftkvv1.TxnResult_Put_{Put: &raftkvv1.TxnResult_Put{
			CreateRevision: p.GetCreateRevision(), Version: p.GetVersion(), PrevKv: p.GetPrevKv(),
		}}}
	case *raftkvv1.TxnOperation_Delete_:
		d := c.remove(s, o.Delete.GetKey(), o.Delete.GetPrevKv())
		return &raftkvv1.TxnResult{Result: &raftkvv1.TxnResult_Delete_{Delete: &raftkvv1.TxnResult_Delete{Deleted: d.GetDeleted(), PrevKv: d.GetPrevKv()}}}
	default:
		return &raftkvv1.TxnResult{Result: &raftkvv1.TxnResult_Get_{Get: &raftkvv1.TxnResult_Get{Kv: c.shown(s.items[o.(*raftkvv1.TxnOperation_Get_).Get.GetKey()])}}}
	}
}

func txnKeys(m *raftkvv1.TxnRequest) (keys []string) {
	for _, c := range m.GetCompare() {
		keys = append(keys, c.GetKey())
	}
	return slices.Concat(keys, operationKeys(m.GetThen()), operationKeys(m.GetElse()))
}

func operationKeys(ops []*raftkvv1.TxnOperation) (keys []string) {
	for _, o := range ops {
		switch o := o.GetOperation().(type) {
		case *raftkvv1.TxnOperation_Get_:
			keys = append(keys, o.Get.GetKey())
		case *raftkvv1.TxnOperation_Put_:
			keys = append(keys, o.Put.GetKey())
		case *raftkvv1.TxnOperation_Delete_:
			keys = append(keys, o.Delete.GetKey())
		}
	}
	return keys
}
