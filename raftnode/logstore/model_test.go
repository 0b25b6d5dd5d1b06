package logstore

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// model is what a log should hold, said as simply as possible.
type model map[placement.ShardID]modelShard

type modelShard struct {
	hard      *hardState
	truncated uint64
	truncTerm uint64
	entries   []modelEntry // behind truncated
	intent    *Intent
}

type modelEntry struct {
	term uint64
	kind raftpb.EntryType
	data string
}

func (s modelShard) last() uint64 { return s.truncated + uint64(len(s.entries)) }

func (s modelShard) term(i uint64) uint64 {
	if i == s.truncated {
		return s.truncTerm
	}
	return s.entries[i-s.truncated-1].term
}

// with returns the model after an append. Models are never changed.
func (m model) with(us []Update) model {
	m = maps.Clone(m)
	for _, u := range us {
		s, ok := m[u.Shard]
		if !ok && u.HardState == nil && len(u.Entries) == 0 && u.Intent == nil && u.Reset == nil {
			continue
		}
		if u.Reset != nil {
			s.truncated, s.truncTerm, s.entries, s.intent = u.Reset.Index, u.Reset.Term, nil, nil
		}
		if h := u.HardState; h != nil {
			s.hard = &hardState{h.GetTerm(), h.GetVote(), h.GetCommit()}
		}
		if u.Intent != nil {
			s.intent = u.Intent
		}
		if len(u.Entries) > 0 {
			s.entries = slices.Clone(s.entries[:u.Entries[0].GetIndex()-s.truncated-1])
		}
		for _, e := range u.Entries {
			s.entries = append(s.entries, modelEntry{e.GetTerm(), e.GetType(), string(e.GetData())})
		}
		if u.Truncate > s.truncated {
			s.truncTerm = s.term(u.Truncate)
			s.entries, s.truncated = s.entries[u.Truncate-s.truncated:], u.Truncate
		}
		m[u.Shard] = s
	}
	return m
}

// diff says how a log differs from the model; nil if it does not.
func (m model) diff(l *Log) error {
	want := slices.Sorted(maps.Keys(m))
	if got := l.Shards(); !slices.Equal(got, want) {
		return fmt.Errorf("shards are %v, want %v", got, want)
	}
	for _, id := range want {
		if err := m[id].diff(l, id); err != nil {
			return fmt.Errorf("shard %d: %w", id, err)
		}
	}
	return nil
}

func (s modelShard) diff(l *Log, id placement.ShardID) error {
	st, ok := l.State(id)
	if !ok || st.TruncatedIndex != s.truncated || st.TruncatedTerm != s.truncTerm || st.LastIndex != s.last() {
		return fmt.Errorf("state is %+v, want truncated %d (term %d), last %d", st, s.truncated, s.truncTerm, s.last())
	}
	if (st.HardState == nil) != (s.hard == nil) {
		return fmt.Errorf("hard state is %v, want %v", st.HardState, s.hard)
	}
	if h := st.HardState; h != nil && *s.hard != (hardState{h.GetTerm(), h.GetVote(), h.GetCommit()}) {
		return fmt.Errorf("hard state is %v, want %v", h, s.hard)
	}
	if (st.Intent == nil) != (s.intent == nil) || st.Intent != nil && *st.Intent != *s.intent {
		return fmt.Errorf("intent is %v, want %v", st.Intent, s.intent)
	}
	for i := s.truncated; i <= s.last(); i++ {
		if term, err := l.Term(id, i); err != nil || term != s.term(i) {
			return fmt.Errorf("term of %d is %d (%v), want %d", i, term, err, s.term(i))
		}
	}
	if _, err := l.Term(id, s.last()+1); !errors.Is(err, raft.ErrUnavailable) {
		return fmt.Errorf("there is an entry behind the last: %w", err)
	}
	es, err := l.Entries(id, s.truncated+1, s.last()+1, ^uint64(0))
	if err != nil {
		return err
	}
	return s.diffEntries(es)
}

func (s modelShard) diffEntries(es []*raftpb.Entry) error {
	if len(es) != len(s.entries) {
		return fmt.Errorf("%d entries, want %d", len(es), len(s.entries))
	}
	for i, e := range es {
		w := s.entries[i]
		if e.GetIndex() != s.truncated+1+uint64(i) || e.GetTerm() != w.term || e.GetType() != w.kind || !bytes.Equal(e.GetData(), []byte(w.data)) {
			return fmt.Errorf("entry %d is %d/%d %v of %d bytes, want term %d %v of %d bytes",
				s.truncated+1+uint64(i), e.GetTerm(), e.GetIndex(), e.GetType(), len(e.GetData()), w.term, w.kind, len(w.data))
		}
	}
	return nil
}

func (m model) check(t testing.TB, l *Log) {
	t.Helper()
	if err := m.diff(l); err != nil {
		t.Fatal(err)
	}
}

// scenario makes up valid updates from numbers that below draws.
type scenario struct {
	below func(n int) int
	// bigData makes some entries larger than a block.
	bigData bool
	made    int
}

// shardIDs of scenarios; one is busy, one is mostly idle.
var shardIDs = []placement.ShardID{0, 1, 7, 1 << 31}

func (g *scenario) updates(m model) []Update {
	var us []Update
	for range 1 + g.below(4) {
		u := g.update(m)
		us = append(us, u)
		m = m.with(us[len(us)-1:])
	}
	return us
}

func (g *scenario) update(m model) Update {
	u := Update{Shard: shardIDs[min(g.below(12), 3)]}
	if u.Shard == shardIDs[3] && g.below(4) > 0 {
		u.Shard = shardIDs[0]
	}
	s := m[u.Shard]
	if g.below(2) == 0 {
		u.HardState = &raftpb.HardState{Term: new(uint64(g.below(9))), Vote: new(uint64(g.below(4))), Commit: new(s.last())}
	}
	truncated, last, term := s.truncated, s.last(), s.term(s.last())
	switch g.below(16) {
	case 0:
		u.Reset = &Reset{Index: uint64(g.below(int(s.last()) + 9)), Term: term + 1}
		truncated, last = u.Reset.Index, u.Reset.Index
	case 1:
		u.Intent = &Intent{Index: last + 5, Term: term, Dir: fmt.Sprintf("stage-%d", g.below(99))}
	}
	if g.below(3) > 0 {
		first := last + 1
		if g.below(5) == 0 {
			first -= uint64(g.below(int(min(4, last-truncated)) + 1))
			term++
		}
		for i := range 1 + g.below(5) {
			u.Entries = append(u.Entries, g.entry(first+uint64(i), term))
		}
		last = first + uint64(len(u.Entries)) - 1
	}
	if g.below(4) == 0 {
		u.Truncate = truncated + uint64(g.below(int(last-truncated)+1))
	}
	return u
}

func (g *scenario) entry(index, term uint64) *raftpb.Entry {
	g.made++
	n := g.below(300)
	if g.bigData && g.below(8) == 0 {
		n = 3000 + g.below(6000)
	}
	return &raftpb.Entry{Index: new(index), Term: new(term), Type: raftpb.EntryType(g.below(3)).Enum(), Data: testData(g.made, n)}
}

// testData is different for every seed and does not look like padding.
func testData(seed, n int) []byte {
	b := make([]byte, n)
	x := uint32(seed)*2654435761 | 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}
