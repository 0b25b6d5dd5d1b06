package replica

import (
	"errors"
	"log/slog"
	"slices"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// memoryLog is the log of a replica, as the log writer would have it.
type memoryLog struct {
	truncated, truncatedTerm uint64
	entries                  []*raftpb.Entry
	hardState                *raftpb.HardState
	// synced is the log as of the last fsync.
	synced *memoryLog
}

func newLog() *memoryLog {
	l := &memoryLog{truncated: 2, truncatedTerm: 1, hardState: &raftpb.HardState{Term: new(uint64(1)), Commit: new(uint64(2))}}
	l.sync()
	return l
}

func (l *memoryLog) sync() {
	now := *l
	now.entries, now.synced = slices.Clone(l.entries), nil
	l.synced = &now
}

// crash loses what no fsync has made durable.
func (l *memoryLog) crash() {
	*l = *l.synced
	l.sync()
}

func (l *memoryLog) last() uint64 { return l.truncated + uint64(len(l.entries)) }

func (l *memoryLog) Entries(lo, hi, _ uint64) ([]*raftpb.Entry, error) {
	if lo <= l.truncated {
		return nil, raft.ErrCompacted
	}
	if hi > l.last()+1 {
		return nil, raft.ErrUnavailable
	}
	return append([]*raftpb.Entry(nil), l.entries[lo-l.truncated-1:hi-l.truncated-1]...), nil
}

func (l *memoryLog) Term(i uint64) (uint64, error) {
	switch {
	case i == l.truncated:
		return l.truncatedTerm, nil
	case i < l.truncated:
		return 0, raft.ErrCompacted
	case i > l.last():
		return 0, raft.ErrUnavailable
	}
	return l.entries[i-l.truncated-1].GetTerm(), nil
}

func (l *memoryLog) append(a *Append) {
	if a.Snapshot != nil {
		meta := a.Snapshot.GetMetadata()
		l.truncated, l.truncatedTerm, l.entries = meta.GetIndex(), meta.GetTerm(), nil
	}
	if len(a.Entries) > 0 {
		l.entries = append(l.entries[:a.Entries[0].GetIndex()-l.truncated-1:a.Entries[0].GetIndex()-l.truncated-1], a.Entries...)
	}
	if a.HardState != nil {
		l.hardState = a.HardState
	}
	if a.Sync {
		l.sync()
	}
}

// ringBytes is so small that entries are read from the log, too.
const ringBytes = 1 << 10

// group is some replicas whose owner is the test: nothing moves unless it says so.
type group struct {
	t        *testing.T
	replicas map[uint64]*Replica
	logs     map[uint64]*memoryLog
	applied  map[uint64][]*raftpb.Entry
	reads    map[uint64][]Read
	// net holds the messages under way, appends the work for each log that is not done.
	net     []*raftpb.Message
	appends map[uint64][]*Append
	// snapshots are held back: they travel on a way of their own.
	snapshots []*raftpb.Message
	// cut drops the messages of and to a replica.
	cut map[uint64]bool
	// lags lets a replica leave its applies in held.
	lags map[uint64]bool
	held map[uint64][]*Apply
}

func newGroup(t *testing.T, n int) *group {
	g := &group{
		t: t, replicas: map[uint64]*Replica{}, logs: map[uint64]*memoryLog{}, applied: map[uint64][]*raftpb.Entry{},
		reads: map[uint64][]Read{}, appends: map[uint64][]*Append{}, cut: map[uint64]bool{},
		lags: map[uint64]bool{}, held: map[uint64][]*Apply{},
	}
	for id := uint64(1); id <= uint64(n); id++ {
		g.logs[id] = newLog()
		g.open(id, n, 2)
	}
	return g
}

// open starts a replica from its log.
func (g *group) open(id uint64, n int, applied uint64) {
	g.t.Helper()
	var voters []uint64
	for v := uint64(1); v <= uint64(n); v++ {
		voters = append(voters, v)
	}
	l := g.logs[id]
	term, err := l.Term(applied)
	if err != nil {
		g.t.Fatal(err)
	}
	r, err := New(Config{
		ID: id, ElectionTicks: 10, HeartbeatTicks: 1, Log: l, HardState: l.hardState,
		TruncatedIndex: l.truncated, TruncatedTerm: l.truncatedTerm, LastIndex: l.last(),
		Applied: applied, AppliedTerm: term, ConfState: &raftpb.ConfState{Voters: voters},
		ReadEpoch: 7 + id, RingBytes: ringBytes,
		MaxMessageBytes: 1 << 20, MaxInflightBytes: 1 << 20, MaxApplyBytes: 1 << 20, MaxUncommittedBytes: 1 << 20,
		Logger: quiet{},
	})
	if err != nil {
		g.t.Fatal(err)
	}
	g.replicas[id] = r
}

// ready takes what a replica asks for: messages go under way, applies are done, appends wait for sync.
func (g *group) ready(id uint64) {
	g.t.Helper()
	r := g.replicas[id]
	for r.HasReady() {
		out, err := r.Ready()
		if err != nil {
			g.t.Fatal(err)
		}
		g.net = append(g.net, out.Messages...)
		g.reads[id] = append(g.reads[id], out.Reads...)
		if out.Append != nil {
			g.appends[id] = append(g.appends[id], out.Append)
		}
		if out.Apply != nil {
			g.held[id] = append(g.held[id], out.Apply)
		}
		if !g.lags[id] {
			g.apply(id)
		}
	}
}

// apply brings what a replica holds back into its state.
func (g *group) apply(id uint64) {
	g.t.Helper()
	for _, a := range g.held[id] {
		g.applied[id] = append(g.applied[id], a.Entries...)
		if err := g.replicas[id].ApplyDone(a); err != nil {
			g.t.Fatal(err)
		}
	}
	g.held[id] = nil
}

// sync makes the appends of a replica durable.
func (g *group) sync(id uint64) {
	g.t.Helper()
	g.ready(id)
	work := g.appends[id]
	g.appends[id] = nil
	for _, a := range work {
		g.logs[id].append(a)
		messages, err := g.replicas[id].AppendDone(a)
		if err != nil {
			g.t.Fatal(err)
		}
		g.net = append(g.net, messages...)
	}
	g.ready(id)
}

// deliver delivers what is under way, once.
func (g *group) deliver() {
	g.t.Helper()
	messages := g.net
	g.net = nil
	for _, m := range messages {
		if g.cut[m.GetFrom()] || g.cut[m.GetTo()] || g.replicas[m.GetTo()] == nil {
			continue
		}
		if m.GetType() == raftpb.MsgSnap {
			g.snapshots = append(g.snapshots, m)
			continue
		}
		if err := g.replicas[m.GetTo()].Step(m); err != nil && !errors.Is(err, ErrRejected) {
			g.t.Fatal(err)
		}
		g.ready(m.GetTo())
	}
}

// settle lets everything happen that can happen without a tick.
func (g *group) settle() {
	g.t.Helper()
	for busy := true; busy; {
		busy = false
		for id := uint64(1); id <= uint64(len(g.logs)); id++ {
			if g.replicas[id] == nil {
				continue
			}
			g.ready(id)
			busy = busy || len(g.appends[id]) > 0
			g.sync(id)
		}
		busy = busy || len(g.net) > 0
		g.deliver()
	}
}

// elect makes the first replica the leader.
func (g *group) elect() {
	const id = 1
	g.t.Helper()
	if err := g.replicas[id].Campaign(); err != nil {
		g.t.Fatal(err)
	}
	g.settle()
	if !g.replicas[id].Leads() {
		g.t.Fatalf("replica %d does not lead", id)
	}
}

// propose lets the first replica propose, and returns the entry.
func (g *group) propose(data string) *raftpb.Entry {
	const id = 1
	g.t.Helper()
	g.ready(id)
	if err := g.replicas[id].Propose([]byte(data)); err != nil {
		g.t.Fatal(err)
	}
	g.ready(id)
	for _, a := range slices.Backward(g.appends[id]) {
		if n := len(a.Entries); n > 0 {
			return a.Entries[n-1]
		}
	}
	g.t.Fatal("what was proposed is not on its way to the log")
	return nil
}

// quiet drops raft's log.
type quiet struct{}

func (quiet) Debug(...any)            {}
func (quiet) Debugf(string, ...any)   {}
func (quiet) Info(...any)             {}
func (quiet) Infof(string, ...any)    {}
func (quiet) Warning(...any)          {}
func (quiet) Warningf(string, ...any) {}
func (quiet) Error(v ...any)          { slog.Error("raft", "message", v) }
func (quiet) Errorf(f string, v ...any) {
	slog.Error("raft", "message", f, "values", v)
}
func (quiet) Fatal(v ...any)            { panic(v) }
func (quiet) Fatalf(f string, v ...any) { panic(f) }
func (quiet) Panic(v ...any)            { panic(v) }
func (quiet) Panicf(f string, v ...any) { panic(f) }
