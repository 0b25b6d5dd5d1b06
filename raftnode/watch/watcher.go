package watch

import (
	"errors"

	"github.com/raftkv/raftkv/raftnode/planted"
	"github.com/raftkv/raftkv/raftnode/state"
)

// Watcher is a cursor over the history of a shard. One goroutine calls its methods.
type Watcher struct {
	shard  *shard
	filter Filter
	notify func()

	// The lock of the shard guards the fields below.

	// live: the hub hands over what comes. If not, cursor is where the watcher goes on in the history once its queue is empty; if so,
	// it wants nothing below.
	live   bool
	cursor state.Cursor
	queue  []*item
	bytes  uint64
	round  uint64
	closed bool
}

// Event is one change that a watcher sees.
type Event struct {
	Revision, ClockMs uint64
	*state.Change
}

// Batch is what a watcher sees next.
type Batch struct {
	// Events are in the order of the history.
	Events []Event
	// More says that further events of the revision of the last one follow.
	More bool
	// Complete is the revision up to which the watcher has seen everything that it wants.
	Complete uint64
	// Idle says that there is nothing more for now: the next thing is a call of notify.
	Idle bool
	// Behind says that the events come out of the history, because the watcher was behind.
	Behind bool
}

// Poll returns what comes next, some maxBytes of events at the most, and at least one revision or a part of one if there is any. It reads history at
// most once, so it may return no events and still not be idle. A *state.CompactedError says that what comes next is forgotten.
func (w *Watcher) Poll(maxBytes uint64) (Batch, error) {
	s := w.shard
	s.mu.Lock()
	if len(w.queue) > 0 {
		defer s.mu.Unlock()
		return w.take(maxBytes), nil
	}
	if w.live || w.attach() {
		defer s.mu.Unlock()
		return Batch{Complete: w.complete(), Idle: true}, nil
	}
	from := w.cursor
	s.mu.Unlock()
	read := state.ChangesRead{From: from, MaxBytes: min(maxBytes, s.hub.options.PageBytes), Want: w.filter.Want}
	parts, next, err := s.hub.options.Read(s.id, read)
	var compacted *state.CompactedError
	if planted.Is(planted.WatchBelowFloor) && errors.As(err, &compacted) { // R22
		read.From = state.Cursor{Revision: compacted.Floor}
		parts, next, err = s.hub.options.Read(s.id, read)
	}
	if errors.Is(err, state.ErrReplaced) {
		return Batch{Complete: from.Revision - 1, Idle: true}, nil // The hub nudges it.
	}
	if err != nil {
		return Batch{}, err
	}
	s.mu.Lock()
	w.cursor = next
	s.mu.Unlock()
	return w.read(parts, next), nil
}

// read makes a batch of what was read in the history.
func (w *Watcher) read(parts []*state.Part, next state.Cursor) Batch {
	b := Batch{Complete: next.Revision - 1, Behind: true}
	for _, p := range parts {
		b.add(p, &w.filter)
		// The rest of a part of which nothing was asked for comes as a whole.
		n := len(b.Events)
		b.More = p.More && n > 0 && b.Events[n-1].Revision == p.Revision
	}
	return b
}

func (b *Batch) add(p *state.Part, f *Filter) {
	for i := range p.Changes {
		if c := &p.Changes[i]; f.Want(c.Key, c.Deleted) != state.WantNothing {
			b.Events = append(b.Events, Event{Revision: p.Revision, ClockMs: p.ClockMs, Change: c})
		}
	}
}

// attach makes the watcher live, if it has seen all that is published. The caller holds the lock.
func (w *Watcher) attach() bool {
	if w.cursor.Changes > 0 || w.cursor.Revision <= w.shard.position {
		return false
	}
	w.live = true
	return true
}

// complete is up to where a watcher without a queue has seen everything. The caller holds the lock.
func (w *Watcher) complete() uint64 {
	if w.live {
		return max(w.shard.position, w.cursor.Revision-1)
	}
	return w.cursor.Revision - 1
}

// Complete returns the revision up to which the watcher has seen everything that it wants. It reads nothing.
func (w *Watcher) Complete() uint64 {
	w.shard.mu.Lock()
	defer w.shard.mu.Unlock()
	if len(w.queue) > 0 {
		return w.queue[0].part.Revision - 1
	}
	return w.complete()
}

// take returns what waits in the queue. The caller holds the lock.
func (w *Watcher) take(maxBytes uint64) Batch {
	var b Batch
	size := uint64(0)
	n := 0
	for n < len(w.queue) && (n == 0 || size+w.queue[n].bytes <= maxBytes) {
		size += w.queue[n].bytes
		b.add(w.queue[n].part, &w.filter)
		n++
	}
	rest := w.queue[n:]
	for _, it := range w.queue[:n] {
		w.drop(it)
	}
	if len(rest) > 0 {
		b.Complete = rest[0].part.Revision - 1
		w.queue = rest
		return b
	}
	w.queue = nil // An idle watcher keeps no room.
	b.Complete = w.complete()
	return b
}

// drop takes an item out of the account. The caller holds the lock.
func (w *Watcher) drop(it *item) {
	w.bytes -= it.bytes
	if it.refs--; it.refs == 0 {
		w.shard.hub.pinned.Add(-int64(it.bytes))
	}
}

// push gives a live watcher a revision, or lets it fall back. The caller holds the lock.
func (w *Watcher) push(it *item) {
	o, h := &w.shard.hub.options, w.shard.hub
	switch {
	case !w.live || it.part.Revision < w.cursor.Revision:
		return
	case len(w.queue) >= o.QueueParts,
		len(w.queue) > 0 && w.bytes+it.bytes > o.QueueBytes,
		it.refs == 0 && h.pinned.Load()+int64(it.bytes) > int64(o.HubBytes),
		!w.has(it.part):
		w.fallBack(it.part.Revision)
		return
	}
	if it.refs++; it.refs == 1 {
		h.pinned.Add(int64(it.bytes))
	}
	w.queue = append(w.queue, it)
	w.bytes += it.bytes
	w.notify()
}

// has says whether a part was read with all that the watcher wants; it was not if the watcher has come since.
func (w *Watcher) has(p *state.Part) bool {
	for i := range p.Changes {
		if c := &p.Changes[i]; c.Loaded < w.filter.Want(c.Key, c.Deleted) {
			return false
		}
	}
	return true
}

// fallBack makes a live watcher read the history from a revision on, once its queue is empty. The caller holds the lock.
func (w *Watcher) fallBack(revision uint64) {
	if w.live {
		w.live = false
		w.cursor = state.Cursor{Revision: max(gap(revision), w.cursor.Revision)}
	}
	w.notify()
}

// Close ends the watcher. It may be called again.
func (w *Watcher) Close() {
	s := w.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.closed {
		return
	}
	w.closed, w.live = true, false
	for _, it := range w.queue {
		w.drop(it)
	}
	w.queue = nil
	s.index.remove(w)
	s.watchers.Add(-1)
	s.hub.watchers.Add(-1)
}
