package raftnode

import (
	"errors"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftkv/raftkv/raftnode/replica"
)

// leading is a member that leads a shard of two, and whose follower says nothing more.
func leading(t *testing.T) *member {
	t.Helper()
	r, err := replica.New(replica.Config{
		ID: 1, ElectionTicks: 10, HeartbeatTicks: 1, HardState: &raftpb.HardState{Term: new(uint64(1)), Commit: new(uint64(2))},
		TruncatedIndex: 2, TruncatedTerm: 1, LastIndex: 2, Applied: 2, AppliedTerm: 1, ConfState: &raftpb.ConfState{Voters: []uint64{1, 2}},
		RingBytes: 1 << 20, MaxMessageBytes: 1 << 20, MaxInflightBytes: 1 << 20, MaxApplyBytes: 1 << 20, MaxUncommittedBytes: 1 << 20,
		Logger: raftLogger{quietLog()},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Campaign(); err != nil {
		t.Fatal(err)
	}
	vote := map[raftpb.MessageType]raftpb.MessageType{
		raftpb.MsgPreVote: raftpb.MsgPreVoteResp, raftpb.MsgVote: raftpb.MsgVoteResp,
	}
	for r.HasReady() {
		out, err := r.Ready()
		if err != nil {
			t.Fatal(err)
		}
		sent := out.Messages
		if out.Append != nil {
			late, err := r.AppendDone(out.Append)
			if err != nil {
				t.Fatal(err)
			}
			sent = append(sent, late...)
		}
		for _, m := range sent {
			answer, asked := vote[m.GetType()]
			if !asked {
				continue
			}
			err := r.Step(&raftpb.Message{Type: answer.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: m.Term})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if !r.Leads() {
		t.Fatal("the replica does not lead")
	}
	m := &member{replica: r}
	id, term := r.Lead()
	m.lead.Store(&leadership{id: id, term: term, local: true})
	return m
}

func waitingWrite(key string) *Request {
	r := putOf(key, 1<<10)
	r.bytes = r.Command.SizeVT()
	return r
}

// Writes that raft takes no entry of now (a transfer is under way, or too much is uncommitted) are not encoded again and again.
func TestARefusedProposalIsNotRepeatedAtOnce(t *testing.T) {
	m := leading(t)
	m.replica.TransferLeader(2)
	if _, err := m.replica.Ready(); err != nil {
		t.Fatal(err)
	}
	w := &worker{n: &Node{runtime: &later{}, log: quietLog()}}
	m.worker = w
	w.n.members.Store(&memberTable{list: []*member{m}})
	for range 3 {
		r := waitingWrite("k")
		r.Deadline = w.n.runtime.Now().Add(time.Minute)
		m.writes = append(m.writes, r)
	}
	if w.propose(m) || len(m.writes) != 3 {
		t.Fatalf("proposed while the lead is handed over; %d writes wait", len(m.writes))
	}
	if n := testing.AllocsPerRun(10, func() { w.propose(m) }); n != 0 {
		t.Errorf("%v allocations while nothing has changed", n)
	}
	for name, change := range map[string]func(){
		"a tick":       func() { tickEvent{}.handle(w) },
		"another role": func() { w.carry(m, replica.Output{RoleChanged: true}) },
	} {
		change()
		before := &m.writes[0]
		if w.propose(m); before == &m.writes[0] {
			t.Errorf("the writes are not tried again after %s", name)
		}
	}
	if err := w.n.Err(); err != nil {
		t.Error(err)
	}
}

// What waits is not proposed while the state engine is behind, is told so if its time runs out, and goes on when the engine has caught up.
func TestWritesWaitWhileTheEngineIsBehind(t *testing.T) {
	n := alone(t, func(o *Options) { o.HeartbeatInterval, o.ElectionTimeout = time.Hour, 3*time.Hour }) // The test ticks.
	m := n.member(DataShard)
	waiting := func() int {
		got := 0
		for range 2 { // What came before the first is carried out before the second.
			seen := make(chan struct{})
			m.worker.post(inspectEvent{m: m, look: func(m *member) { got = len(m.writes); close(seen) }})
			<-seen
		}
		return got
	}
	write := func(deadline time.Time) <-chan Result {
		done := make(chan Result, 1)
		r := waitingWrite("k")
		r.Shard, r.Deadline, r.Done = DataShard, deadline, func(res Result) { done <- res }
		m.worker.request(m, r)
		return done
	}
	behind := &OverloadedError{Field: "unflushed_bytes", Limit: 1, Actual: 2}
	n.pressure.Store(behind)
	good, late := write(n.runtime.Now().Add(time.Hour)), write(n.runtime.Now().Add(-time.Second))
	if got := waiting(); got != 2 {
		t.Fatalf("%d writes wait, want both", got)
	}
	m.worker.postTick()
	if res := <-late; !errors.Is(res.Err, behind) {
		t.Errorf("a write whose time ran out: %v", res.Err)
	}
	if got := waiting(); got != 1 {
		t.Fatalf("%d writes wait, want 1", got)
	}
	n.tick()
	if res := <-good; res.Err != nil {
		t.Errorf("after the engine has caught up: %v", res.Err)
	}
}
