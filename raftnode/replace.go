package raftnode

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/failpoint"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/replica"
	"github.com/raftkv/raftkv/raftnode/transport"
)

// replaceEvent asks the leader of a shard to replace the replica of a node, which its connection has proved to be who it says (R12).
type replaceEvent struct {
	m    *member
	from transport.Peer
	ask  *peerv1.ReplaceReplica
	done func(*peerv1.ReplacedReplica, error)
}

// handle takes the next step of the replacement: remove the old replica, take in a new one, tell its id. Each step begins when the one before
// is settled, and the node asks until it has the id.
func (e replaceEvent) handle(w *worker) {
	m, l := e.m, e.m.lead.Load()
	if l == nil || !l.local {
		e.done(nil, w.n.notLeader(m.shard))
		return
	}
	underWay := &peerv1.ReplacedReplica{}
	if !w.settled(m, l) {
		e.done(underWay, nil)
		return
	}
	own := described(m.configuration, m.byNode[e.from.NodeID])
	learner := slices.Contains(m.configuration.GetLearners(), own.GetId())
	switch {
	case own == nil && !w.n.places(m.shard, e.from):
		e.done(nil, &InvalidError{Field: "node", Problem: fmt.Sprintf("shard %d has no place on node %s", m.shard, e.from.NodeID)})
	case own == nil:
		c, err := addition(&storev1.Replica{
			Id: nextReplica(m.configuration), NodeId: string(e.from.NodeID), Incarnation: e.from.Incarnation,
		})
		if w.check(m, err) {
			w.change(m, c)
			e.done(underWay, nil)
		}
	case own.GetId() == e.ask.GetReplicaId() && !e.ask.GetBlank():
		w.change(m, removal(own.GetId()))
		e.done(underWay, nil)
	case learner && own.GetId() >= e.ask.GetReplicaId():
		e.done(&peerv1.ReplacedReplica{ReplicaId: own.GetId(), Configuration: m.configuration}, nil)
	default:
		// The question is an old one: the replica that it tells of has been replaced, and the new one is sound.
		e.done(nil, &InvalidError{Field: "replica", Problem: fmt.Sprintf(
			"replica %d of shard %d on node %s is not to be replaced, replica %d stands there", e.ask.GetReplicaId(), m.shard, e.from.NodeID, own.GetId())})
	}
}

// places says whether the formation gives a node, with this disk, a replica of a shard.
func (n *Node) places(shard placement.ShardID, p transport.Peer) bool {
	return slices.ContainsFunc(n.shards.replicas(shard), func(r *storev1.Replica) bool {
		return r.GetNodeId() == string(p.NodeID) && r.GetIncarnation() == p.Incarnation
	})
}

// settled says whether this leader may propose a change of the membership, or tell of the last: it has applied an entry of its own term, no
// change is under way, and the last one survives a crash of this node (R10).
func (w *worker) settled(m *member, l *leadership) bool {
	if !l.applied || m.applied < m.changeIndex {
		return false
	}
	durable, err := w.n.engine.durable(m.shard)
	return w.check(m, err) && durable >= m.configuration.GetIndex()
}

// change proposes a change of the membership. One that raft does not take now is proposed again by whoever wants it.
func (w *worker) change(m *member, c *raftpb.ConfChangeV2) {
	if !w.carryAll(m) {
		return
	}
	switch err := m.replica.ProposeChange(c); {
	case err == nil:
		m.changeIndex = m.replica.Status().LastIndex + 1
		w.touch(m)
	case errors.Is(err, replica.ErrNotLeader):
	default:
		w.check(m, err)
	}
}

// followsWithin is how many entries a learner may lack to become a voter: an append brings more.
const followsWithin = 64

// promote makes a learner that has caught up a voter (R12).
func (w *worker) promote(m *member) {
	l := m.lead.Load()
	if l == nil || !l.local {
		return
	}
	for _, id := range m.configuration.GetLearners() {
		if m.replica.Follows(id, followsWithin) && w.settled(m, l) {
			w.change(m, promotion(id))
			return
		}
	}
}

// membershipChanged takes over a membership that has been applied (R11), and says whether the node goes on.
func (w *worker) membershipChanged(m *member, c *storev1.Configuration) bool {
	failpoint.Hit(failpoint.MembershipChanged)
	if c.GetIndex() <= m.replica.Restored() {
		return true // Raft goes by that of a snapshot already, which is about to be installed.
	}
	if described(c, m.replica.ID()) == nil {
		return w.check(m, &damageError{m.shard, fmt.Errorf("replica %d was removed from the membership", m.replica.ID())})
	}
	if !sameMembership(c, m.replica.Membership()) {
		return w.check(m, fmt.Errorf("at index %d the state has another membership than raft: %v and %v", c.GetIndex(), c, m.replica.Membership()))
	}
	m.setConfiguration(c)
	w.n.log.Info("membership", "shard", m.shard, "index", c.GetIndex(), "voters", c.GetVoters(), "learners", c.GetLearners())
	w.n.housekeeper.wake() // to make it durable soon
	return true
}

// replaceHere answers a node that has its replica replaced, if this node leads the shard.
func (n *Node) replaceHere(shard placement.ShardID, from transport.Peer, ask *peerv1.ReplaceReplica, done func(*peerv1.ReplacedReplica, error)) {
	m := n.member(shard)
	if m == nil {
		done(nil, &NoReplicaError{Shard: shard})
		return
	}
	m.worker.post(replaceEvent{m: m, from: from, ask: ask, done: done})
}
