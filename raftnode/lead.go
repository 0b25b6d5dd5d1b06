package raftnode

import (
	"fmt"
	"slices"
	"time"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// roleChanged takes note of who leads a shard now.
func (w *worker) roleChanged(m *member) {
	id, term := m.replica.Lead()
	was := m.lead.Load()
	now := &leadership{id: id, term: term, local: m.replica.Leads()}
	if r := m.peer(id); r != nil {
		now.node = placement.NodeID(r.GetNodeId())
	}
	if was != nil && was.id == now.id && was.term == now.term && was.local == now.local {
		return
	}
	m.lead.Store(now)
	if !now.local {
		m.courses = nil // What becomes of the entries is not for this member to see.
	}
	if id != 0 {
		m.campaignAt = time.Time{}
	}
	if now.local {
		m.changeIndex = 0 // What it has proposed before may be lost; raft takes no change before it has applied all that is left.
		m.clock.start(w.n.engine.position(m.shard).clockMs, w.n.runtime.Now())
	}
	if was == nil || was.id != id {
		w.n.metrics.leaderChanges.Add(1)
		w.n.log.Info("leader", "shard", m.shard, "leader", now.node, "term", term)
	}
	w.n.leaderChanged(m.shard, now)
	w.finishTransfers(m, now)
	w.routeWaiting(m, now)
}

// leadApplied notes that this leader has applied an entry of its own term: from here on its clock stands on all that came before it.
func (w *worker) leadApplied(m *member) {
	l := m.lead.Load()
	if l == nil || !l.local || l.applied {
		return
	}
	p := w.n.engine.position(m.shard)
	if p.term != l.term {
		return
	}
	next := *l
	next.applied = true
	m.lead.Store(&next)
	m.clock.start(max(p.clockMs, m.clock.nowMs(w.n.runtime.Now())), w.n.runtime.Now())
	m.expiry.start(w.n.runtime.Now())
	if m.shard == placement.MetaShard {
		w.n.foundMap()
	}
}

// handle makes the followers of a node that is gone forget it, and lets them campaign in turn: failing over does not wait for an
// election timeout, and no timeout has to be short for that. Pre-vote protects a leader that only this node has lost.
func (e peerDownEvent) handle(w *worker) {
	for m := range w.members() {
		id, member := m.byNode[e.node]
		if r := m.newcomers[e.node]; r != nil {
			id, member = r.GetId(), true
		}
		if !member {
			continue
		}
		m.replica.ReportUnreachable(id)
		w.touch(m)
		if lead, _ := m.replica.Lead(); lead != id || m.replica.Leads() {
			continue
		}
		if !w.check(m, m.replica.ForgetLeader()) {
			return
		}
		m.campaigns = campaignsMax
		m.campaignAt = w.n.runtime.Now().Add(time.Duration(w.turn(m, id)) * w.n.options.HeartbeatInterval * 2)
	}
}

// turn is how many members campaign before this one when the node of their leader is gone. If all did at once, they would split the votes, again
// and again on a machine that is busy. Who cannot be reached has no turn, and each shard has another order, so that one node does not come to
// lead all of them.
func (w *worker) turn(m *member, lost uint64) int {
	var candidates []uint64
	for _, id := range m.configuration.GetVoters() { // ascending
		if id != lost && w.n.isReachable(nodeID(m.peer(id))) {
			candidates = append(candidates, id)
		}
	}
	// A replica that is no member any more is in no list, and may ask for votes at any time.
	own := max(0, slices.Index(candidates, m.replica.ID()))
	return (own + int(m.shard)) % max(1, len(candidates))
}

// campaignsMax is how often a member that has lost its leader campaigns by itself. Two that do so at once, or before the other has noticed
// anything, may both fail.
const campaignsMax = 3

// campaign lets a member campaign that has lost its leader, when its time has come; if nobody leads soon, again.
func (w *worker) campaign(m *member, now time.Time) {
	if m.campaignAt.IsZero() || m.campaignAt.After(now) {
		return
	}
	m.campaignAt = time.Time{}
	if lead, _ := m.replica.Lead(); lead != 0 || !w.check(m, m.replica.Campaign()) {
		return
	}
	if m.campaigns--; m.campaigns > 0 {
		pause := 2 * w.n.options.HeartbeatInterval
		m.campaignAt = now.Add(pause + w.n.jitter(pause))
	}
}

func (e transferEvent) handle(w *worker) {
	m, t := e.m, e.t
	id, ok := m.byNode[t.to]
	if !ok {
		t.done(0, &InvalidError{Field: "node_id", Problem: "node " + string(t.to) + " holds no replica of the shard"})
		return
	}
	l := m.lead.Load()
	switch {
	case l != nil && l.node == t.to:
		t.done(l.term, nil)
	case l == nil || !l.local:
		t.done(0, w.n.notLeader(m.shard))
	case len(m.transfers) > 0:
		t.done(0, overloaded("transfers of the lead under way", 1, 1))
	case !w.n.isReachable(t.to) || !m.replica.CanLead(id):
		t.done(0, &InvalidError{Field: "node_id", Problem: fmt.Sprintf(
			"node %s does not answer or is too far behind to lead shard %d; wait until raftkv status shows that it follows", t.to, m.shard)})
	default:
		// While raft hands the lead over it takes no writes, and gives up after an election timeout. Asking again then would keep the writes
		// waiting for a node that does not come.
		t.deadline = w.n.runtime.Now().Add(w.n.options.ElectionTimeout)
		m.replica.TransferLeader(id)
		m.transfers = append(m.transfers, t)
		w.touch(m)
	}
}

// unknownTransfer is the outcome of a transfer whose end was not seen: the other node may have been told to campaign.
func unknownTransfer(shard placement.ShardID, t *transfer, why string) error {
	return &UnknownOutcomeError{Shard: shard, Cause: fmt.Sprintf("node %s was asked to take the lead, and %s", t.to, why)}
}

func (w *worker) finishTransfers(m *member, l *leadership) {
	if l.node == "" {
		return
	}
	rest := m.transfers[:0]
	for _, t := range m.transfers {
		switch {
		case l.node == t.to:
			t.done(l.term, nil)
		case !l.local:
			t.done(0, w.n.notLeader(m.shard))
		default:
			rest = append(rest, t)
		}
	}
	m.transfers = rest
}

// expireTransfers gives up the transfers that raft has given up.
func (w *worker) expireTransfers(m *member, now time.Time) {
	rest := m.transfers[:0]
	for _, t := range m.transfers {
		if t.deadline.Before(now) {
			t.done(0, unknownTransfer(m.shard, t, "has not within an election timeout; it may yet"))
			continue
		}
		rest = append(rest, t)
	}
	m.transfers = rest
}
