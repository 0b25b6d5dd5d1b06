package raftnode

import (
	"sync/atomic"
	"time"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// silence counts how long each peer has said nothing. A peer sends a heartbeat every tick, so one that misses several is frozen, or its
// packets vanish, though no connection has broken: it counts as down until it is heard again. A heartbeat may wait behind a long message
// on a slow link, so each piece of that counts as well.
//
// It counts ticks of this node and no time, so that a node which was held up itself does not take the others to be silent: its ticks
// were held up as well.
type silence struct {
	// most is how many ticks of silence mean that a peer is down.
	most  int32
	ticks map[placement.NodeID]*atomic.Int32 // since a peer was heard; the map does not change
}

// silentTicksMin keeps a pause of a collector or of a scheduler from looking like the end of a node.
const silentTicksMin = 3

// newSilence waits for half of an election timeout: followers that hear nothing else of a leader are that much faster than raft, and a node
// that is slow for a moment keeps its leads.
func newSilence(members []Member, election, tick time.Duration) *silence {
	s := &silence{most: max(silentTicksMin, int32(election/tick/2)), ticks: make(map[placement.NodeID]*atomic.Int32)}
	for _, m := range members {
		s.ticks[m.ID] = &atomic.Int32{}
		s.lost(m.ID) // Until its first word, nothing is to be had from a peer.
	}
	return s
}

// heard takes note that a peer has said something, and says whether it was silent before.
func (s *silence) heard(node placement.NodeID) (was bool) {
	t := s.ticks[node]
	return t != nil && t.Swap(0) >= s.most
}

// lost makes a peer silent: after the loss of a connection that to it and that from it come back each on its own, and one that it could not
// answer on is no use.
func (s *silence) lost(node placement.NodeID) {
	if t := s.ticks[node]; t != nil {
		t.Store(s.most)
	}
}

// tick takes note that time has passed, and says whether the peer has become silent by that.
func (s *silence) tick(node placement.NodeID) (now bool) {
	return s.ticks[node].Add(1) == s.most
}

// silent says whether a peer is silent.
func (s *silence) silent(node placement.NodeID) bool {
	t := s.ticks[node]
	return t != nil && t.Load() >= s.most
}

// heard takes note that a peer has said something.
func (n *Node) heard(node placement.NodeID) {
	if n.silence.heard(node) {
		n.log.Info("peer is heard again", "peer", node)
	}
}

// listen makes the followers of a peer that has become silent forget it, as a broken connection does. Requests that were passed on to it keep
// waiting: as long as the connection stands, they may be answered.
func (n *Node) listen(node placement.NodeID) {
	if !n.silence.tick(node) {
		return
	}
	if n.connected(node) {
		n.log.Warn("peer is silent", "peer", node, "ticks", n.silence.most)
	}
	for _, w := range n.workers {
		w.post(peerDownEvent{node: node})
	}
}
