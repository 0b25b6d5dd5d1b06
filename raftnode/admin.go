package raftnode

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// Status describes this node.
func (n *Node) Status() Status {
	id := n.identity.Load()
	s := Status{NodeID: n.options.NodeID, Uptime: n.runtime.Now().Sub(n.opened), SyncWrite: !n.options.NoSync}
	s.DiskFree, s.DiskReserve, s.DiskFull = n.reserve.free.Load(), n.reserve.bytes, n.reserve.full.Load()
	switch {
	case n.failed():
		s.NotReady = []string{"the node has failed: " + n.Err().Error()}
		return s
	case !n.serving.Load():
		s.NotReady = []string{"the node is starting, or the cluster is forming"}
		return s
	case n.closing.Load():
		s.NotReady = []string{"the node is stopping"}
	}
	s.ClusterID = hex.EncodeToString(id.GetFormation().GetClusterId())
	st := n.Storage()
	s.LogBytes, s.StateBytes = uint64(st.Log.Bytes), st.State.Bytes
	shards, _ := n.Shards()
	for _, sh := range shards {
		if r := n.rebuilds.of(sh.ID); r != nil {
			s.NotReady = append(s.NotReady, fmt.Sprintf("the replica of shard %d is being replaced: %s", sh.ID, r.why()))
		}
		m := n.member(sh.ID)
		if m == nil || !sh.Local {
			continue
		}
		if sh.Leader == "" {
			s.NotReady = append(s.NotReady, fmt.Sprintf("shard %d has no leader", sh.ID))
		} else if !m.caughtUp.Load() {
			s.NotReady = append(s.NotReady, fmt.Sprintf("shard %d has not caught up with its leader since this node was opened", sh.ID))
		}
		s.Shards = append(s.Shards, sh)
	}
	return s
}

// Shards lists all shards of the cluster, the meta shard first, and the version of the map.
func (n *Node) Shards() ([]ShardStatus, uint64) {
	if !n.serving.Load() || n.failed() {
		return nil, 0
	}
	var out []ShardStatus
	for _, id := range n.shards.ids() {
		s := ShardStatus{ID: id, Slots: n.shards.shards[id].GetSlots(), Leader: n.shards.leader(id)}
		m := n.member(id)
		replicas, learners := n.shards.replicas(id), []uint64(nil)
		if m != nil {
			c := m.membership.Load()
			replicas, learners = c.GetReplicas(), c.GetLearners()
		}
		for _, r := range replicas {
			node := placement.NodeID(r.GetNodeId())
			s.Replicas = append(s.Replicas, ReplicaStatus{
				ID: r.GetId(), NodeID: node, Leader: node == s.Leader, Learner: slices.Contains(learners, r.GetId()),
			})
		}
		if m != nil {
			n.inspectMember(m, &s)
		}
		out = append(out, s)
	}
	return out, n.shards.version
}

// inspectMember asks the worker of a member how it stands.
func (n *Node) inspectMember(m *member, s *ShardStatus) {
	type figures struct {
		status ShardStatus
		match  map[uint64]uint64
	}
	got := make(chan figures, 1)
	m.worker.post(inspectEvent{m: m, look: func(m *member) {
		r := m.replica.Status()
		got <- figures{
			status: ShardStatus{
				Local: true, Term: r.Term, Commit: r.Commit, Applied: r.Applied,
				FirstLogIndex: r.FirstIndex, LastIndex: r.LastIndex,
				WaitingWrites: len(m.writes), WaitingReads: len(m.reads) + m.roundReads() + m.confirmedCount + int(m.reading.Load()),
			},
			match: m.replica.Match(),
		}
	}})
	select {
	case f := <-got:
		s.Local, s.Term, s.Commit, s.Applied = true, f.status.Term, f.status.Commit, f.status.Applied
		s.FirstLogIndex, s.LastIndex = f.status.FirstLogIndex, f.status.LastIndex
		s.WaitingWrites, s.WaitingReads = f.status.WaitingWrites, f.status.WaitingReads
		for i := range s.Replicas {
			s.Replicas[i].Match = f.match[s.Replicas[i].ID]
		}
	case <-n.done:
		return
	}
	n.ask(func() {
		at := n.engine.position(m.shard)
		s.Revision, s.Keys, s.Sessions, s.Results, s.HistoryBytes = at.revision, at.keys, at.sessions, at.results, at.historyBytes
		if d, err := n.engine.durable(m.shard); err == nil {
			s.Durable = d
		}
	})
}

// ask asks the engine or the logs something, unless they are closed already: a node says how it stands until it is gone.
func (n *Node) ask(question func()) {
	n.engineMu.RLock()
	defer n.engineMu.RUnlock()
	if !n.released {
		question()
	}
}

// Nodes lists the nodes of the cluster, by name.
func (n *Node) Nodes() []NodeStatus {
	if !n.serving.Load() || n.failed() {
		return nil
	}
	var out []NodeStatus
	for _, m := range n.identity.Load().GetFormation().GetMembers() {
		id := placement.NodeID(m.GetNodeId())
		s := NodeStatus{ID: id, PeerAddress: m.GetPeerAddress(), ClientAddress: m.GetClientAddress(), Reachable: n.isReachable(id)}
		for _, shard := range n.shards.ids() {
			if slices.ContainsFunc(n.shards.replicas(shard), func(r *storev1.Replica) bool { return r.GetNodeId() == m.GetNodeId() }) {
				s.Shards = append(s.Shards, shard)
			}
			if n.shards.leader(shard) == id {
				s.Leads = append(s.Leads, shard)
			}
		}
		out = append(out, s)
	}
	return out
}

// Locate says where a key lives, as far as this node knows.
func (n *Node) Locate(key string) Location {
	l := Location{RoutingPart: placement.RoutingPart(key), Slot: placement.SlotOf(key)}
	if n.serving.Load() {
		l.Shard = n.shards.of(l.Slot)
		l.Leader = n.shards.leader(l.Shard)
	}
	return l
}

// TransferLeader hands the lead of a shard to a node that holds a voting replica and follows closely, and returns the term in which it leads.
// It tries once, for an election timeout, in which the shard takes no writes.
func (n *Node) TransferLeader(ctx context.Context, shard placement.ShardID, to placement.NodeID) (uint64, error) {
	if n.failed() || n.closing.Load() {
		return 0, ErrStopped
	}
	if !n.serving.Load() {
		return 0, ErrForming
	}
	rs := n.shards.replicas(shard)
	if rs == nil {
		return 0, &InvalidError{Field: "shard", Problem: fmt.Sprintf("there is no shard %d", shard)}
	}
	if !slices.ContainsFunc(rs, func(r *storev1.Replica) bool { return r.GetNodeId() == string(to) }) {
		return 0, &InvalidError{Field: "node_id", Problem: fmt.Sprintf("node %s holds no replica of shard %d", to, shard)}
	}
	type answer struct {
		term uint64
		err  error
	}
	done := make(chan answer, 1)
	deadline := n.runtime.Now().Add(defaultTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if leader := n.shards.leader(shard); leader == n.options.NodeID || leader == "" {
		n.transferHere(shard, to, func(term uint64, err error) { done <- answer{term, err} })
	} else {
		r := &Request{Shard: shard, Deadline: deadline, transferTo: to, Done: func(res Result) {
			done <- answer{res.Origin.GetTerm(), res.Err}
		}}
		n.forward(r, leader)
	}
	select {
	case a := <-done:
		return a.term, a.err
	case <-ctx.Done():
		return 0, unknownTransfer(shard, &transfer{to: to}, "time ran out meanwhile")
	case <-n.done:
		return 0, unknownTransfer(shard, &transfer{to: to}, "this node stopped meanwhile")
	}
}

// transferHere hands over the lead of a shard that this node should lead.
func (n *Node) transferHere(shard placement.ShardID, to placement.NodeID, done func(uint64, error)) {
	m := n.member(shard)
	if m == nil {
		done(0, &NoReplicaError{Shard: shard})
		return
	}
	m.worker.post(transferEvent{m: m, t: &transfer{to: to, done: done}})
}

// origin is the state from which an answer comes.
func (n *Node) origin(at position, leads bool) *peerv1.Origin {
	return &peerv1.Origin{NodeId: string(n.options.NodeID), Term: at.term, Index: at.index, Revision: at.revision, Leader: leads}
}
