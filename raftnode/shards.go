package raftnode

import (
	"maps"
	"slices"
	"sync"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// shardMap is what this node knows of all shards: a hint for routing. Whether a shard serves a slot is decided by the shard (R17).
type shardMap struct {
	version uint64
	slots   [placement.SlotCount]placement.ShardID
	shards  map[placement.ShardID]*storev1.Formation_Shard
	members map[placement.NodeID]*storev1.Formation_Member

	// mu guards leaders and turn. It is a leaf.
	mu      sync.Mutex
	leaders map[placement.ShardID]placement.NodeID
	turn    int
}

// newShardMap makes the map of a formation. Without a membership change it stays as it is.
func newShardMap(f *storev1.Formation) *shardMap {
	s := &shardMap{
		version: 1,
		shards:  make(map[placement.ShardID]*storev1.Formation_Shard),
		members: make(map[placement.NodeID]*storev1.Formation_Member),
		leaders: make(map[placement.ShardID]placement.NodeID),
	}
	for _, m := range f.GetMembers() {
		s.members[placement.NodeID(m.GetNodeId())] = m
	}
	for _, sh := range f.GetShards() {
		s.shards[placement.ShardID(sh.GetId())] = sh
		slots := servedSlots(sh.GetSlots())
		for slot := range s.slots {
			if slots.Has(placement.Slot(slot)) {
				s.slots[slot] = placement.ShardID(sh.GetId())
			}
		}
	}
	return s
}

// of returns the shard that serves a slot.
func (s *shardMap) of(slot placement.Slot) placement.ShardID { return s.slots[slot] }

// ids returns the shards, ascending.
func (s *shardMap) ids() []placement.ShardID { return slices.Sorted(maps.Keys(s.shards)) }

// data returns the shards that serve slots, ascending.
func (s *shardMap) data() []placement.ShardID { return s.ids()[1:] }

// replicas returns the members of a shard, nil if there is no such shard.
func (s *shardMap) replicas(shard placement.ShardID) []*storev1.Replica {
	return s.shards[shard].GetReplicas()
}

// leader returns the node that leads a shard as far as is known.
func (s *shardMap) leader(shard placement.ShardID) placement.NodeID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaders[shard]
}

// setLeader notes who leads a shard, as a local replica or the leader itself says.
func (s *shardMap) setLeader(shard placement.ShardID, node placement.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaders[shard] = node
}

// suggest notes the word of another node on who leads, for shards of which there is no replica here.
func (s *shardMap) suggest(shard placement.ShardID, node placement.NodeID) {
	for _, r := range s.replicas(shard) {
		if placement.NodeID(r.GetNodeId()) == node {
			s.setLeader(shard, node)
			return
		}
	}
	s.setLeader(shard, "")
}

// doubt forgets a leader that does not answer, though its connection stands. Another member, asked in turn, knows the next one.
func (s *shardMap) doubt(shard placement.ShardID, node placement.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaders[shard] == node {
		s.leaders[shard] = ""
	}
}

// holder returns a node to which a request for a shard without a replica here can go: the leader, else the members in turn.
func (s *shardMap) holder(shard placement.ShardID, reachable func(placement.NodeID) bool) (placement.NodeID, bool) {
	if l := s.leader(shard); l != "" && reachable(l) {
		return l, true
	}
	rs := s.replicas(shard)
	s.mu.Lock()
	s.turn++
	turn := s.turn
	s.mu.Unlock()
	for i := range rs {
		if node := placement.NodeID(rs[(turn+i)%len(rs)].GetNodeId()); reachable(node) {
			return node, true
		}
	}
	return "", false
}
