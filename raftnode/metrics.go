package raftnode

import (
	"sync/atomic"

	"github.com/raftkv/raftkv/raftnode/logstore"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/state"
	"github.com/raftkv/raftkv/raftnode/transport"
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
	// DiskStalled says that the disk does not come back from what it was asked.
	DiskStalled bool
	// Watchers are watches of single shards, WatchBytes the changes that wait for them in memory, as they are now.
	Watchers, WatchBytes int64
	// Transport counts messages between nodes; all zero with a transport that does not count.
	Transport transport.Metrics
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

// Queues are how much waits in a node, and where.
type Queues struct {
	// Worker are events that the workers have not looked at: requests, messages, ticks.
	Worker int
	// Log are updates that are not in the log yet, Apply runs of committed entries that are not applied yet.
	Log, Apply int
	// Forwarded are requests that another node was asked to answer, RequestBytes what all unanswered requests take.
	Forwarded    int
	RequestBytes int64
}

// Metrics returns the counts of the node. It waits for nothing.
func (n *Node) Metrics() Metrics {
	c := &n.metrics
	m := Metrics{
		Proposals: c.proposals.Load(), ProposedCommands: c.proposedCommands.Load(), ReadRounds: c.readRounds.Load(),
		LeaderChanges: c.leaderChanges.Load(), SnapshotsSent: c.snapshotsSent.Load(), SnapshotsInstalled: c.installs.Load(),
		RejectedMessages: c.rejectedMessages.Load(), DroppedMessages: c.droppedMessages.Load(), RefusedWrites: c.refusedWrites.Load(),
		LostAnswers: c.lostAnswers.Load(),
		Rebuilds:    c.rebuilds.Load(), DigestsCompared: c.digestsCompared.Load(), DigestMismatches: c.digestMismatches.Load(),
		RefusedGrowth: c.refusedGrowth.Load(), Yields: c.yields.Load(),
		DiskFree: n.reserve.free.Load(), DiskReserve: n.reserve.bytes, DiskFull: n.reserve.full.Load(), DiskStalled: n.stall.stalled.Load(),
		Shards: n.shardMetrics(),
	}
	if t, ok := n.transport.(interface{ Metrics() transport.Metrics }); ok {
		m.Transport = t.Metrics()
	}
	if n.serving.Load() {
		m.Watchers, m.WatchBytes = n.watches.hub.Watchers()
	}
	return m
}

// Queues returns how much waits in the node now. It takes short locks and waits for nothing else.
func (n *Node) Queues() Queues {
	q := Queues{Log: n.stall.log.open(), Apply: n.stall.apply.open(), Forwarded: n.forwards.open(), RequestBytes: n.requests.bytes.Load()}
	if !n.serving.Load() {
		return q
	}
	for _, w := range n.workers {
		w.inbox.Lock()
		q.Worker += len(w.inbox.events)
		w.inbox.Unlock()
	}
	return q
}

// Storage are figures of what a node keeps on its disk.
type Storage struct {
	Log logstore.Metrics
	// State has its Bytes alone with a state machine of the program's own.
	State state.Metrics
}

// Storage asks log and state for their figures; all zero before the node serves and once it is closed. It takes locks of theirs, and waits if the disk
// does not come back.
func (n *Node) Storage() (s Storage) {
	if n.serving.Load() {
		n.ask(func() { s = Storage{Log: n.logs.Metrics(), State: n.engine.metrics()} })
	}
	return s
}
