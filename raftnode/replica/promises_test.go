package replica

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// syncOne makes the oldest append of a replica durable, and no other.
func (g *group) syncOne(id uint64) {
	g.t.Helper()
	g.ready(id)
	if len(g.appends[id]) == 0 {
		return
	}
	a := g.appends[id][0]
	g.appends[id] = g.appends[id][1:]
	g.logs[id].append(a)
	messages, err := g.replicas[id].AppendDone(a)
	if err != nil {
		g.t.Fatal(err)
	}
	g.net = append(g.net, messages...)
	g.ready(id)
}

// checkPromises says whether the disks keep what is being said: votes and acknowledgements.
func (g *group) checkPromises() {
	g.t.Helper()
	for _, m := range g.net {
		l := g.logs[m.GetFrom()].synced
		switch {
		case m.GetReject():
		case m.GetType() == raftpb.MsgVoteResp && (l.hardState.GetTerm() < m.GetTerm() || l.hardState.GetVote() != m.GetTo()):
			g.t.Fatalf("%d votes for %d in term %d, its disk has a vote for %d in term %d",
				m.GetFrom(), m.GetTo(), m.GetTerm(), l.hardState.GetVote(), l.hardState.GetTerm())
		case m.GetType() == raftpb.MsgAppResp && (m.GetIndex() > l.last() || m.GetTerm() > l.hardState.GetTerm()):
			g.t.Fatalf("%d acknowledges index %d in term %d, its disk ends at %d and knows term %d",
				m.GetFrom(), m.GetIndex(), m.GetTerm(), l.last(), l.hardState.GetTerm())
		}
	}
}

// checkCommit says whether what the leader takes for committed is on a majority of the disks.
func (g *group) checkCommit() {
	g.t.Helper()
	commit, on := g.replicas[1].Status().Commit, 0
	for _, l := range g.logs {
		if l.synced.last() >= commit {
			on++
		}
	}
	if on <= len(g.logs)/2 {
		g.t.Fatalf("index %d is committed and on %d of %d disks", commit, on, len(g.logs))
	}
}

// Whatever leaves a replica while its disk is behind by several appends, the disk keeps it, and a majority of the disks what is committed
// (R3, R4, R5).
func TestPromisesAreOnTheDisk(t *testing.T) {
	g := newGroup(t, 3)
	if err := g.replicas[1].Campaign(); err != nil {
		t.Fatal(err)
	}
	for round := range 60 {
		if g.replicas[1].Leads() && round%2 == 0 {
			g.propose("x")
		}
		g.deliver()
		g.checkPromises()
		g.checkCommit()
		// The leader's disk is the slowest.
		if id := uint64(round%3) + 1; id > 1 || round%9 == 0 {
			g.syncOne(id)
		}
		g.checkPromises()
		g.checkCommit()
	}
	g.settle()
	if s := g.replicas[1].Status(); s.Commit != s.LastIndex || s.Commit < 10 {
		t.Errorf("commit %d of %d: the test shows little", s.Commit, s.LastIndex)
	}
}

// A replica that starts again knows for whom it has voted: in one term it votes for no other (R4).
func TestVotesSurviveARestart(t *testing.T) {
	g := newGroup(t, 3)
	g.elect()
	term := g.replicas[2].Status().Term
	g.logs[2].crash()
	g.open(2, 3, 2)
	err := g.replicas[2].Step(&raftpb.Message{
		Type: raftpb.MsgVote.Enum(), From: new(uint64(3)), To: new(uint64(2)), Term: &term, LogTerm: &term, Index: new(uint64(99)),
	})
	if err != nil {
		t.Fatal(err)
	}
	g.sync(2)
	answered := false
	for _, m := range g.net {
		if m.GetType() == raftpb.MsgVoteResp {
			answered = true
			if !m.GetReject() {
				t.Errorf("votes for %d in term %d, after a vote for 1", m.GetTo(), term)
			}
		}
	}
	if !answered {
		t.Error("no answer: the test shows nothing")
	}
}
