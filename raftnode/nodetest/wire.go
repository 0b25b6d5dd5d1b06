package nodetest

import (
	"github.com/cespare/xxhash/v2"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
)

// wire sees every message of Raft that leaves a node, and checks what Raft promises of them: one leader per term, and that entries of one
// index and term are the same everywhere.
type wire struct {
	c       *Cluster
	leaders map[shardTerm]leader
	entries map[shardEntry]uint64
	// said is the highest term and commit that each replica has said to each other process in its present life.
	said map[conversation]said
}

type conversation struct {
	from, to int
	shard    uint32
}

// said is of one life of a process: what was not durable may be forgotten in the next.
type said struct{ life, term, commit uint64 }

type shardTerm struct {
	shard uint32
	term  uint64
}

// leader is who leads in a term: a replica, in one life of its process. One that has restarted has forgotten what it sent.
type leader struct {
	replica, life uint64
}

type shardEntry struct {
	shard       uint32
	index, term uint64
}

func newWire(c *Cluster) *wire {
	return &wire{c: c, leaders: make(map[shardTerm]leader), entries: make(map[shardEntry]uint64), said: make(map[conversation]said)}
}

func (w *wire) sent(l *link, raft *peerv1.RaftMessage) {
	m := &raftpb.Message{}
	if err := proto.Unmarshal(raft.GetMessage(), m); err != nil {
		w.c.violate("raft message of %s cannot be decoded: %v", l.from.id, err)
		return
	}
	if l.from.ruin == emptied {
		w.c.violate("%s, shard %d: has lost its disk and says %s (R13)", l.from.id, raft.GetShard(), m.GetType())
		return
	}
	w.rises(l, raft.GetShard(), m)
	switch m.GetType() {
	case raftpb.MsgApp:
		w.entriesOf(raft.GetShard(), m.GetEntries())
		w.leads(l, raft.GetShard(), m)
	case raftpb.MsgHeartbeat, raftpb.MsgTimeoutNow:
		w.leads(l, raft.GetShard(), m)
	case raftpb.MsgAppResp, raftpb.MsgVoteResp:
		w.c.promises.made(l.from, raft.GetShard(), m)
	}
}

// rises checks that what a replica says of its term and its commit never falls. Answers to others may leave later than they were made, once
// something is durable, and a pre-vote speaks of a term that is not the replica's yet, so only what leaves at once counts.
func (w *wire) rises(l *link, shard uint32, m *raftpb.Message) {
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgVote, raftpb.MsgTimeoutNow:
	default:
		return
	}
	at, life := conversation{l.from.index, l.to.index, shard}, l.from.life.number
	was := w.said[at]
	if was.life != life {
		was = said{life: life}
	}
	if m.GetTerm() < was.term {
		w.c.violate("%s, shard %d: says term %d after term %d", l.from.id, shard, m.GetTerm(), was.term)
	}
	was.term = max(was.term, m.GetTerm())
	if m.GetType() == raftpb.MsgApp {
		if m.GetCommit() < was.commit {
			w.c.violate("%s, shard %d: says commit %d after commit %d", l.from.id, shard, m.GetCommit(), was.commit)
		}
		was.commit = max(was.commit, m.GetCommit())
	}
	w.said[at] = was
}

// snapshot sees a snapshot leave.
func (w *wire) snapshot(l *link, start *peerv1.SnapshotStart) {
	w.c.seen(SnapshotSent)
	m := &raftpb.Message{}
	if err := proto.Unmarshal(start.GetMessage(), m); err != nil {
		w.c.violate("snapshot message of %s cannot be decoded: %v", l.from.id, err)
		return
	}
	w.leads(l, start.GetShard(), m)
}

// leads notes that the sender of a message leads in its term.
func (w *wire) leads(l *link, shard uint32, m *raftpb.Message) {
	at, now := shardTerm{shard, m.GetTerm()}, leader{m.GetFrom(), l.from.life.number}
	switch was, ok := w.leaders[at]; {
	case !ok:
		w.leaders[at] = now
		if len(w.leaders) > w.c.options.Shards+1 {
			w.c.seen(LeaderChange)
		}
	case was.replica != now.replica:
		w.c.violate("shard %d: replicas %d and %d both lead in term %d", shard, was.replica, now.replica, m.GetTerm())
	case was.life != now.life:
		w.c.violate("shard %d: replica %d leads in term %d before and after a restart", shard, now.replica, m.GetTerm())
	}
}

// entriesOf compares entries with those of the same index and term that were seen before.
func (w *wire) entriesOf(shard uint32, entries []*raftpb.Entry) {
	for _, e := range entries {
		at := shardEntry{shard, e.GetIndex(), e.GetTerm()}
		sum := xxhash.Sum64(e.GetData()) + uint64(e.GetType())
		switch was, ok := w.entries[at]; {
		case !ok:
			w.entries[at] = sum
		case was != sum:
			w.c.violate("shard %d: entry %d of term %d is not the same everywhere", shard, e.GetIndex(), e.GetTerm())
		}
	}
}
