package raftnode

import (
	"errors"
	"slices"
	"sync"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/state"
	"github.com/raftkv/raftkv/raftnode/transport"
)

// agreement compares the digests that the replicas of a shard have at the same indexes (R25). They tell each other every checkpoint, and each judges
// itself: one whose digest is not that of a majority which agrees is damaged.
type agreement struct {
	// mu guards the fields below. It is a leaf.
	mu sync.Mutex
	// at are the newest indexes at which digests are known, ascending.
	at []said
}

// said is what replicas have said of one index, in the order in which they said it.
type said struct {
	index   uint64
	digests []saidBy
}

type saidBy struct {
	node   placement.NodeID
	digest state.Digest
}

// agreementIndexes bounds how many indexes are remembered: a replica that is further behind is not compared.
const agreementIndexes = 16

// errDiverged says that the state of a replica is not that of the others.
var errDiverged = errors.New("the state is not that of the other replicas at the same index")

// hear notes a checkpoint of a replica, and returns what all have said of its index; nothing if it says nothing new.
func (a *agreement) hear(node placement.NodeID, c state.Checkpoint) []saidBy {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, found := slices.BinarySearchFunc(a.at, c.Index, func(s said, index uint64) int { return int(int64(s.index - index)) })
	switch {
	case !found && i == 0 && len(a.at) == agreementIndexes:
		return nil
	case !found:
		a.at = slices.Insert(a.at, i, said{index: c.Index})
		if len(a.at) > agreementIndexes {
			a.at = a.at[1:]
			i--
		}
	}
	s := &a.at[i]
	for _, d := range s.digests {
		if d.node == node {
			return nil // again, after a restart
		}
	}
	s.digests = append(s.digests, saidBy{node, c.Digest})
	return slices.Clone(s.digests)
}

// diverges says whether own has another digest than most of the replicas, and all of those the same. The newest of what was said may make it so.
func diverges(all []saidBy, own placement.NodeID, replicas int) bool {
	i := slices.IndexFunc(all, func(s saidBy) bool { return s.node == own })
	if i < 0 {
		return false
	}
	for _, candidate := range all {
		votes := 0
		for _, s := range all {
			if s.digest == candidate.digest {
				votes++
			}
		}
		if candidate.digest != all[i].digest && votes > replicas/2 {
			return true
		}
	}
	return false
}

// tellCheckpoint tells the other members of the checkpoint of this one, if it is new.
func (w *worker) tellCheckpoint(m *member, c state.Checkpoint) {
	if c.Index == 0 || !w.n.compare(m, w.n.options.NodeID, c) {
		return
	}
	message := &peerv1.Message{Body: &peerv1.Message_Checkpoint{Checkpoint: &peerv1.Checkpoint{
		Shard: uint32(m.shard), Index: c.Index, DigestLow: c.Digest.Low, DigestHigh: c.Digest.High,
	}}}
	for _, r := range m.configuration.GetReplicas() { // One that misses it is compared at the next.
		if node := nodeID(r); node != w.n.options.NodeID {
			w.n.transport.Send(node, message)
		}
	}
}

// hearCheckpoint takes a checkpoint of another member.
func (n *Node) hearCheckpoint(from transport.Peer, c *peerv1.Checkpoint) {
	m := n.member(placement.ShardID(c.GetShard()))
	if m == nil || !slices.ContainsFunc(m.membership.Load().GetReplicas(), func(r *storev1.Replica) bool {
		return nodeID(r) == from.NodeID && r.GetIncarnation() == from.Incarnation
	}) {
		return
	}
	n.compare(m, from.NodeID, state.Checkpoint{
		Index: c.GetIndex(), Digest: state.Digest{Low: c.GetDigestLow(), High: c.GetDigestHigh()},
	})
}

// compare compares a checkpoint with those that are known of its index, and says whether it was new.
func (n *Node) compare(m *member, node placement.NodeID, c state.Checkpoint) bool {
	all := m.agreement.hear(node, c)
	for _, s := range all {
		if s.node == node {
			continue
		}
		n.metrics.digestsCompared.Add(1)
		if s.digest != c.Digest {
			n.metrics.digestMismatches.Add(1)
			n.log.Error("replicas differ", "shard", m.shard, "index", c.Index, "nodes", []placement.NodeID{s.node, node})
		}
	}
	if diverges(all, n.options.NodeID, len(m.membership.Load().GetReplicas())) {
		n.fail(&damageError{m.shard, errDiverged})
	}
	return len(all) > 0
}
