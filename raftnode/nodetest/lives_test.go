package nodetest

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/logstore"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"
	"github.com/raftkv/raftkv/raftnode/state"
)

const testShard placement.ShardID = 1

// ofRaft decodes a message of the test's shard; nil if it is of another.
func ofRaft(t *testing.T, m *peerv1.RaftMessage) *raftpb.Message {
	t.Helper()
	if m.GetShard() != uint32(testShard) {
		return nil
	}
	out := &raftpb.Message{}
	if err := proto.Unmarshal(m.GetMessage(), out); err != nil {
		t.Fatal(err)
	}
	return out
}

// show reads the key that write writes, at a node.
func show(p *process, within time.Duration, done func(value string, err error)) {
	p.c.scheduler.add(0, &event{name: "request", process: p, run: func() {
		p.life.node.Submit(&raftnode.Request{
			AutoShard: true, Read: &peerv1.ReadRequest{Keys: []string{"k"}}, Deadline: p.life.runtime.Now().Add(within),
			Done: func(res raftnode.Result) {
				if res.Err != nil {
					done("", res.Err)
					return
				}
				done(string(res.Read.GetRecords()[0].GetRecord().GetValue()), nil)
			},
		})
	}})
}

// TestReadsAreNotConfirmedByAnswersToAnEarlierLife keeps the answers to the ReadIndex rounds of a follower until it has started again, and
// then lets them meet rounds of the same numbers: they are of before a write that has been acknowledged meanwhile (R16).
func TestReadsAreNotConfirmedByAnswersToAnEarlierLife(t *testing.T) {
	inCluster(t, Options{Seed: 1}, func(c *Cluster) {
		write(t, c, "old")
		c.Run(2 * time.Second)
		leader := c.Leader(testShard)
		follower := c.processes[(leader+1)%len(c.processes)]
		var late [][]byte
		c.network.holds = func(l *link, data []byte, m *peerv1.RaftMessage) bool {
			answer := l.to == follower && ofRaft(t, m).GetType() == raftpb.MsgReadIndexResp
			if answer {
				late = append(late, data)
			}
			return answer
		}
		c.Crash(follower.index, simfs.KeepSynced)
		c.Start(follower.index)
		// The node asks by itself whether it has caught up, round after round.
		if !c.RunUntil(20*time.Second, func() bool { return len(late) >= 5 }) {
			t.Fatalf("%d rounds are answered", len(late))
		}
		c.Crash(follower.index, simfs.KeepSynced)
		write(t, c, "new")

		// In its next life the follower knows its leader, and gets neither entries nor answers but the late ones.
		c.network.holds = func(l *link, _ []byte, m *peerv1.RaftMessage) bool {
			switch r := ofRaft(t, m); {
			case l.from == follower:
				return r.GetType() == raftpb.MsgReadIndex
			case l.to == follower:
				return r.GetType() == raftpb.MsgApp || r.GetType() == raftpb.MsgReadIndexResp
			}
			return false
		}
		c.Start(follower.index)
		if !c.RunUntil(20*time.Second, follower.serving) {
			t.Fatal("the follower does not start again")
		}
		answered, value := false, ""
		show(follower, 10*time.Second, func(v string, err error) {
			if err != nil {
				t.Error(err)
			}
			answered, value = true, v
		})
		c.Run(2 * time.Second)
		from := c.network.link(c.processes[leader], follower)
		for _, data := range late {
			c.network.deliver(from, [][]byte{data}, c.Now(), 0)
		}
		c.Run(time.Second)
		if answered {
			t.Errorf("the read is answered with %q before this life has asked anybody", value)
		}
		c.network.holds = nil
		if !c.RunUntil(10*time.Second, func() bool { return answered }) || value != "new" {
			t.Errorf("answered %t with %q, want %q", answered, value, "new")
		}
	})
}

// TestSnapshotOfALaterTerm hands a node a snapshot that is the first that it hears of a term. Once it is installed, the term is as durable as
// the snapshot: whatever the node says in it from then on, it must remember (R4, R8).
func TestSnapshotOfALaterTerm(t *testing.T) {
	const later = 50
	inCluster(t, Options{Seed: 1}, func(c *Cluster) {
		write(t, c, "before")
		c.Run(2 * time.Second)
		leader := c.processes[c.Leader(testShard)]
		lagging := c.processes[(leader.index+1)%len(c.processes)]
		c.Stop(lagging.index)
		for i := range 60 {
			write(t, c, fmt.Sprint(i))
		}
		c.Run(2 * time.Second)
		start, body := snapshotOf(t, leader, lagging, later)
		// From here on nobody else tells the node anything.
		var others []int
		for _, p := range c.processes {
			if p != lagging {
				others = append(others, p.index)
			}
		}
		c.Partition(0, others)
		c.Start(lagging.index)
		if !c.RunUntil(20*time.Second, lagging.serving) {
			t.Fatal("the node does not start again")
		}
		var taken error
		c.scheduler.add(0, &event{name: "snapshot", process: lagging, run: func() {
			taken = lagging.life.transport.options.Handler.HandleSnapshot(leader.life.transport.peer(), start, body)
		}})
		if !c.RunUntil(5*time.Second, func() bool { return taken != nil || lagging.life.node.Metrics().SnapshotsInstalled > 0 }) || taken != nil {
			t.Fatalf("the snapshot is not installed: %v", taken)
		}
		c.Crash(lagging.index, simfs.KeepSynced)
		logs, err := logstore.Open(raftnode.LogDir(lagging.disk, dataDir), logstore.Options{FS: lagging.disk, SegmentBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer logs.Close()
		log, _ := logs.State(testShard)
		if log.HardState.GetTerm() != later || log.HardState.GetCommit() < log.TruncatedIndex {
			t.Errorf("the log behind the snapshot at index %d is of term %d and commit %d, want term %d", log.TruncatedIndex, log.HardState.GetTerm(), log.HardState.GetCommit(), later)
		}
		if v := c.Violations(); len(v) > 0 {
			t.Error(v)
		}
	})
}

// snapshotOf makes a snapshot of what a node has on its disk, as if it were sent to another in some term.
func snapshotOf(t *testing.T, from, to *process, term uint64) (*peerv1.SnapshotStart, *bytes.Buffer) {
	t.Helper()
	disk := from.disk.Image(simfs.CrashOptions{Keep: simfs.KeepAll})
	store, err := state.Open(disk.PathJoin(dataDir, "state"), state.Options{FS: disk, CacheBytes: 1 << 20, MemTableBytes: memTableBytes})
	if err != nil {
		t.Fatal(err)
	}
	v := store.View()
	body := &bytes.Buffer{}
	at, exported := v.Export(testShard, body)
	members, err := v.Configuration(testShard)
	if err := errors.Join(exported, err, v.Close(), store.Close()); err != nil {
		t.Fatal(err)
	}
	m := &raftpb.Message{Type: raftpb.MsgSnap.Enum(), Term: &term, Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		Index: &at.Index, Term: &at.Term, ConfState: &raftpb.ConfState{Voters: members.GetVoters()},
	}}}
	for _, r := range members.GetReplicas() {
		switch placement.NodeID(r.GetNodeId()) {
		case from.id:
			m.From = proto.Uint64(r.GetId())
		case to.id:
			m.To = proto.Uint64(r.GetId())
		}
	}
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return &peerv1.SnapshotStart{Shard: uint32(testShard), Message: data}, body
}
