package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/nodetest"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// groupsEach is how many groups of keys of each shard are written at a time. They are new ones after every window: the search for an order
// of the operations on a group takes the longer, the more outcomes are unknown. Old ones are read now and then, and at the end.
const groupsEach = 2

// keyspace hands out groups of keys. Keys of one group are of one shard.
type keyspace struct {
	shards []*raftkvv1.Shard

	// mu guards what follows. It is a leaf.
	mu     sync.Mutex
	next   int
	active []int
	all    []int
	// renewed is how often new groups were begun, last when that was.
	renewed int
	last    time.Time
}

func keyName(group, k int) string { return fmt.Sprintf("{g%d}%c", group, 'a'+k) }

// keyIn is the number of a key in its group.
func keyIn(group int, key string) int { return int(key[len(groupPrefix(group))] - 'a') }

func groupPrefix(group int) string { return fmt.Sprintf("{g%d}", group) }

// shard is where a group lives.
func (s *keyspace) shard(group int) placement.ShardID { return s.home(keyName(group, 0)) }

// home is where a key lives.
func (s *keyspace) home(key string) placement.ShardID {
	slot := uint32(placement.SlotOf(key))
	for _, shard := range s.shards {
		for _, run := range shard.GetSlots() {
			if run.GetFirst() <= slot && slot <= run.GetLast() {
				return placement.ShardID(shard.GetId())
			}
		}
	}
	return placement.MetaShard // which serves no keys
}

// renew begins new groups.
func (s *keyspace) renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = nil
	s.renewed, s.last = s.renewed+1, time.Now()
	for shard := range shards {
		for range groupsEach {
			s.active = append(s.active, s.make(placement.ShardID(1+shard))) //nolint:gosec // small
		}
	}
}

// generation counts the times that new groups were begun.
func (s *keyspace) generation() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.renewed
}

// since is how long ago the groups of a generation were left; 0 if they are written.
func (s *keyspace) since(generation int) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.renewed == generation {
		return 0
	}
	return time.Since(s.last)
}

// one returns a new group of a shard.
func (s *keyspace) one(shard placement.ShardID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.make(shard)
}

// make makes a group of a shard. mu is held.
func (s *keyspace) make(shard placement.ShardID) int {
	for s.shard(s.next) != shard {
		s.next++
	}
	s.next++
	s.all = append(s.all, s.next-1)
	return s.next - 1
}

// pick returns a group to write to, or, with old, any of those that there have been.
func (s *keyspace) pick(r *rand.Rand, old bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old {
		return s.all[r.IntN(len(s.all))]
	}
	return s.active[r.IntN(len(s.active))]
}

// current returns those that are written.
func (s *keyspace) current() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.active)
}

// groups returns all that there have been.
func (s *keyspace) groups() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

// cellsOf are the keys of a group on a page, up to where the page ends.
func cellsOf(group int, page []*raftkvv1.KeyValue, more bool) ([]nodetest.Cell, error) {
	last, found := "", make(map[string]nodetest.Cell)
	for _, kv := range page {
		cell, err := cellOf(kv)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", kv.GetKey(), err)
		}
		last, found[kv.GetKey()] = kv.GetKey(), cell
	}
	var out []nodetest.Cell
	for k := range nodetest.GroupKeys {
		if more && keyName(group, k) > last {
			break
		}
		out = append(out, found[keyName(group, k)])
	}
	return out, nil
}

func cellOf(kv *raftkvv1.KeyValue) (nodetest.Cell, error) {
	name, err := decode(kv.GetValue())
	return nodetest.Cell{Value: name, Version: kv.GetVersion(), Revision: kv.GetModRevision()}, err
}
