package replica

import (
	"bytes"
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// FuzzStep lets the bytes move a group of three: time, network, disks, crashes, and messages that no member has sent. Nothing may panic, and
// no commit may fall. Until a replica has taken a message that is a lie, no two lead in one term and all apply the same.
func FuzzStep(f *testing.F) {
	elect := []byte{opCampaign, 0, opSettle, 0, opPropose, 0, opSettle, 0}
	f.Add(bytes.Repeat([]byte{opTick, 0, opSync, 0, opTick, 1, opSync, 1, opDeliver, 0}, 30))
	f.Add(append(bytes.Clone(elect), opPropose, 0, opSync, 0, opDeliver, 0, opCrash, 1, opCampaign, 1, opSettle, 0, opPropose, 1, opSettle, 0))
	f.Add(append(bytes.Clone(elect), opPropose, 0, opDuplicate, 1, opDrop, 0, opLag, 2, opCampaign, 2, opSettle, 0, opLag, 2, opSettle, 0))
	f.Add(append(bytes.Clone(elect), opTruncate, 0, opCrash, 2, opPropose, 0, opSettle, 0, opDeliver, 9))
	for _, m := range lies() {
		for _, settled := range []bool{false, true} {
			script := []byte{opCampaign, 0}
			if settled {
				script = bytes.Clone(elect)
			}
			data, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			script = append(script, opForge, 1, byte(len(data)))
			script = append(append(script, data...), opSettle, 0, opPropose, 0, opCampaign, 1, opSettle, 0)
			f.Add(script)
		}
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 1<<12 {
			return
		}
		g := &fuzzGroup{group: newGroup(t, 3), leaders: map[uint64]uint64{}, commits: map[uint64]uint64{}, entries: map[uint64]*raftpb.Entry{}}
		for len(script) >= 2 {
			op, id := script[0]%opCount, uint64(script[1])%3+1
			script = g.do(op, id, script[2:])
			g.check()
		}
	})
}

// lies are messages that raft would panic on, or nearly.
func lies() []*raftpb.Message {
	message := func(kind raftpb.MessageType, change func(*raftpb.Message)) *raftpb.Message {
		m := &raftpb.Message{Type: &kind, From: new(uint64(1)), To: new(uint64(2)), Term: new(uint64(2))}
		change(m)
		return m
	}
	entry := func(index, term uint64) *raftpb.Entry {
		return &raftpb.Entry{Index: new(index), Term: new(term), Data: []byte("lie")}
	}
	snapshot := func(index uint64, cs *raftpb.ConfState) func(*raftpb.Message) {
		return func(m *raftpb.Message) {
			m.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: new(index), Term: new(uint64(2)), ConfState: cs}}
		}
	}
	return []*raftpb.Message{
		message(raftpb.MsgApp, func(m *raftpb.Message) {
			m.Index, m.LogTerm, m.Entries, m.Commit = new(uint64(2)), new(uint64(1)), []*raftpb.Entry{entry(3, 2), entry(4, 2)}, new(uint64(9))
		}),
		message(raftpb.MsgApp, func(m *raftpb.Message) {
			m.Term, m.Index, m.LogTerm, m.Entries = new(uint64(9)), new(uint64(2)), new(uint64(1)), []*raftpb.Entry{entry(3, 9), entry(4, 9)}
		}),
		message(raftpb.MsgApp, func(m *raftpb.Message) {
			m.Index, m.LogTerm, m.Entries = new(^uint64(0)), new(uint64(1)), []*raftpb.Entry{entry(0, 2)}
		}),
		message(raftpb.MsgHeartbeat, func(m *raftpb.Message) { m.Term, m.Commit = new(^uint64(0)), new(uint64(3)) }),
		message(raftpb.MsgHeartbeat, func(m *raftpb.Message) { m.Commit = new(uint64(100)) }),
		message(raftpb.MsgAppResp, func(m *raftpb.Message) { m.From, m.To, m.Index = new(uint64(3)), new(uint64(1)), new(uint64(100)) }),
		message(raftpb.MsgAppResp, func(m *raftpb.Message) {
			m.From, m.To, m.Index, m.Reject, m.RejectHint = new(uint64(3)), new(uint64(1)), new(uint64(3)), new(true), new(^uint64(0))
		}),
		message(raftpb.MsgVoteResp, func(m *raftpb.Message) { m.From, m.To = new(uint64(3)), new(uint64(1)) }),
		message(raftpb.MsgTimeoutNow, func(*raftpb.Message) {}),
		message(raftpb.MsgReadIndex, func(m *raftpb.Message) {
			m.Entries = []*raftpb.Entry{{Data: make([]byte, readContextBytes)}}
		}),
		message(raftpb.MsgSnap, snapshot(9, &raftpb.ConfState{Voters: []uint64{1, 2, 3}})),
		message(raftpb.MsgSnap, snapshot(9, &raftpb.ConfState{Learners: []uint64{2}})),
		message(raftpb.MsgSnap, snapshot(9, &raftpb.ConfState{Voters: []uint64{1, 2, 2}})),
		message(raftpb.MsgSnap, snapshot(9, &raftpb.ConfState{Voters: []uint64{1, 2}, Learners: []uint64{2}})),
		message(raftpb.MsgSnap, snapshot(9, &raftpb.ConfState{Voters: []uint64{0, 2}})),
		message(raftpb.MsgSnap, snapshot(^uint64(0), &raftpb.ConfState{Voters: []uint64{1, 2, 3}})),
		message(raftpb.MsgProp, func(*raftpb.Message) {}),
		message(raftpb.MsgStorageAppendResp, func(*raftpb.Message) {}),
	}
}

// What a script does; each takes a replica, or a message under way.
const (
	opTick = iota
	opDeliver
	opDuplicate
	opDrop
	opSync
	opPropose
	opCampaign
	opCrash
	opTruncate
	opLag
	opSettle
	opForge // a message: its length, and its bytes
	opCount
)

// fuzzGroup is a group of which the test checks what Raft promises.
type fuzzGroup struct {
	*group
	// tainted: a replica has taken a message that nobody has sent.
	tainted bool
	leaders map[uint64]uint64        // by term
	commits map[uint64]uint64        // by replica, in its present life
	entries map[uint64]*raftpb.Entry // applied, by index
}

func (g *fuzzGroup) do(op byte, id uint64, rest []byte) []byte {
	r := g.replicas[id]
	switch {
	case op == opDeliver || op == opDuplicate || op == opDrop:
		g.pass(op, id)
	case op == opSettle:
		g.quiesce()
	case op == opForge && len(rest) > 0:
		data := rest[1:min(len(rest), 1+int(rest[0]))]
		rest = rest[1+len(data):]
		m := &raftpb.Message{}
		if err := proto.Unmarshal(data, m); err == nil && g.replicas[m.GetTo()] != nil {
			g.step(m, true)
		}
	case r == nil: // it has stopped
	case op == opTick:
		r.Tick()
		g.work(id)
	case op == opSync:
		g.durable(id)
	case op == opPropose:
		if err := r.Propose([]byte("proposal")); err != nil && !errors.Is(err, ErrNotLeader) {
			g.stop(id, err)
		}
		g.work(id)
	case op == opCampaign:
		g.judge(id, r.Campaign())
		g.work(id)
	case op == opTruncate:
		_, err := r.Truncate(r.Status().Applied, true)
		g.judge(id, err)
	case op == opLag:
		g.lags[id] = !g.lags[id]
		g.work(id)
	case op == opCrash:
		g.crash(id)
	}
	return rest
}

// pass does something with a message under way.
func (g *fuzzGroup) pass(op byte, at uint64) {
	if len(g.net) == 0 {
		return
	}
	i := int(at) % len(g.net)
	m := g.net[i]
	if op != opDuplicate {
		g.net = append(g.net[:i:i], g.net[i+1:]...)
	}
	if op != opDrop {
		g.step(m, false)
	}
}

// step delivers a message as a decoder would: each receiver has a copy of its own.
func (g *fuzzGroup) step(m *raftpb.Message, forged bool) {
	id := m.GetTo()
	r := g.replicas[id]
	if r == nil {
		return
	}
	switch err := r.Step(proto.Clone(m).(*raftpb.Message)); {
	case errors.Is(err, ErrRejected):
		// What an earlier life has sent and lost may be acknowledged to this one, which does not lead then.
		late := m.GetType() == raftpb.MsgAppResp && !r.Leads()
		if !forged && !g.tainted && !late {
			g.t.Fatalf("an honest message is rejected: %v", err)
		}
	case err != nil:
		g.tainted = g.tainted || forged
		g.stop(id, err)
	default:
		g.tainted = g.tainted || forged
		g.work(id)
	}
}

// judge stops a replica that has failed.
func (g *fuzzGroup) judge(id uint64, err error) {
	if err != nil {
		g.stop(id, err)
	}
}

// stop ends a replica, as its node does. Only lies may lead to that.
func (g *fuzzGroup) stop(id uint64, err error) {
	if !g.tainted {
		g.t.Fatalf("replica %d stops: %v", id, err)
	}
	g.replicas[id] = nil
}

// work takes what a replica asks for.
func (g *fuzzGroup) work(id uint64) {
	for r := g.replicas[id]; r != nil && r.HasReady(); r = g.replicas[id] {
		out, err := r.Ready()
		if err != nil {
			g.stop(id, err)
			return
		}
		g.net = append(g.net, out.Messages...)
		if out.Append != nil {
			g.appends[id] = append(g.appends[id], out.Append)
		}
		if out.Apply != nil {
			g.held[id] = append(g.held[id], out.Apply)
		}
		if g.lags[id] {
			continue
		}
		applies := g.held[id]
		g.held[id] = nil
		for _, a := range applies {
			g.note(id, a.Entries)
			if err := r.ApplyDone(a); err != nil {
				g.stop(id, err)
				return
			}
		}
	}
}

// note compares what is applied with what others have applied.
func (g *fuzzGroup) note(id uint64, entries []*raftpb.Entry) {
	for _, e := range entries {
		was := g.entries[e.GetIndex()]
		if was != nil && !g.tainted && (was.GetTerm() != e.GetTerm() || !bytes.Equal(was.GetData(), e.GetData())) {
			g.t.Fatalf("replica %d applies %v, another has applied %v", id, e, was)
		}
		g.entries[e.GetIndex()] = e
	}
}

// durable makes the appends of a replica durable.
func (g *fuzzGroup) durable(id uint64) {
	work := g.appends[id]
	g.appends[id] = nil
	for _, a := range work {
		r := g.replicas[id]
		if r == nil {
			return
		}
		g.logs[id].append(a)
		messages, err := r.AppendDone(a)
		if err != nil {
			g.stop(id, err)
			return
		}
		g.net = append(g.net, messages...)
	}
	g.work(id)
}

// quiesce lets everything happen that can happen without a tick, within a bound: members that were lied to may never come to rest.
func (g *fuzzGroup) quiesce() {
	for range 20 {
		messages := g.net
		g.net = nil
		for _, m := range messages {
			g.step(m, false)
		}
		for id := range uint64(3) {
			g.durable(id + 1)
		}
		if len(g.net) == 0 {
			return
		}
	}
}

// crash loses what is not durable, and starts again with a state machine that has applied what it had.
func (g *fuzzGroup) crash(id uint64) {
	applied := g.replicas[id].Status().Applied
	g.appends[id], g.held[id], g.replicas[id], g.commits[id] = nil, nil, nil, 0
	g.logs[id].crash()
	if l := g.logs[id]; applied < l.truncated || applied > l.last() {
		if !g.tainted {
			g.t.Fatalf("replica %d has applied index %d, its log holds %d to %d", id, applied, l.truncated, l.last())
		}
		return
	}
	if g.logs[id].hardState.GetCommit() > g.logs[id].last() {
		if !g.tainted {
			g.t.Fatalf("replica %d has lost committed entries", id)
		}
		return
	}
	g.open(id, 3, applied)
	g.work(id)
}

// check looks at what the group shows.
func (g *fuzzGroup) check() {
	for id, r := range g.replicas {
		if r == nil {
			continue
		}
		s := r.Status()
		if s.Commit < g.commits[id] {
			g.t.Fatalf("replica %d: commit %d after %d", id, s.Commit, g.commits[id])
		}
		g.commits[id] = s.Commit
		if !r.Leads() || g.tainted {
			continue
		}
		if was, ok := g.leaders[s.Term]; ok && was != id {
			g.t.Fatalf("replicas %d and %d lead in term %d", was, id, s.Term)
		}
		g.leaders[s.Term] = id
	}
}

// Terms and indexes that raft cannot count on from, and memberships that it panics on, are rejected. What only raft finds to contradict the log
// stops this replica, and not the process.
func TestLiesThatRaftPanicsOn(t *testing.T) {
	g := newGroup(t, 3)
	g.elect()
	g.settle()
	for _, m := range lies() {
		beyond := max(m.GetTerm(), m.GetIndex(), m.GetRejectHint(), m.GetSnapshot().GetMetadata().GetIndex()) > numberMax
		members := m.GetSnapshot().GetMetadata().GetConfState()
		if !beyond && (members == nil || len(members.GetVoters()) == 3 && members.GetVoters()[2] == 3) {
			continue
		}
		if err := g.replicas[m.GetTo()].Step(m); !errors.Is(err, ErrRejected) {
			t.Errorf("%v: %v", m, err)
		}
	}
	for range 3 {
		g.propose("not committed")
	}
	g.deliver()
	g.sync(2)
	s := g.replicas[2].Status()
	app, heartbeat := lies()[1], lies()[4]
	app.Index, app.LogTerm = new(s.Commit), new(s.Term)
	app.Entries = []*raftpb.Entry{{Index: new(s.Commit + 1), Term: app.Term}}
	heartbeat.Term, heartbeat.Commit = app.Term, new(s.LastIndex)
	if err := g.replicas[2].Step(app); err != nil {
		t.Fatal(err)
	}
	if err := g.replicas[2].Step(heartbeat); err == nil || errors.Is(err, ErrRejected) {
		t.Errorf("a commit behind the end of the log: %v", err)
	}
	if _, err := g.replicas[2].Ready(); err == nil {
		t.Error("the replica goes on")
	}
}
