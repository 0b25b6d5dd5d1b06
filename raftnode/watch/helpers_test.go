package watch

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/state"
)

// history is a shard as the hub reads it.
type history struct {
	mu        sync.Mutex
	revisions []*state.Part // revision i+1
	floor     uint64
	reads     int
	replaced  bool
	// during is called within a read, once.
	during func()
}

func newHistory() *history { return &history{floor: 1} }

func (h *history) revision() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return uint64(len(h.revisions))
}

// write makes a revision of keys; one that begins with '-' is deleted.
func (h *history) write(keys ...string) uint64 { return h.writeValue("", keys...) }

func (h *history) writeValue(value string, keys ...string) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := &state.Part{Revision: uint64(len(h.revisions)) + 1}
	for _, k := range keys {
		c := state.Change{Key: strings.TrimPrefix(k, "-"), Deleted: k[0] == '-', Before: &storev1.Record{Version: 1}}
		if !c.Deleted {
			c.After = &storev1.Record{ModRevision: p.Revision, Content: &storev1.Record_Value{Value: []byte(value)}}
		}
		p.Changes = append(p.Changes, c)
	}
	h.revisions = append(h.revisions, p)
	return p.Revision
}

func (h *history) trim(below uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.floor = max(h.floor, below)
}

// read is View.Changes over it.
func (h *history) read(_ placement.ShardID, r state.ChangesRead) (parts []*state.Part, next state.Cursor, err error) {
	h.mu.Lock()
	h.reads++
	during := h.during
	h.during = nil
	revisions, floor, replaced := slices.Clone(h.revisions), h.floor, h.replaced
	h.mu.Unlock()
	defer func() {
		if during != nil {
			during()
		}
	}()
	if replaced {
		return nil, r.From, state.ErrReplaced
	}
	if r.From.Revision < floor {
		return nil, r.From, &state.CompactedError{Revision: r.From.Revision, Floor: floor}
	}
	next = r.From
	size, some := uint64(0), false
	for next.Revision <= uint64(len(revisions)) && (next == r.From || size < r.MaxBytes) {
		whole := revisions[next.Revision-1]
		p := &state.Part{Revision: next.Revision, First: next.Changes}
		parts = append(parts, p)
		for i := next.Changes; i < len(whole.Changes); i++ {
			c := state.Change{Key: whole.Changes[i].Key, Deleted: whole.Changes[i].Deleted}
			c.Loaded = r.Want(c.Key, c.Deleted)
			if c.Loaded != state.WantNothing && some && size >= r.MaxBytes {
				p.More = true
				return parts, state.Cursor{Revision: next.Revision, Changes: i}, nil
			}
			if c.Loaded != state.WantNothing {
				c.After, some = whole.Changes[i].After, true
				size += uint64(len(c.Key) + len(c.After.GetValue()))
			}
			if c.Loaded == state.WantBoth {
				c.Before = whole.Changes[i].Before
			}
			p.Changes = append(p.Changes, c)
		}
		size += 20
		next = state.Cursor{Revision: next.Revision + 1}
	}
	return parts, next, nil
}

// world is a hub over a history.
type world struct {
	t testing.TB
	*history
	hub   *Hub
	woken bool
}

func newWorld(t testing.TB, o Options) *world {
	w := &world{t: t, history: newHistory()}
	o.Read, o.Wake = w.read, func() { w.woken = true }
	w.hub = New(o)
	return w
}

// put makes a revision and publishes it.
func (w *world) put(keys ...string) uint64 {
	w.t.Helper()
	revision := w.write(keys...)
	w.publish()
	return revision
}

func (w *world) publish() {
	w.t.Helper()
	w.hub.Applied(1, w.revision())
	if err := w.hub.Publish(); err != nil {
		w.t.Fatal(err)
	}
}

// watch begins with the next revision.
func (w *world) watch(f Filter) *seer { return w.watchFrom(f, w.revision()+1) }

func (w *world) watchFrom(f Filter, from uint64) *seer {
	s := &seer{t: w.t, first: from, next: from}
	s.watcher = w.hub.Watch(1, f, from, w.revision(), func() { s.notified = true })
	w.hub.Applied(1, w.revision())
	w.t.Cleanup(s.watcher.Close)
	return s
}

// seer notes what a watcher sees, as "revision:key".
type seer struct {
	t           testing.TB
	watcher     *Watcher
	first, next uint64
	notified    bool
	seen        []string
	// last and more are of the last event.
	last     uint64
	more     bool
	behind   bool
	complete uint64
}

// poll takes one batch and says whether there is nothing more.
func (s *seer) poll(maxBytes uint64) bool {
	s.t.Helper()
	b, err := s.watcher.Poll(maxBytes)
	if err != nil {
		s.t.Fatal(err)
	}
	s.take(b)
	return b.Idle
}

func (s *seer) take(b Batch) {
	s.t.Helper()
	for _, e := range b.Events {
		if e.Revision < s.last || s.more && e.Revision != s.last {
			s.t.Fatalf("revision %d after %d, which goes on: %t", e.Revision, s.last, s.more)
		}
		if e.Revision <= s.complete {
			s.t.Fatalf("revision %d, and %d was said to be complete", e.Revision, s.complete)
		}
		s.last, s.more = e.Revision, false
		s.seen = append(s.seen, eventName(e.Revision, e.Change))
	}
	s.more = b.More
	s.behind = s.behind || b.Behind
	if b.Complete < s.complete {
		s.t.Fatalf("complete to %d, before it was %d", b.Complete, s.complete)
	}
	if s.complete = b.Complete; b.More && b.Complete >= s.last {
		s.t.Fatalf("complete to %d, and %d goes on", b.Complete, s.last)
	}
}

func eventName(revision uint64, c *state.Change) string {
	sign := ""
	if c.Deleted {
		sign = "-"
	}
	return fmt.Sprintf("%d:%s%s", revision, sign, c.Key)
}

// drain polls until nothing is there, and returns what was seen since the watch began.
func (s *seer) drain() string {
	s.t.Helper()
	for !s.poll(1 << 20) {
	}
	return strings.Join(s.seen, " ")
}
