package replica

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// step lets a replica take a message of replica 1 in a term, and returns the append to which it leads.
func (g *group) step(id uint64, m *raftpb.Message) *Append {
	g.t.Helper()
	m.From, m.To = new(uint64(1)), &id
	if err := g.replicas[id].Step(m); err != nil {
		g.t.Fatal(err)
	}
	g.ready(id)
	if len(g.appends[id]) != 1 {
		g.t.Fatalf("%s leads to %d appends", m.GetType(), len(g.appends[id]))
	}
	return g.appends[id][0]
}

// What a follower acknowledges a second time needs no second fsync, and a term in which it says anything needs one (R4).
func TestWhatIsPromisedIsSyncedOnce(t *testing.T) {
	g := newGroup(t, 3)
	g.elect()
	leader := g.replicas[1].Status()
	term, last := leader.Term, leader.LastIndex
	empty := func(term, commit uint64) *raftpb.Message {
		return &raftpb.Message{Type: raftpb.MsgApp.Enum(), Term: &term, LogTerm: new(leader.Term), Index: &last, Commit: &commit}
	}
	steps := []struct {
		what    string
		message *raftpb.Message
		sync    bool
	}{
		{"an entry", &raftpb.Message{
			Type: raftpb.MsgApp.Enum(), Term: &term, LogTerm: &term, Index: &last, Commit: &last,
			Entries: []*raftpb.Entry{{Term: &term, Index: new(last + 1), Data: []byte("x")}},
		}, true},
		{"a commit index alone", empty(term, last+1), false},
		{"a term alone, about which nothing is said", &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), Term: new(term + 1)}, false},
		{"an acknowledgement in the new term", empty(term+1, last+1), true},
		{"the same once more", empty(term+1, last+1), false},
	}
	for _, s := range steps {
		if a := g.step(2, s.message); a.Sync != s.sync {
			t.Errorf("%s: fsync %t, want %t", s.what, a.Sync, s.sync)
		}
		g.sync(2)
	}
}

// A replica that starts does not know whether what it has read was synced: its first word makes that durable (R4).
func TestTheFirstWordAfterAStartIsSynced(t *testing.T) {
	g := newGroup(t, 3)
	g.elect()
	s := g.replicas[1].Status()
	g.open(2, 3, 2)
	a := g.step(2, &raftpb.Message{Type: raftpb.MsgApp.Enum(), Term: &s.Term, LogTerm: &s.Term, Index: &s.LastIndex, Commit: &s.Commit})
	if !a.Sync {
		t.Error("an acknowledgement leaves for what may be in memory only")
	}
}
