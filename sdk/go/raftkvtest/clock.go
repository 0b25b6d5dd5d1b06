package raftkvtest

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// Advance moves the clock of the cluster, which stands still otherwise, and ends the leases and removes the keys whose time is over by then. So nothing
// goes in the middle of a test that does not want it, and a test that does need not wait. Clients have their own clocks: they go on
// keeping their leases alive, and what they keep is due again a time to live after the clock of that moment.
func (c *Cluster) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now += max(d, 0)
	for _, l := range c.sortedLeases() {
		if l.deadline <= c.now {
			c.endLease(l)
		}
	}
	for _, s := range c.shards {
		due := func(key string) bool { d, ok := s.deadlines[key]; return ok && d <= c.now }
		c.expire(s, due)
	}
}

// EndLease ends a lease as if its time were over; false if there is none.
func (c *Cluster) EndLease(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.leases[id]
	if l != nil {
		c.endLease(l)
	}
	return l != nil
}

// lease is one that lives.
type lease struct {
	id       uint64
	ttl      time.Duration
	deadline time.Duration // of the clock of the cluster
}

func (c *Cluster) sortedLeases() []*lease {
	return slices.SortedFunc(maps.Values(c.leases), func(a, b *lease) int { return cmp.Compare(a.id, b.id) })
}

// endLease removes a lease and its keys, in every shard under one revision. c.mu is held.
func (c *Cluster) endLease(l *lease) {
	delete(c.leases, l.id)
	for _, s := range c.shards {
		c.expire(s, func(key string) bool { return s.items[key].GetLeaseId() == l.id })
	}
}

// expire removes the keys that are due, under one revision.
func (c *Cluster) expire(s *shard, due func(key string) bool) {
	first := true
	for _, key := range slices.Sorted(maps.Keys(s.items)) {
		if !due(key) {
			continue
		}
		if first {
			s.advance()
			first = false
		}
		c.set(s, key, nil)
		s.events[len(s.events)-1].expired = true
	}
}

// live checks the life that a put asks for, before anything is done.
func (c *Cluster) live(ttlMs, leaseID uint64) *Error {
	if ttlMs != 0 && leaseID != 0 {
		return invalid("lease_id cannot be combined with ttl_ms")
	}
	if leaseID != 0 && c.leases[leaseID] == nil {
		return leaseNotFound(leaseID)
	}
	return nil
}

// liveAll is live for the puts of a batch or transaction.
func (c *Cluster) liveAll(o *raftkvv1.ExecOperation) *Error {
	for _, b := range o.GetBatch().GetOperations() {
		if e := c.live(b.GetPut().GetTtlMs(), b.GetPut().GetLeaseId()); e != nil {
			return e
		}
	}
	for _, ops := range [2][]*raftkvv1.TxnOperation{o.GetTxn().GetThen(), o.GetTxn().GetElse()} {
		for _, b := range ops {
			if e := c.live(b.GetPut().GetTtlMs(), b.GetPut().GetLeaseId()); e != nil {
				return e
			}
		}
	}
	return c.live(o.GetPut().GetTtlMs(), o.GetPut().GetLeaseId())
}

// shown is a key as a read shows it now, with what is left of its time.
func (c *Cluster) shown(kv *raftkvv1.KeyValue) *raftkvv1.KeyValue {
	if kv == nil {
		return nil
	}
	deadline, ok := c.slots[placement.SlotOf(kv.Key)].deadlines[kv.Key]
	if !ok {
		return kv
	}
	out := proto.CloneOf(kv)
	out.TtlRemainingMs = remaining(deadline - c.now)
	return out
}

func remaining(d time.Duration) uint64 { return uint64(max(1, d.Milliseconds())) }
