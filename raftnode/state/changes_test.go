package state

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
)

// grown is a shard that has had random writes, and what its keys were at every revision.
func grown(t *testing.T, revisions int) (*machine, []map[string]string) {
	t.Helper()
	m := newServing(t, Options{})
	r := rand.New(rand.NewPCG(1, 2))
	states := []map[string]string{{}}
	for len(states) <= revisions {
		next := make(map[string]string)
		for k, v := range states[len(states)-1] {
			next[k] = v
		}
		var ops []*storev1.Operation
		for i := range 1 + r.IntN(4) {
			key := fmt.Sprintf("k%02d", (r.IntN(4)*5+i)%20)
			if _, there := next[key]; there && r.IntN(3) == 0 {
				ops = append(ops, deleteOp(key))
				delete(next, key)
				continue
			}
			value := fmt.Sprintf("v%d", len(states))
			if r.IntN(3) == 0 {
				value += strings.Repeat("x", 1500) // stored by itself
			}
			ops = append(ops, putOp(key, value))
			next[key] = value
		}
		m.commit(writeCommand(ops...))
		states = append(states, next)
	}
	return m, states
}

// Changes, read in pages of any size, say what turned each state into the next, and mark every part of a revision but the last.
func TestChangesAreTheDifferences(t *testing.T) {
	m, states := grown(t, 60)
	for _, want := range []Want{WantAfter, WantBoth} {
		for _, bytes := range []uint64{1, 700, 5000, 1 << 20} {
			v := m.store.View()
			state := make(map[string]string)
			more := false
			for at := (Cursor{Revision: 1}); at.Revision < uint64(len(states)); {
				parts, next, err := v.Changes(testShard, ChangesRead{From: at, MaxBytes: bytes, Want: func(string, bool) Want { return want }})
				if err != nil || len(parts) == 0 {
					t.Fatal(parts, err)
				}
				for _, p := range parts {
					if p.Revision != at.Revision || p.First != at.Changes || more != (p.First > 0) {
						t.Fatalf("a part from %d of revision %d, expected %+v, and the last was marked %t", p.First, p.Revision, at, more)
					}
					takeChanges(t, p, want, state, states[p.Revision-1])
					if more = p.More; !more {
						at = Cursor{Revision: p.Revision + 1}
						if diff := gocmp.Diff(states[p.Revision], state); diff != "" {
							t.Fatalf("revision %d: %s", p.Revision, diff)
						}
						continue
					}
					at.Changes += len(p.Changes)
				}
				if next != at {
					t.Fatalf("goes on at %+v, expected %+v", next, at)
				}
			}
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func takeChanges(t *testing.T, p *Part, want Want, state, before map[string]string) {
	t.Helper()
	for _, c := range p.Changes {
		was, there := before[c.Key]
		switch {
		case c.Loaded != want, c.Deleted != (c.After == nil):
			t.Fatalf("revision %d: %+v", p.Revision, c)
		case want == WantBoth && (there != (c.Before != nil) || string(c.Before.GetValue()) != was):
			t.Fatalf("revision %d: before %s came %v, expected %q", p.Revision, c.Key, c.Before, was)
		case c.Deleted:
			delete(state, c.Key)
		case c.After.GetModRevision() != p.Revision:
			t.Fatalf("revision %d: %v", p.Revision, c.After)
		default:
			state[c.Key] = string(c.After.GetValue())
		}
	}
}

// What is not asked for is not read, and does not split a revision.
func TestChangesNotAskedFor(t *testing.T) {
	m := newServing(t, Options{})
	m.commit(writeCommand(putOp("a", strings.Repeat("x", 2000)), putOp("b", "1"), putOp("c", strings.Repeat("y", 2000))))
	v := m.store.View()
	defer func() { _ = v.Close() }()
	parts, next, err := v.Changes(testShard, ChangesRead{From: Cursor{Revision: 1}, MaxBytes: 1, Want: func(key string, _ bool) Want {
		if key == "b" {
			return WantAfter
		}
		return WantNothing
	}})
	if err != nil || len(parts) != 1 || len(parts[0].Changes) != 3 || parts[0].More || next != (Cursor{Revision: 2}) {
		t.Fatal(parts, next, err)
	}
	for _, c := range parts[0].Changes {
		if (c.Key == "b") != (c.Loaded == WantAfter) || (c.Key == "b") != (c.After != nil) {
			t.Errorf("%+v", c)
		}
	}
}

func TestChangesBelowTheFloorAndAtTheEnd(t *testing.T) {
	m, _ := grown(t, 10)
	m.commit(trimCommand(5, 100))
	v := m.store.View()
	defer func() { _ = v.Close() }()
	all := func(string, bool) Want { return WantBoth }
	var compacted *CompactedError
	if _, _, err := v.Changes(testShard, ChangesRead{From: Cursor{Revision: 4}, MaxBytes: 1, Want: all}); !errors.As(err, &compacted) || compacted.Floor != 5 {
		t.Error(err)
	}
	if parts, _, err := v.Changes(testShard, ChangesRead{From: Cursor{Revision: 5}, MaxBytes: 1, Want: all}); err != nil || len(parts) == 0 {
		t.Error(parts, err)
	}
	if parts, next, err := v.Changes(testShard, ChangesRead{From: Cursor{Revision: 11}, MaxBytes: 1, Want: all}); err != nil || len(parts) != 0 || next.Revision != 11 {
		t.Error(parts, next, err)
	}
}

// A range at a revision is what the range was then, in pages of any size, as long as the history above it is there.
func TestRangeAtIsWhatWas(t *testing.T) {
	m, states := grown(t, 60)
	m.commit(trimCommand(20, 100))
	v := m.store.View()
	defer func() { _ = v.Close() }()
	for revision := uint64(19); revision < uint64(len(states)); revision += 3 {
		for _, page := range []struct {
			look, items int
			bytes, work uint64
			reverse     bool
		}{
			{1, 0, 1 << 20, 1 << 20, false},
			{7, 0, 1 << 20, 1 << 20, false},
			{1000, 0, 1, 1 << 20, false},
			{1000, 2, 0, 1 << 20, false},
			{1000, 0, 0, 1 << 20, false},
			{2, 0, 0, 1 << 20, true},
			{1000, 3, 0, 1 << 20, true},
			{1000, 0, 0, 1, false},
			{1000, 2, 2000, 900, true},
		} {
			got := make(map[string]string)
			last := ""
			r := &peerv1.RangeRead{Start: "k03", End: "k17", Revision: revision, MaxItems: uint32(page.items), MaxBytes: page.bytes, Reverse: page.reverse}
			for behind, more := "", true; more; more = behind != "" {
				records, after, err := v.RangeAt(testShard, r, Effort{page.look, page.work})
				if err != nil {
					t.Fatal(err)
				}
				if page.items > 0 && len(records) > page.items {
					t.Fatalf("a page of %d", len(records))
				}
				for _, k := range records {
					if last != "" && (k.GetKey() < last) != page.reverse {
						t.Fatalf("%s follows %s", k.GetKey(), last)
					}
					last = k.GetKey()
					got[last] = string(k.GetRecord().GetValue())
				}
				if behind = after; page.reverse {
					r.End = behind
				} else {
					r.Start = behind + "\x00"
				}
			}
			want := make(map[string]string)
			for k, value := range states[revision] {
				if k >= "k03" && k < "k17" {
					want[k] = value
				}
			}
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Fatalf("revision %d, pages of %v: %s", revision, page, diff)
			}
		}
	}
	var compacted *CompactedError
	if _, _, err := v.RangeAt(testShard, &peerv1.RangeRead{Revision: 18}, Effort{1, 1}); !errors.As(err, &compacted) || compacted.Floor != 19 { // the state that the first history replaced
		t.Error(err)
	}
	var future *FutureRevisionError
	if _, _, err := v.RangeAt(testShard, &peerv1.RangeRead{Revision: 99}, Effort{1, 1}); !errors.As(err, &future) || future.Current != 60 {
		t.Error(err)
	}
	records, _, err := v.RangeAt(testShard, &peerv1.RangeRead{Revision: 60}, Effort{100, 1 << 20})
	now, _, err2 := v.Range(testShard, &peerv1.RangeRead{})
	if diff := gocmp.Diff(now, records, protocmp.Transform()); err != nil || err2 != nil || diff != "" {
		t.Error(err, err2, diff)
	}
	keys, _, err := v.RangeAt(testShard, &peerv1.RangeRead{Revision: 60, KeysOnly: true}, Effort{100, 1 << 20})
	now, _, err2 = v.Range(testShard, &peerv1.RangeRead{KeysOnly: true})
	if diff := gocmp.Diff(now, keys, protocmp.Transform()); err != nil || err2 != nil || diff != "" {
		t.Error(err, err2, diff)
	}
}
