package raftnode

import (
	"sync/atomic"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// counters are what a node counts about itself. Any goroutine may add.
type counters struct {
	proposals, proposedCommands, readRounds          atomic.Uint64
	leaderChanges, snapshotsSent, installs           atomic.Uint64
	rejectedMessages, droppedMessages, refusedWrites atomic.Uint64
	rebuilds, digestsCompared, digestMismatches      atomic.Uint64
	refusedGrowth, yields, lostAnswers               atomic.Uint64
}

// Metrics are the counts of a node since it was opened.
type Metrics struct {
	// Proposals are entries proposed, ProposedCommands the commands in them, ReadRounds confirmed ReadIndex rounds.
	Proposals, ProposedCommands, ReadRounds uint64
	// LeaderChanges counts changes of the leader of any local shard.
	LeaderChanges uint64
	// SnapshotsSent and SnapshotsInstalled count images of shards.
	SnapshotsSent, SnapshotsInstalled uint64
	// RejectedMessages are messages of peers that were not heard, DroppedMessages those for which there was no room.
	RejectedMessages, DroppedMessages uint64
	// LostAnswers are answers to other nodes that could not be sent in time.
	LostAnswers uint64
	// RefusedWrites were refused because the state engine was behind.
	RefusedWrites uint64
	// Rebuilds are replicas that have begun anew in place of damaged ones.
	Rebuilds uint64
	// DigestsCompared counts comparisons of a replica's state with that of another at the same index, DigestMismatches those that failed.
	DigestsCompared, DigestMismatches uint64
	// RefusedGrowth are writes refused because a disk was nearly full, Yields leads given up because the disk of the node stalled.
	RefusedGrowth, Yields uint64
	// DiskFree and DiskReserve are bytes as they are now, DiskFull says that the free ones have fallen into the reserve.
	DiskFree, DiskReserve uint64
	DiskFull              bool
	// Shards are those of which the node has a replica.
	Shards []ShardMetrics
}

// ShardMetrics count what a replica keeps for a time.
type ShardMetrics struct {
	ID placement.ShardID
	// ExpiredKeys have gone since the node was opened because their time had passed or their lease had ended; every replica counts them.
	ExpiredKeys uint64
	// LeasedKeys hang on a lease, Leases live here.
	LeasedKeys, Leases uint64
	// KeyedResults are the answers kept under idempotency keys, KeyedBytes what they take.
	KeyedResults, KeyedBytes uint64
}

// shardMetrics waits for nothing: the counts are kept with the state.
func (n *Node) shardMetrics() []ShardMetrics {
	var out []ShardMetrics
	for _, m := range n.locals() {
		out = append(out, n.engine.kept(m.shard))
	}
	return out
}

// Metrics returns the counts of the node.
func (n *Node) Metrics() Metrics {
	c := &n.metrics
	return Metrics{
		Proposals: c.proposals.Load(), ProposedCommands: c.proposedCommands.Load(), ReadRounds: c.readRounds.Load(),
		LeaderChanges: c.leaderChanges.Load(), SnapshotsSent: c.snapshotsSent.Load(), SnapshotsInstalled: c.installs.Load(),
		RejectedMessages: c.rejectedMessages.Load(), DroppedMessages: c.droppedMessages.Load(), RefusedWrites: c.refusedWrites.Load(),
		LostAnswers: c.lostAnswers.Load(),
		Rebuilds:    c.rebuilds.Load(), DigestsCompared: c.digestsCompared.Load(), DigestMismatches: c.digestMismatches.Load(),
		RefusedGrowth: c.refusedGrowth.Load(), Yields: c.yields.Load(),
		DiskFree: n.reserve.free.Load(), DiskReserve: n.reserve.bytes, DiskFull: n.reserve.full.Load(),
		Shards: n.shardMetrics(),
	}
}
