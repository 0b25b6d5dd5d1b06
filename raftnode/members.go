package raftnode

import (
	"cmp"
	"iter"
	"maps"
	"slices"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// memberTable is the replicas of a node. It does not change; a replica that comes in makes a new one.
type memberTable struct {
	byShard map[placement.ShardID]*member
	list    []*member // by shard
}

// member returns the replica of a shard that this node holds, nil if it holds none, or none that may speak.
func (n *Node) member(shard placement.ShardID) *member {
	if t := n.members.Load(); t != nil {
		return t.byShard[shard]
	}
	return nil
}

// locals returns all of them, by shard.
func (n *Node) locals() []*member {
	if t := n.members.Load(); t != nil {
		return t.list
	}
	return nil
}

// members returns those of the worker. Whatever a worker does with each member starts here: the fields of the others belong to other workers, and
// even looking whether they are concerned is a race.
func (w *worker) members() iter.Seq[*member] {
	return func(yield func(*member) bool) {
		for _, m := range w.n.locals() {
			if m.worker == w && !yield(m) {
				return
			}
		}
	}
}

// addMember lets a replica take part.
func (n *Node) addMember(m *member) {
	m.worker = n.workers[int(m.shard)%len(n.workers)]
	n.membersMu.Lock()
	defer n.membersMu.Unlock()
	t := n.members.Load()
	next := &memberTable{byShard: make(map[placement.ShardID]*member), list: append(slices.Clone(t.list), m)}
	maps.Copy(next.byShard, t.byShard)
	next.byShard[m.shard] = m
	slices.SortFunc(next.list, func(a, b *member) int { return cmp.Compare(a.shard, b.shard) })
	n.members.Store(next)
}

// setConfiguration takes over the membership that has been applied (R11).
func (m *member) setConfiguration(c *storev1.Configuration) {
	m.byNode = make(map[placement.NodeID]uint64)
	for _, r := range c.GetReplicas() {
		m.byNode[placement.NodeID(r.GetNodeId())] = r.GetId()
	}
	m.configuration, m.newcomers = c, nil
	m.membership.Store(c)
}

// learner says whether the replica has no vote. Any goroutine may ask.
func (m *member) learner() bool {
	learners := m.membership.Load().GetLearners()
	return len(learners) > 0 && slices.Contains(learners, m.replica.ID())
}

// described returns who a replica of a membership is, nil if it is not in it.
func described(c *storev1.Configuration, id uint64) *storev1.Replica {
	for _, r := range c.GetReplicas() {
		if r.GetId() == id {
			return r
		}
	}
	return nil
}

// meet takes note of a replica that is newer than the applied membership, one for each node.
func (m *member) meet(r *storev1.Replica) {
	if described(m.configuration, r.GetId()) != nil || m.newcomers[nodeID(r)].GetId() == r.GetId() {
		return
	}
	if m.newcomers == nil {
		m.newcomers = make(map[placement.NodeID]*storev1.Replica)
	}
	m.newcomers[nodeID(r)] = r
}

// peer returns who a replica is, nil if that is not known.
func (m *member) peer(id uint64) *storev1.Replica {
	if r := described(m.configuration, id); r != nil {
		return r
	}
	for _, r := range m.newcomers { // At most one has the id.
		if r.GetId() == id {
			return r
		}
	}
	return nil
}
