package raftkvtest

import (
	"cmp"
	"fmt"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// execute applies one operation that node i received. c.mu is held.
func (c *Cluster) execute(i int, o *raftkvv1.ExecOperation) (*raftkvv1.ExecResult, *Error) {
	keys := keysOf(o)
	if len(keys) == 0 {
		return nil, invalid("operation is required")
	}
	if e := twice(o); e != nil {
		return nil, e
	}
	s := c.slots[placement.SlotOf(keys[0])]
	for _, k := range keys {
		if c.slots[placement.SlotOf(k)] != s {
			return nil, c.crossShard(keys)
		}
	}
	if g, ok := o.Operation.(*raftkvv1.ExecOperation_Get); ok && g.Get.Consistency == raftkvv1.Consistency_CONSISTENCY_STALE {
		return c.stale(i, s, g)
	}
	if e := c.leads(i, s); e != nil {
		return nil, e
	}
	id := requestID(o)
	if id == nil {
		if e := c.liveAll(o); e != nil {
			return nil, e
		}
		return c.apply(s, o)
	}
	name := fmt.Sprintf("%x/%d", id.ClientId, id.Sequence)
	if kept, ok := s.results[name]; ok {
		return kept.result, kept.err
	}
	if id.Sequence < s.acked[string(id.ClientId)] {
		return nil, sessionExpired(s, 0)
	}
	if id.Seen < s.floor {
		return nil, sessionExpired(s, s.floor)
	}
	e := c.liveAll(o)
	var r *raftkvv1.ExecResult
	if e == nil {
		r, e = c.apply(s, o)
	}
	if e == nil || e.decided {
		s.results[name] = answer{r, e}
		s.acked[string(id.ClientId)] = max(s.acked[string(id.ClientId)], id.AckedBelow)
		for sequence := id.AckedBelow; sequence > 0; sequence-- {
			old := fmt.Sprintf("%x/%d", id.ClientId, sequence-1)
			if _, ok := s.results[old]; !ok {
				break
			}
			delete(s.results, old)
		}
	}
	return r, e
}

// leads says why node i cannot serve s; nil if it leads or passes the request on.
func (c *Cluster) leads(i int, s *shard) *Error {
	if s.leader >= 0 && (s.leader == i || c.forward) {
		return nil
	}
	d := &raftkvv1.NotLeader{Shard: uint32(s.id)}
	if s.leader >= 0 && c.hints {
		d.LeaderNodeId, d.LeaderEndpoint = c.nodes[s.leader].id, c.nodes[s.leader].address
	}
	return notLeader(d)
}

func requestID(o *raftkvv1.ExecOperation) *raftkvv1.RequestId {
	switch o := o.Operation.(type) {
	case *raftkvv1.ExecOperation_Put:
		return o.Put.RequestId
	case *raftkvv1.ExecOperation_Delete:
		return o.Delete.RequestId
	case *raftkvv1.ExecOperation_Batch:
		return o.Batch.RequestId
	case *raftkvv1.ExecOperation_Txn:
		return o.Txn.RequestId
	}
	return nil
}

func keysOf(o *raftkvv1.ExecOperation) []string {
	switch o := o.Operation.(type) {
	case *raftkvv1.ExecOperation_Get:
		return []string{o.Get.Key}
	case *raftkvv1.ExecOperation_Put:
		return []string{o.Put.Key}
	case *raftkvv1.ExecOperation_Delete:
		return []string{o.Delete.Key}
	case *raftkvv1.ExecOperation_Batch:
		return batchKeys(o.Batch)
	case *raftkvv1.ExecOperation_Txn:
		return txnKeys(o.Txn)
	}
	return nil
}

func batchKeys(m *raftkvv1.BatchRequest) (keys []string) {
	for _, o := range m.GetOperations() {
		if p := o.GetPut(); p != nil {
			keys = append(keys, p.Key)
		} else {
			keys = append(keys, o.GetDelete().GetKey())
		}
	}
	return keys
}

// twice refuses a batch, or a branch of a transaction, that touches a key more than once. Compares may, and each branch may touch what the other does.
func twice(o *raftkvv1.ExecOperation) *Error {
	if batch := o.GetBatch(); batch != nil {
		return sameKey("batch", "operations", batchKeys(batch))
	}
	if e := sameKey("transaction", "then", operationKeys(o.GetTxn().GetThen())); e != nil {
		return e
	}
	return sameKey("transaction", "else", operationKeys(o.GetTxn().GetElse()))
}

func sameKey(what, field string, keys []string) *Error {
	seen := make(map[string]int, len(keys))
	for i, key := range keys {
		if first, again := seen[key]; again {
			return invalid(fmt.Sprintf("%s[%d]: %s[%d] has the same key; a %s may touch a key once", field, i, field, first, what))
		}
		seen[key] = i
	}
	return nil
}

// condition says why the condition of a write does not hold; nil if it does.
func (s *shard) condition(key string, m *raftkvv1.Condition) *Error {
	current := s.items[key].GetModRevision()
	switch c := m.GetCondition().(type) {
	case *raftkvv1.Condition_Exists:
		if c.Exists != (current > 0) {
			return preconditionFailed(s, key, current)
		}
	case *raftkvv1.Condition_ModRevision:
		if c.ModRevision != current {
			return preconditionFailed(s, key, current)
		}
	default:
		if m != nil {
			return invalid("condition.condition: must be exists or mod_revision")
		}
	}
	return nil
}

// apply executes o on s. c.mu is held.
func (c *Cluster) apply(s *shard, o *raftkvv1.ExecOperation) (*raftkvv1.ExecResult, *Error) {
	switch o := o.Operation.(type) {
	case *raftkvv1.ExecOperation_Get:
		kv := s.items[o.Get.Key]
		if revision := o.Get.Revision; revision > s.revision {
			return nil, futureRevision(s, revision)
		} else if revision > 0 && revision+1 < s.oldest {
			return nil, compacted(s, revision)
		} else if revision > 0 {
			kv = s.at(o.Get.Key, revision)
		}
		if kv == nil {
			return nil, notFound(s, o.Get.Key, cmp.Or(o.Get.Revision, s.revision))
		}
		return &raftkvv1.ExecResult{Result: &raftkvv1.ExecResult_Get{
			Get: &raftkvv1.GetResponse{Header: c.header(s), Kv: c.shown(kv)},
		}}, nil
	case *raftkvv1.ExecOperation_Put:
		if e := s.condition(o.Put.Key, o.Put.Condition); e != nil {
			return nil, e
		}
		s.advance()
		p := c.put(s, o.Put, o.Put.PrevKv)
		p.Header = c.header(s)
		return &raftkvv1.ExecResult{Result: &raftkvv1.ExecResult_Put{Put: p}}, nil
	case *raftkvv1.ExecOperation_Delete:
		if e := s.condition(o.Delete.Key, o.Delete.Condition); e != nil {
			return nil, e
		}
		if s.items[o.Delete.Key] != nil {
			s.advance()
		}
		d := c.remove(s, o.Delete.Key, o.Delete.PrevKv)
		d.Header = c.header(s)
		return &raftkvv1.ExecResult{Result: &raftkvv1.ExecResult_Delete{Delete: d}}, nil
	case *raftkvv1.ExecOperation_Batch:
		s.advance()
		b := &raftkvv1.BatchResponse{Header: c.header(s)}
		for _, w := range o.Batch.Operations {
			if p := w.GetPut(); p != nil {
				b.Results = append(b.Results, &raftkvv1.BatchResult{Result: &raftkvv1.BatchResult_Put{Put: c.put(s, p, false)}})
				continue
			}
			d := c.remove(s, w.GetDelete().GetKey(), false)
			b.Results = append(b.Results, &raftkvv1.BatchResult{Result: &raftkvv1.BatchResult_Delete{Delete: d}})
		}
		return &raftkvv1.ExecResult{Result: &raftkvv1.ExecResult_Batch{Batch: b}}, nil
	case *raftkvv1.ExecOperation_Txn:
		return &raftkvv1.ExecResult{Result: &raftkvv1.ExecResult_Txn{Txn: c.txn(s, o.Txn)}}, nil
	}
	return nil, invalid("operation is required")
}

func (s *shard) advance() {
	s.index++
	s.revision++
}

// putRequest is a put, alone or in a batch or transaction.
type putRequest interface {
	GetKey() string
	GetValue() []byte
	GetTtlMs() uint64
	GetLeaseId() uint64
}

func (c *Cluster) put(s *shard, r putRequest, previous bool) *raftkvv1.PutResponse {
	key := r.GetKey()
	c.applied[key]++
	kv := &raftkvv1.KeyValue{
		Key: key, Value: r.GetValue(), CreateRevision: s.revision, ModRevision: s.revision, Version: 1, LeaseId: r.GetLeaseId(),
	}
	old := c.shown(s.items[key])
	if old != nil {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
	}
	c.set(s, key, kv)
	if ttl := r.GetTtlMs(); ttl > 0 {
		s.deadlines[key] = c.now + time.Duration(ttl)*time.Millisecond
		s.events[len(s.events)-1].after = c.shown(kv)
	}
	p := &raftkvv1.PutResponse{CreateRevision: kv.CreateRevision, Version: kv.Version}
	if previous {
		p.PrevKv = old
	}
	return p
}

func (c *Cluster) remove(s *shard, key string, previous bool) *raftkvv1.DeleteResponse {
	c.applied[key]++
	old := c.shown(s.items[key])
	if old != nil {
		c.set(s, key, nil)
	}
	d := &raftkvv1.DeleteResponse{Deleted: old != nil}
	if previous {
		d.PrevKv = old
	}
	return d
}
