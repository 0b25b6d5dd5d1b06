package replica

import (
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

func learner(id uint64) *raftpb.ConfChangeV2 {
	return &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: new(id)}}}
}

// A change of the membership takes effect when it is applied, on every member, and one that comes too early is an empty entry.
func TestChange(t *testing.T) {
	g := newGroup(t, 3)
	g.elect()
	leader := g.replicas[1]
	for _, c := range []*raftpb.ConfChangeV2{learner(4), learner(5)} {
		if err := leader.ProposeChange(c); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.replicas[2].ProposeChange(learner(6)); err == nil {
		t.Error("a follower proposes")
	}
	g.settle()
	for range 3 {
		leader.Tick() // Followers learn what is committed.
		g.settle()
	}
	for id, r := range g.replicas {
		if got := r.Membership().GetLearners(); !slices.Equal(got, []uint64{4}) {
			t.Errorf("replica %d: learners %d, want 4 alone", id, got)
		}
	}
	if leader.Follows(4, 0) || !leader.Follows(2, 0) || g.replicas[2].Follows(3, 0) {
		t.Error("it is not known who follows")
	}
}

// Entries that were handed out before raft took a snapshot change nothing any more: raft goes by the membership of the snapshot, which knows
// them and what came after.
func TestChangesBeforeASnapshotAreNotRepeated(t *testing.T) {
	g := newGroup(t, 3)
	g.elect()
	g.lags[3] = true // Its applier holds on to what it has.
	if err := g.replicas[1].ProposeChange(learner(4)); err != nil {
		t.Fatal(err)
	}
	g.settle()
	for range 3 {
		g.replicas[1].Tick()
		g.settle()
	}
	r := g.replicas[3]
	if len(g.held[3]) == 0 {
		t.Fatal("replica 3 holds nothing back")
	}
	term := r.Status().Term
	snapshot := &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: new(uint64(1)), To: new(uint64(3)), Term: new(term),
		Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
			Index: new(uint64(100)), Term: new(term), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3, 4}},
		}},
	}
	if err := r.Step(snapshot); err != nil {
		t.Fatal(err)
	}
	g.ready(3)
	if r.Restored() != 100 {
		t.Fatalf("restored %d", r.Restored())
	}
	g.apply(3)
	g.sync(3)
	if got := r.Membership(); !slices.Equal(got.GetVoters(), []uint64{1, 2, 3, 4}) || len(got.GetLearners()) > 0 {
		t.Errorf("voters %d, learners %d, want those of the snapshot", got.GetVoters(), got.GetLearners())
	}
	if config := r.node.Status().Config; len(config.Learners) > 0 || len(config.Voters.IDs()) != 4 {
		t.Errorf("raft goes by %s", config)
	}
}
