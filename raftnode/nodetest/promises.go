package nodetest

import (
	"fmt"
	"maps"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/logstore"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

// promises remembers what every replica has told others of its log and its vote, and checks after every crash that its disk still says so
// (R3, R4, R5), and that the state on it is that of other replicas at the same index (R1, R21).
type promises struct {
	c     *Cluster
	known map[promiser]*promise
	// states are the states that disks have shown, to be compared with others at the same index.
	states map[shardIndex]replicaState
	// stood is where each replica stood when its disk was last looked at.
	stood map[promiser]standing
}

// standing is what a disk surely holds of a replica: its term, its commit, and what it has applied. None ever falls.
type standing struct {
	term, commit, applied uint64
}

type promiser struct {
	process int
	shard   uint32
}

// promise is of the highest term in which the replica has promised anything.
type promise struct {
	term, vote, acked uint64
}

func newPromises(c *Cluster) *promises {
	return &promises{c: c, known: make(map[promiser]*promise), states: make(map[shardIndex]replicaState), stood: make(map[promiser]standing)}
}

// made notes a promise that leaves a replica.
func (ps *promises) made(p *process, shard uint32, m *raftpb.Message) {
	if m.GetReject() {
		return
	}
	at := promiser{p.index, shard}
	given := ps.known[at]
	if given == nil || m.GetTerm() > given.term {
		given = &promise{term: m.GetTerm()}
		ps.known[at] = given
	}
	if m.GetTerm() < given.term {
		// An acknowledgement of a past term promises nothing that a later leader may not undo.
		return
	}
	if m.GetType() == raftpb.MsgVoteResp {
		if given.vote != 0 && given.vote != m.GetTo() {
			ps.c.violate("%s, shard %d: votes for %d and %d in term %d", p.id, shard, given.vote, m.GetTo(), given.term)
		}
		given.vote = m.GetTo()
		return
	}
	given.acked = max(given.acked, m.GetIndex())
}

// check reads the disk of a process that has crashed, on a copy.
func (ps *promises) check(p *process) {
	if p.ruin != sound {
		return // It keeps nothing that can be relied on.
	}
	disk := p.disk.Image(simfs.CrashOptions{Keep: simfs.KeepAll})
	if _, err := disk.Stat(raftnode.LogDir(disk, dataDir)); err != nil {
		return // It had not come so far.
	}
	logs, err := logstore.Open(raftnode.LogDir(disk, dataDir), logstore.Options{FS: disk, SegmentBytes: 1 << 20})
	if err != nil {
		ps.c.violate("%s: the log cannot be opened after a crash: %v", p.id, err)
		return
	}
	defer func() {
		if err := logs.Close(); err != nil {
			ps.c.violate("%s: the log cannot be closed after a crash: %v", p.id, err)
		}
	}()
	for _, d := range logs.Damaged() {
		ps.c.violate("%s: the log is damaged after a crash: %v", p.id, d)
	}
	applied := make(map[placement.ShardID]uint64)
	if _, err := disk.Stat(disk.PathJoin(dataDir, "state")); err == nil {
		if applied, _, err = compareStates(ps.states, p.id, Disk{disk, dataDir}); err != nil {
			ps.c.violate("after a crash: %v", err)
			return
		}
	}
	for _, shard := range logs.Shards() {
		log, _ := logs.State(shard)
		if log.LastIndex > applied[shard] && applied[shard] > 0 {
			ps.c.seen(RestartReplay)
		}
		if log.Intent != nil {
			ps.c.seen(InstallFinished)
		}
		if log.TruncatedIndex > 2 {
			ps.c.seen(Truncation)
		}
		ps.rises(p, shard, standing{log.HardState.GetTerm(), log.HardState.GetCommit(), applied[shard]})
		if err := ps.kept(p, shard, log); err != nil {
			ps.c.violate("%s, shard %d: after a crash %v", p.id, shard, err)
		}
	}
}

// forget drops what is known of a process.
func (ps *promises) forget(p *process) {
	maps.DeleteFunc(ps.known, func(by promiser, _ *promise) bool { return by.process == p.index })
	maps.DeleteFunc(ps.stood, func(by promiser, _ standing) bool { return by.process == p.index })
}

func (ps *promises) rises(p *process, shard placement.ShardID, now standing) {
	at := promiser{p.index, uint32(shard)}
	was := ps.stood[at]
	if now.term < was.term || now.commit < was.commit || now.applied < was.applied {
		ps.c.violate("%s, shard %d: after a crash %+v, before it %+v", p.id, shard, now, was)
	}
	ps.stood[at] = now
}

func (ps *promises) kept(p *process, shard placement.ShardID, log logstore.State) error {
	promised := ps.known[promiser{p.index, uint32(shard)}]
	if promised == nil {
		return nil
	}
	last := log.LastIndex
	if log.Intent != nil {
		last = max(last, log.Intent.Index)
	}
	switch hs := log.HardState; {
	case hs.GetTerm() < promised.term && (log.Intent == nil || log.Intent.Term < promised.term):
		return fmt.Errorf("the log is of term %d, something was promised in term %d", hs.GetTerm(), promised.term)
	case hs.GetTerm() > promised.term:
		return nil
	case promised.vote != 0 && hs.GetVote() != promised.vote:
		return fmt.Errorf("the vote of term %d is for %d, promised to %d", promised.term, hs.GetVote(), promised.vote)
	case last < promised.acked:
		return fmt.Errorf("the log ends at %d, index %d was acknowledged in term %d", last, promised.acked, promised.term)
	}
	return nil
}
