package replica

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// A candidate asks for votes only once its own term and vote are durable (R4). If it could lead on the votes of others alone and then lost its
// power, it would lead the same term again, with other entries at the same indexes.
func TestNoTermIsLedTwice(t *testing.T) {
	g := newGroup(t, 3)
	if err := g.replicas[1].Campaign(); err != nil {
		t.Fatal(err)
	}
	g.sync(1)     // The pre-vote is a promise about nothing, but goes through the log like a vote.
	for range 8 { // From here on the disk of 1 does nothing.
		g.ready(1)
		g.deliver()
		g.sync(2)
		g.sync(3)
		g.deliver()
		for _, m := range g.net {
			if m.GetType() == raftpb.MsgVote && g.logs[1].hardState.GetTerm() < m.GetTerm() {
				t.Fatalf("a vote of term %d is asked for, term %d is durable", m.GetTerm(), g.logs[1].hardState.GetTerm())
			}
		}
		if g.replicas[1].Leads() {
			t.Fatalf("leads term %d, term %d is durable", g.replicas[1].Status().Term, g.logs[1].hardState.GetTerm())
		}
	}
	g.settle()
	if !g.replicas[1].Leads() {
		t.Fatal("does not lead in the end")
	}
}

// loneVoter is a group of one from a log, with a small ring and small applies.
func loneVoter(t *testing.T, l *memoryLog, ringBytes int) *Replica {
	t.Helper()
	r, err := New(Config{
		ID: 1, ElectionTicks: 10, HeartbeatTicks: 1, Log: l, HardState: l.hardState,
		TruncatedIndex: l.truncated, TruncatedTerm: l.truncatedTerm, LastIndex: l.last(),
		Applied: 2, AppliedTerm: 1, ConfState: &raftpb.ConfState{Voters: []uint64{1}},
		ReadEpoch: 7, RingBytes: ringBytes,
		MaxMessageBytes: 1 << 20, MaxInflightBytes: 1 << 20, MaxApplyBytes: 1 << 12, MaxUncommittedBytes: 1 << 20,
		Logger: quiet{},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// work does what a replica asks for, until it asks for nothing.
func work(t *testing.T, r *Replica, l *memoryLog) (reads []Read) {
	t.Helper()
	for r.HasReady() {
		out, err := r.Ready()
		if err != nil {
			t.Fatal(err)
		}
		reads = append(reads, out.Reads...)
		if out.Append != nil {
			l.append(out.Append)
			if _, err := r.AppendDone(out.Append); err != nil {
				t.Fatal(err)
			}
		}
		if out.Apply != nil {
			if err := r.ApplyDone(out.Apply); err != nil {
				t.Fatal(err)
			}
		}
	}
	return reads
}

// Entries stay whole for those who hold them when the ring evicts them: raft counts by them what is applied.
func TestApplyingGoesOnBeyondTheRing(t *testing.T) {
	l := newLog()
	r := loneVoter(t, l, 100)
	if err := r.Campaign(); err != nil {
		t.Fatal(err)
	}
	work(t, r, l)
	for range 20 {
		if err := r.Propose(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		work(t, r, l)
	}
	if s := r.Status(); s.Applied != s.Commit || r.node.Status().Applied != s.Commit {
		t.Fatalf("committed %d, applied %d, of which raft knows %d", s.Commit, s.Applied, r.node.Status().Applied)
	}
}

// The only voter answers no read before it has committed an entry of its own term: its commit index may be of before a crash, and what was
// acknowledged since above it.
func TestLoneVoterReadsAfterItsFirstCommit(t *testing.T) {
	l := newLog()
	r := loneVoter(t, l, 1<<20)
	if err := r.Campaign(); err != nil {
		t.Fatal(err)
	}
	work(t, r, l)
	for range 5 {
		if err := r.Propose([]byte("x")); err != nil {
			t.Fatal(err)
		}
		work(t, r, l)
	}
	acknowledged := r.Status().Applied
	// The log is durable; the commit index never was for its own sake.
	l.hardState = &raftpb.HardState{Term: l.hardState.Term, Vote: l.hardState.Vote, Commit: new(uint64(2))}
	r = loneVoter(t, l, 1<<20)
	if err := r.Campaign(); err != nil {
		t.Fatal(err)
	}
	for !r.Leads() {
		out, err := r.Ready()
		if err != nil {
			t.Fatal(err)
		}
		if out.Append == nil || r.Leads() {
			continue // The first entry of the term is under way to the disk.
		}
		l.append(out.Append)
		if _, err := r.AppendDone(out.Append); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := r.StartRead(); ok {
		t.Fatalf("a read began with commit index %d, %d was acknowledged", r.Status().Commit, acknowledged)
	}
}

// An append that came from a leader of a past term and was overwritten in the same turn is not acknowledged, and stops nobody.
func TestTwoLeadersInOneTurn(t *testing.T) {
	g := newGroup(t, 3)
	entry := func(term, index uint64) *raftpb.Entry {
		return &raftpb.Entry{Term: new(term), Index: new(index), Data: []byte("x")}
	}
	message := func(from, term uint64, entries ...*raftpb.Entry) *raftpb.Message {
		return &raftpb.Message{
			Type: raftpb.MsgApp.Enum(), From: new(from), To: new(uint64(2)), Term: new(term),
			Index: new(uint64(2)), LogTerm: new(uint64(1)), Commit: new(uint64(2)), Entries: entries,
		}
	}
	for _, m := range []*raftpb.Message{
		message(1, 2, entry(2, 3), entry(2, 4), entry(2, 5)),
		message(3, 3, entry(3, 3)),
	} {
		if err := g.replicas[2].Step(m); err != nil {
			t.Fatal(err)
		}
	}
	g.sync(2)
	for _, m := range g.net {
		if m.GetType() == raftpb.MsgAppResp && m.GetIndex() > 3 {
			t.Errorf("index %d acknowledged, the log ends at 3", m.GetIndex())
		}
	}
	if s := g.replicas[2].Status(); s.LastIndex != 3 || s.Term != 3 {
		t.Errorf("log ends at %d in term %d", s.LastIndex, s.Term)
	}
}

// A leader keeps what members that it hears of still need, unless the log has grown too long.
func TestTruncateWaitsForActiveMembers(t *testing.T) {
	g := newGroup(t, 3)
	g.elect()
	g.cut[3] = true
	for range 5 {
		g.propose("x")
		g.settle()
	}
	last := g.replicas[1].Status().LastIndex
	match := g.replicas[1].Match()[3]
	if match >= last {
		t.Fatal("the member does not lag: the test shows nothing")
	}
	if got, err := g.replicas[1].Truncate(last, false); err != nil || got != match {
		t.Errorf("truncated at %d, %v; member 3 has %d", got, err, match)
	}
	if got, err := g.replicas[1].Truncate(last, true); err != nil || got != last {
		t.Errorf("with a log that is too long, truncated at %d, %v; want %d", got, err, last)
	}
}

// A member whose applier lags acknowledges all the same, so the leader goes on sending: what it keeps in memory is bounded, and what it
// applies in the end is complete.
func TestRingIsBoundedWhileTheApplierLags(t *testing.T) {
	g := newGroup(t, 3)
	g.elect()
	g.lags[2] = true
	for i := range 200 {
		g.propose(fmt.Sprintf("%d-%s", i, strings.Repeat("x", 100)))
		g.settle()
	}
	if got, most := g.replicas[2].storage.ring.bytes, 2*ringBytes; got > most {
		t.Errorf("%d bytes in memory, at most %d may be", got, most)
	}
	g.lags[2] = false
	for range 10 {
		g.apply(2)
		g.settle()
	}
	if got, want := len(g.applied[2]), len(g.applied[1]); got != want {
		t.Fatalf("%d entries applied, the leader has %d", got, want)
	}
	for i, e := range g.applied[2] {
		if want := g.applied[1][i]; e.GetIndex() != want.GetIndex() || e.GetTerm() != want.GetTerm() || string(e.GetData()) != string(want.GetData()) {
			t.Fatalf("entry %d is %v, the leader applied %v", i, e, want)
		}
	}
}

// damagedLog is a log that cannot be read any more.
type damagedLog struct {
	*memoryLog
	err error
}

func (l *damagedLog) Entries(lo, hi, most uint64) ([]*raftpb.Entry, error) {
	if l.err != nil {
		return nil, l.err
	}
	return l.memoryLog.Entries(lo, hi, most)
}

func (l *damagedLog) Term(i uint64) (uint64, error) {
	if l.err != nil {
		return 0, l.err
	}
	return l.memoryLog.Term(i)
}

// A log that turns out to be damaged while the replica runs stops it with the reason (R15). Raft would panic.
func TestDamagedLogStopsTheReplica(t *testing.T) {
	damaged := errors.New("segment 7 is damaged")
	l := newLog()
	r := loneVoter(t, l, 0) // Every entry that is applied is read from the log.
	if err := r.Campaign(); err != nil {
		t.Fatal(err)
	}
	work(t, r, l)
	r.storage.log = &damagedLog{l, damaged}
	if err := r.Propose([]byte("x")); err != nil {
		t.Fatal(err)
	}
	var failed error
	for failed == nil && r.HasReady() {
		var out Output
		if out, failed = r.Ready(); failed == nil && out.Append != nil {
			l.append(out.Append)
			_, failed = r.AppendDone(out.Append)
		}
	}
	if !errors.Is(failed, damaged) {
		t.Errorf("Ready: %v", failed)
	}
	if !r.HasReady() {
		t.Error("a replica that has failed does not ask for attention")
	}

	g := newGroup(t, 3)
	g.elect()
	for range 100 {
		g.propose(strings.Repeat("x", 100))
		g.settle()
	}
	leader := g.replicas[1]
	leader.storage.log = &damagedLog{g.logs[1], damaged}
	behind := &raftpb.Message{ // Of a member that lacks what is in the log only.
		Type: raftpb.MsgAppResp.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(leader.Status().Term),
		Index: new(g.applied[1][90].GetIndex()), Reject: new(true), RejectHint: new(uint64(4)), LogTerm: new(uint64(2)),
	}
	if err := leader.Step(behind); !errors.Is(err, damaged) {
		t.Errorf("Step: %v", err)
	}
	leader.Tick()
	if _, err := leader.Ready(); !errors.Is(err, damaged) {
		t.Errorf("Ready behind it: %v", err)
	}
}

// A panic that no error of the log explains is a bug, and goes on.
func TestOtherPanicsGoOn(t *testing.T) {
	g := newGroup(t, 1)
	defer func() {
		if got := recover(); got != "bug" {
			t.Errorf("recovered %v", got)
		}
	}()
	g.replicas[1].guard(func() error { panic("bug") }) //nolint:errcheck // it does not return
}

// A snapshot on its way to a member that is not heard of any more does not hold a log that has grown too long.
func TestTruncateDoesNotWaitForASnapshotToALostMember(t *testing.T) {
	g := newGroup(t, 3)
	g.elect()
	g.cut[3] = true
	for range 5 {
		g.propose("x")
		g.settle()
	}
	leader := g.replicas[1]
	if _, err := leader.Truncate(leader.Status().LastIndex, true); err != nil {
		t.Fatal(err)
	}
	g.cut[3] = false
	for i := 0; i < 30 && len(g.snapshots) == 0; i++ {
		leader.Tick()
		g.settle()
	}
	pending := g.snapshots[0].GetSnapshot().GetMetadata().GetIndex()
	g.propose("y")
	g.settle()
	last := leader.Status().LastIndex
	if got, err := leader.Truncate(last, true); err != nil || got != pending {
		t.Errorf("truncated at %d, %v; the snapshot on its way is of %d", got, err, pending)
	}
	g.cut[3] = true
	for range 20 { // Leaders ask once an election timeout who is there.
		leader.Tick()
		g.settle()
	}
	if got, err := leader.Truncate(last, false); err != nil || got != pending {
		t.Errorf("truncated at %d, %v; there is no hurry", got, err)
	}
	if got, err := leader.Truncate(last, true); err != nil || got != last {
		t.Errorf("with a log that is too long and a member that is lost, truncated at %d, %v; want %d", got, err, last)
	}
}
