package replica

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
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

// What a follower acknowledges a second time needs no second fsync; a term in which it says anything needs one, and so does a vote (R4).
func TestWhatIsPromisedIsSyncedOnce(t *testing.T) {
	g := newGroup(t, 3)
	g.elect()
	leader := g.replicas[1].Status()
	term, last := leader.Term, leader.LastIndex
	appendTo := func(index, term uint64, entries ...*raftpb.Entry) *raftpb.Message {
		return &raftpb.Message{
			Type: raftpb.MsgApp.Enum(), Term: &term, LogTerm: new(leader.Term), Index: &index, Commit: &index, Entries: entries,
		}
	}
	vote := func(term, index uint64) *raftpb.Message {
		return &raftpb.Message{Type: raftpb.MsgVote.Enum(), Term: &term, LogTerm: new(leader.Term), Index: &index, Context: []byte("CampaignTransfer")}
	}
	steps := []struct {
		what    string
		message *raftpb.Message
		sync    bool
		state   *raftpb.HardState
	}{
		{"an entry", appendTo(last, term, &raftpb.Entry{Term: &term, Index: new(last + 1), Data: []byte("x")}), true, nil},
		{"a commit index alone", appendTo(last+1, term), false, &raftpb.HardState{Term: &term, Vote: new(uint64(1)), Commit: new(last + 1)}},
		{
			"a term alone, in which nothing is said",
			&raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), Term: new(term + 1)}, false, &raftpb.HardState{Term: new(term + 1), Vote: new(uint64(0)), Commit: new(last + 1)},
		},
		{"an acknowledgement in the new term", appendTo(last+1, term+1), true, nil},
		{"the same once more", appendTo(last+1, term+1), false, nil},
		{"a vote that is refused, in a new term", vote(term+2, last), true, &raftpb.HardState{Term: new(term + 2), Vote: new(uint64(0)), Commit: new(last + 1)}},
		{"a vote in that term", vote(term+2, last+1), true, &raftpb.HardState{Term: new(term + 2), Vote: new(uint64(1)), Commit: new(last + 1)}},
		{"the same vote once more", vote(term+2, last+1), false, nil},
	}
	for _, s := range steps {
		a := g.step(2, s.message)
		if a.Sync != s.sync || !proto.Equal(a.HardState, s.state) {
			t.Errorf("%s: fsync %t with %v, want %t with %v", s.what, a.Sync, a.HardState, s.sync, s.state)
		}
		g.sync(2)
		g.checkPromises()
	}
}

// A replica that starts does not know whether what it has read was synced: its first word makes that durable (R4).
func TestTheFirstWordAfterAStartIsSynced(t *testing.T) {
	g := newGroup(t, 3)
	g.elect()
	s := g.replicas[1].Status()
	g.logs[2].crash()
	g.open(2, 3, 2)
	a := g.step(2, &raftpb.Message{Type: raftpb.MsgApp.Enum(), Term: &s.Term, LogTerm: &s.Term, Index: &s.LastIndex, Commit: &s.Commit})
	if !a.Sync {
		t.Error("an acknowledgement leaves for what may be in memory only")
	}
}
