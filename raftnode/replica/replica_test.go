package replica

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// durable are the messages that say something about the sender's disk (R4).
var durable = map[raftpb.MessageType]bool{raftpb.MsgAppResp: true, raftpb.MsgVoteResp: true, raftpb.MsgPreVoteResp: true}

// No vote and no acknowledgement leaves before what it implies is durable (R4); entries may leave before.
func TestNothingIsPromisedBeforeItIsDurable(t *testing.T) {
	g := newGroup(t, 3)
	if err := g.replicas[1].Campaign(); err != nil {
		t.Fatal(err)
	}
	promised := func(id uint64) bool {
		for _, m := range g.net {
			if m.GetFrom() == id && durable[m.GetType()] {
				return true
			}
		}
		return false
	}
	g.sync(1) // The pre-vote of the candidate for itself.
	g.deliver()
	if promised(2) || promised(3) {
		t.Fatal("a pre-vote left before it was durable")
	}
	g.sync(2)
	if !promised(2) {
		t.Fatal("no pre-vote after it was durable")
	}
	g.settle()
	if !g.replicas[1].Leads() {
		t.Fatal("no leader")
	}
	e := g.propose("x")
	sent := false
	for _, m := range g.net {
		sent = sent || m.GetType() == raftpb.MsgApp && len(m.GetEntries()) > 0
	}
	if !sent {
		t.Error("the entry waits for the leader's own disk")
	}
	g.deliver()
	if promised(2) || promised(3) {
		t.Error("an acknowledgement left before the entry was durable")
	}
	if g.replicas[1].Status().Commit >= e.GetIndex() {
		t.Error("committed with no disk holding the entry")
	}
	// The followers are a majority: the entry commits, and is applied on the leader only once its own disk has it (R3).
	g.sync(2)
	g.sync(3)
	g.deliver()
	if g.replicas[1].Status().Commit < e.GetIndex() {
		t.Error("not committed with two of three disks holding the entry")
	}
	if n := len(g.applied[1]); n > 0 && g.applied[1][n-1].GetIndex() == e.GetIndex() {
		t.Error("applied on the leader before its own log has it")
	}
	g.settle()
	if n := len(g.applied[1]); g.applied[1][n-1].GetIndex() != e.GetIndex() {
		t.Error("not applied in the end")
	}
}

// One replica alone needs its own disk (R3).
func TestSingleReplicaWaitsForItsDisk(t *testing.T) {
	g := newGroup(t, 1)
	g.elect()
	e := g.propose("x")
	if g.replicas[1].Status().Commit >= e.GetIndex() {
		t.Fatal("committed before it was durable")
	}
	g.settle()
	if g.replicas[1].Status().Commit != e.GetIndex() {
		t.Fatal("not committed after it was durable")
	}
}

// An append that is not durable is not acknowledged, whatever raft thinks (R5).
func TestAcknowledgementAboveTheDurableIndexIsCaught(t *testing.T) {
	g := newGroup(t, 3)
	bad := &Append{responses: []*raftpb.Message{{
		Type: raftpb.MsgAppResp.Enum(), To: new(uint64(2)), From: new(uint64(1)), Index: new(uint64(99)), Term: new(uint64(1)),
	}}}
	if _, err := g.replicas[1].AppendDone(bad); err == nil {
		t.Fatal("index 99 acknowledged with a log that ends at 2")
	}
}

// The commit index is not fsynced for its own sake, so a restart may find it behind what is applied.
func TestRestartRaisesCommitToApplied(t *testing.T) {
	g := newGroup(t, 3)
	g.elect()
	for range 5 {
		g.propose("x")
		g.settle()
	}
	l := g.logs[2]
	l.hardState = &raftpb.HardState{Term: l.hardState.Term, Vote: l.hardState.Vote, Commit: new(uint64(2))}
	g.open(2, 3, l.last())
	if s := g.replicas[2].Status(); s.Commit != l.last() || s.Applied != l.last() {
		t.Errorf("commit %d, applied %d, want %d", s.Commit, s.Applied, l.last())
	}
}

// A log that is shorter than what is known to be committed or applied has lost entries.
func TestLostEntriesAreRefused(t *testing.T) {
	for name, c := range map[string]Config{
		"applied beyond the log":   {TruncatedIndex: 2, LastIndex: 5, Applied: 6},
		"applied before the log":   {TruncatedIndex: 4, LastIndex: 5, Applied: 3},
		"committed beyond the log": {TruncatedIndex: 2, LastIndex: 5, Applied: 5, HardState: &raftpb.HardState{Commit: new(uint64(7))}},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

// A leader of a cut-off minority answers no read, and the reads of a round come back once it has a quorum again.
func TestReadsNeedAQuorum(t *testing.T) {
	g := newGroup(t, 3)
	g.elect()
	g.propose("x")
	g.settle()
	g.cut[1] = true
	round, ok := g.replicas[1].StartRead()
	if !ok {
		t.Fatal("no round started")
	}
	if _, ok := g.replicas[1].StartRead(); ok {
		t.Fatal("a second round started while one is under way: its index would be older than its reads")
	}
	g.settle()
	if len(g.reads[1]) != 0 {
		t.Fatal("a read was confirmed without a quorum")
	}
	g.cut[1] = false
	g.replicas[1].Tick() // A heartbeat carries the round again.
	g.settle()
	want := Read{Round: round, Index: g.replicas[1].Status().Commit}
	if len(g.reads[1]) != 1 || g.reads[1][0] != want {
		t.Errorf("confirmed %v, want %v", g.reads[1], want)
	}
	if _, ok := g.replicas[1].StartRead(); !ok {
		t.Error("no further round")
	}
}

// A follower's read gets its index from the leader.
func TestFollowerRead(t *testing.T) {
	g := newGroup(t, 3)
	g.elect()
	e := g.propose("x")
	g.settle()
	if _, ok := g.replicas[2].StartRead(); !ok {
		t.Fatal("no round started")
	}
	g.settle()
	if len(g.reads[2]) != 1 || g.reads[2][0].Index < e.GetIndex() {
		t.Errorf("confirmed %v, want index %d", g.reads[2], e.GetIndex())
	}
}

// A round that has taken too long is started anew, and its answer counts all the same when it comes: contexts are used once (R16), so it is
// the answer to this round and no other. What comes behind the answer to a later round has nothing to say any more.
func TestLateAnswerToAnAbandonedRound(t *testing.T) {
	g := newGroup(t, 3)
	g.elect()
	g.settle()
	first, ok := g.replicas[2].StartRead()
	if !ok {
		t.Fatal("no round started")
	}
	g.ready(2)
	for range readRetryTicks {
		g.replicas[2].Tick()
	}
	if !g.replicas[2].AbandonRead() {
		t.Fatal("the round is waited for without end")
	}
	if g.replicas[2].AbandonRead() {
		t.Fatal("abandoned twice")
	}
	second, _ := g.replicas[2].StartRead()
	g.settle()
	if got := g.reads[2]; len(got) != 2 || got[0].Round != first || got[1].Round != second {
		t.Errorf("confirmed %v, want rounds %d and %d", got, first, second)
	}
	for _, sequence := range []uint64{first, second, second + 1} {
		if _, ok := g.replicas[2].confirmed(raft.ReadState{RequestCtx: g.replicas[2].readContext(sequence)}); ok {
			t.Errorf("round %d is confirmed after round %d", sequence, second)
		}
	}
}

// Reads are answered on a network on which a round takes longer than it is waited for.
func TestReadsOnASlowNetwork(t *testing.T) {
	const oneWay = 3 // ticks
	for _, reader := range []uint64{1, 2} {
		g := newGroup(t, 3)
		g.elect()
		g.settle()
		way := make([][]*raftpb.Message, oneWay)
		for range 40 {
			for id := range uint64(3) {
				g.replicas[id+1].Tick()
			}
			g.replicas[reader].AbandonRead()
			g.replicas[reader].StartRead()
			for id := range uint64(3) {
				g.sync(id + 1)
			}
			way = append(way, g.net)
			g.net, way = way[0], way[1:]
			g.deliver()
		}
		if len(g.reads[reader]) == 0 {
			t.Errorf("replica %d: no read was confirmed in 40 ticks", reader)
		}
	}
}

// Messages that cannot be true are refused, and change nothing (R26).
func TestRefusedMessages(t *testing.T) {
	entry := func(index, term uint64) *raftpb.Entry { return &raftpb.Entry{Index: new(index), Term: new(term)} }
	message := func(typ raftpb.MessageType, change func(*raftpb.Message)) *raftpb.Message {
		m := &raftpb.Message{Type: typ.Enum(), From: new(uint64(1)), To: new(uint64(2)), Term: new(uint64(2))}
		if change != nil {
			change(m)
		}
		return m
	}
	for name, m := range map[string]*raftpb.Message{
		"local":          message(raftpb.MsgHup, nil),
		"proposal":       message(raftpb.MsgProp, nil),
		"to another":     message(raftpb.MsgHeartbeat, func(m *raftpb.Message) { m.To = new(uint64(3)) }),
		"from itself":    message(raftpb.MsgHeartbeat, func(m *raftpb.Message) { m.From = new(uint64(2)) }),
		"from nobody":    message(raftpb.MsgHeartbeat, func(m *raftpb.Message) { m.From = new(uint64(0)) }),
		"without term":   message(raftpb.MsgApp, func(m *raftpb.Message) { m.Term = new(uint64(0)) }),
		"with responses": message(raftpb.MsgApp, func(m *raftpb.Message) { m.Responses = []*raftpb.Message{m} }),
		"gap before entries": message(raftpb.MsgApp, func(m *raftpb.Message) {
			m.Index, m.LogTerm, m.Entries = new(uint64(2)), new(uint64(1)), []*raftpb.Entry{entry(4, 2)}
		}),
		"gap in entries": message(raftpb.MsgApp, func(m *raftpb.Message) {
			m.Index, m.LogTerm, m.Entries = new(uint64(2)), new(uint64(1)), []*raftpb.Entry{entry(3, 2), entry(5, 2)}
		}),
		"falling terms": message(raftpb.MsgApp, func(m *raftpb.Message) {
			m.Index, m.LogTerm, m.Entries = new(uint64(2)), new(uint64(2)), []*raftpb.Entry{entry(3, 1)}
		}),
		"entry of the future": message(raftpb.MsgApp, func(m *raftpb.Message) {
			m.Index, m.LogTerm, m.Entries = new(uint64(2)), new(uint64(1)), []*raftpb.Entry{entry(3, 9)}
		}),
		"read without context":  message(raftpb.MsgReadIndex, nil),
		"short heartbeat reply": message(raftpb.MsgHeartbeatResp, func(m *raftpb.Message) { m.Context = []byte{1} }),
		"empty snapshot":        message(raftpb.MsgSnap, nil),
	} {
		g := newGroup(t, 3)
		before := g.replicas[2].Status()
		if err := g.replicas[2].Step(m); !errors.Is(err, ErrRejected) {
			t.Errorf("%s: %v", name, err)
		}
		g.settle()
		if after := g.replicas[2].Status(); after != before {
			t.Errorf("%s: changed %+v to %+v", name, before, after)
		}
	}
}

// A leader that knows more to be committed here than the log holds has seen entries acknowledged that are gone: the replica stops (R15).
func TestAmnesiaIsNoticed(t *testing.T) {
	g := newGroup(t, 3)
	m := &raftpb.Message{
		Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(1)), To: new(uint64(2)), Term: new(uint64(2)), Commit: new(uint64(50)),
	}
	if err := g.replicas[2].Step(m); !errors.Is(err, ErrAmnesia) {
		t.Errorf("%v", err)
	}
}

// The log is cut only below what is applied, and a member that needs what was cut gets a snapshot.
func TestTruncateAndSnapshot(t *testing.T) {
	g := newGroup(t, 3)
	g.elect()
	g.cut[3] = true
	for range 10 {
		g.propose("x")
		g.settle()
	}
	last := g.replicas[1].Status().LastIndex
	if got, err := g.replicas[1].Truncate(last+5, true); err != nil || got != last {
		t.Fatalf("truncated at %d, %v; want %d", got, err, last)
	}
	g.cut[3] = false
	for i := 0; i < 30 && len(g.snapshots) == 0; i++ {
		g.replicas[1].Tick()
		g.settle()
	}
	if len(g.snapshots) == 0 {
		t.Fatal("no snapshot for the member that lags")
	}
	if err := g.replicas[3].Step(g.snapshots[0]); err != nil {
		t.Fatal(err)
	}
	g.settle()
	if s := g.replicas[3].Status(); s.Applied != last || s.FirstIndex != last+1 {
		t.Errorf("after the snapshot: %+v, want applied %d", s, last)
	}
	e := g.propose("y")
	g.settle()
	if s := g.replicas[3].Status(); s.Applied != e.GetIndex() {
		t.Errorf("after the snapshot and an entry: %+v", s)
	}
}

// A leader knows its successor at any time, also when raft has just begun to find out anew who is active.
func TestSuccessorAtAnyTime(t *testing.T) {
	g := newGroup(t, 3)
	g.elect()
	for tick := range 12 {
		if _, ok := g.replicas[1].Successor(func(uint64) bool { return true }); !ok {
			t.Errorf("after %d ticks there is no successor", tick)
		}
		g.replicas[1].Tick()
	}
}

// A leader hands the lead to the member with most of its log.
func TestSuccessor(t *testing.T) {
	g := newGroup(t, 3)
	g.elect()
	g.cut[3] = true
	g.propose("x")
	g.settle()
	if id, ok := g.replicas[1].Successor(func(uint64) bool { return true }); !ok || id != 2 {
		t.Errorf("successor %d, %v; want 2", id, ok)
	}
	if _, ok := g.replicas[2].Successor(func(uint64) bool { return true }); ok {
		t.Error("a follower names a successor")
	}
	g.cut[3] = false
	g.replicas[1].TransferLeader(2)
	g.settle()
	if !g.replicas[2].Leads() {
		t.Error("the lead did not go over")
	}
}
