package watch

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/state"
)

const (
	pageBytes  = 256 << 10 // of history that is read at once
	queueParts = 256       // revisions that wait for one watcher
	queueBytes = 1 << 20   // of them; one that is larger waits alone
	// hubBytes bounds what waits for all watchers together: what waits for several is counted once.
	hubBytes = 64 << 20
)

// Options configure a Hub.
type Options struct {
	// Read reads the history of a shard. Any goroutine may call it. Required.
	Read func(shard placement.ShardID, r state.ChangesRead) ([]*state.Part, state.Cursor, error)
	// Wake sees to it that Publish is called soon. It must not block. Required.
	Wake func()
	// PageBytes, QueueParts, QueueBytes and HubBytes are the bounds; for tests.
	PageBytes, QueueBytes, HubBytes uint64
	QueueParts                      int
}

// Hub knows the watchers of all shards of a node. One goroutine calls Publish; everything else may be called by any.
type Hub struct {
	options Options
	// pinned is how many bytes wait in queues.
	pinned atomic.Int64
	// watchers counts them.
	watchers atomic.Int64

	// mu guards shards, whose entries stay. It is taken before the lock of a shard, never across I/O.
	mu     sync.RWMutex
	shards map[placement.ShardID]*shard
}

// New makes a hub.
func New(o Options) *Hub {
	o.PageBytes = cmp.Or(o.PageBytes, pageBytes)
	o.QueueParts = cmp.Or(o.QueueParts, queueParts)
	o.QueueBytes = cmp.Or(o.QueueBytes, queueBytes)
	o.HubBytes = cmp.Or(o.HubBytes, hubBytes)
	return &Hub{options: o, shards: make(map[placement.ShardID]*shard)}
}

// Watchers returns how many there are, and how many bytes wait for them.
func (h *Hub) Watchers() (n, bytes int64) { return h.watchers.Load(), h.pinned.Load() }

// Applied tells that the state of a shard has come to a revision. It costs next to nothing where nobody watches.
func (h *Hub) Applied(id placement.ShardID, revision uint64) {
	if h.watchers.Load() == 0 {
		return
	}
	h.mu.RLock()
	s := h.shards[id]
	h.mu.RUnlock()
	if s == nil || s.watchers.Load() == 0 {
		return
	}
	for was := s.applied.Load(); was < revision; was = s.applied.Load() {
		if s.applied.CompareAndSwap(was, revision) {
			h.options.Wake()
			return
		}
	}
}

// Watch adds a watcher of a shard that begins with revision from. now is a revision that the state has; whoever calls tells Applied the one
// that it has afterwards. notify is called, with locks held, when Poll may have something new: it must neither block nor call the hub.
func (h *Hub) Watch(id placement.ShardID, f Filter, from, now uint64, notify func()) *Watcher {
	h.mu.Lock()
	s := h.shards[id]
	if s == nil {
		s = &shard{hub: h, id: id}
		h.shards[id] = s
	}
	h.mu.Unlock()
	w := &Watcher{shard: s, filter: f, notify: notify, cursor: state.Cursor{Revision: from}}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watchers.Load() == 0 {
		// Nobody has cared for what lies before.
		s.epoch++
		s.position = max(s.position, now)
	}
	s.index.add(w)
	s.watchers.Add(1)
	h.watchers.Add(1)
	return w
}

// Publish hands out what was applied since. An error is that of a read; what could not be read is tried again when it is called next.
func (h *Hub) Publish() error {
	h.mu.RLock()
	all := make([]*shard, 0, len(h.shards))
	for _, s := range h.shards {
		all = append(all, s)
	}
	h.mu.RUnlock()
	slices.SortFunc(all, func(a, b *shard) int { return cmp.Compare(a.id, b.id) })
	var errs []error
	for _, s := range all {
		if err := s.publish(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Nudge notifies every watcher that reads the history by itself, and lets the hub try again what it could not read: what kept them from it may
// have passed.
func (h *Hub) Nudge() {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, s := range h.shards {
		s.nudge()
	}
}
