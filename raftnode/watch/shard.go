package watch

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
	"github.com/raftkv/raftkv/raftnode/state"
)

// shard is the watchers of one shard.
type shard struct {
	hub *Hub
	id  placement.ShardID
	// watchers counts those of the index, applied is the revision that the state has come to, as far as the hub was told.
	watchers atomic.Int64
	applied  atomic.Uint64

	// mu guards the fields below and those of the watchers. It is a leaf, and not held across I/O.
	mu    sync.Mutex
	index index
	// position: up to it everything is published. A live watcher has what it wants of that behind it or in its queue.
	position uint64
	// epoch counts how often position has jumped.
	epoch uint64
	// round numbers what is published, so that a watcher of several keys of a revision gets it once.
	round uint64
}

// item is a revision that waits for watchers.
type item struct {
	part  *state.Part
	bytes uint64
	// refs counts the queues in which it is; the lock of the shard guards it.
	refs int
}

// publish reads what was applied since and hands it out, a page at a time.
func (s *shard) publish() error {
	for s.watchers.Load() > 0 {
		s.mu.Lock()
		from, epoch := s.position+1, s.epoch
		s.mu.Unlock()
		if from > s.applied.Load() {
			return nil
		}
		parts, next, err := s.hub.options.Read(s.id, state.ChangesRead{
			From: state.Cursor{Revision: from}, MaxBytes: s.hub.options.PageBytes, Want: s.want,
		})
		var compacted *state.CompactedError
		switch {
		case errors.As(err, &compacted):
			s.skip(epoch, compacted.Floor-1)
			continue
		case errors.Is(err, state.ErrReplaced):
			return nil // Who replaces the image tells when that is done.
		case err != nil:
			return err
		case next.Changes > 0:
			// A revision that is larger than a page stays in the history; the watchers that want some of it read it there.
			parts = parts[:len(parts)-1]
			whole, after, err := s.keysOf(next.Revision)
			if err != nil {
				return err
			}
			s.handOut(epoch, parts, next.Revision-1)
			s.leave(epoch, whole, after)
			continue
		case next.Revision == from:
			return nil
		}
		s.handOut(epoch, parts, next.Revision-1)
	}
	return nil
}

// keysOf reads a revision without its values.
func (s *shard) keysOf(revision uint64) (*state.Part, uint64, error) {
	parts, next, err := s.hub.options.Read(s.id, state.ChangesRead{
		From: state.Cursor{Revision: revision}, MaxBytes: 1, Want: func(string, bool) state.Want { return state.WantNothing },
	})
	if err != nil {
		return nil, 0, err
	}
	return parts[0], next.Revision - 1, nil
}

// want says what of a change the watchers want together.
func (s *shard) want(key string, deleted bool) (want state.Want) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index.each(key, func(w *Watcher) { want = max(want, w.filter.Want(key, deleted)) })
	return want
}

// skip passes over what is not there any more: watchers find that out by themselves, each where it stands.
func (s *shard) skip(epoch, to uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch != epoch {
		return
	}
	s.index.all(func(w *Watcher) { w.fallBack(s.position + 1) })
	s.position = max(s.position, to)
}

// handOut hands parts out that are whole revisions, up to one.
func (s *shard) handOut(epoch uint64, parts []*state.Part, to uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch != epoch {
		return
	}
	for _, p := range parts {
		it := &item{part: p}
		for i := range p.Changes {
			it.bytes += changeBytes(&p.Changes[i])
		}
		s.eachWatcher(p, func(w *Watcher) { w.push(it) })
	}
	s.position = max(s.position, to)
}

// leave lets those who want some of a revision read it in the history.
func (s *shard) leave(epoch uint64, p *state.Part, to uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch != epoch {
		return
	}
	s.eachWatcher(p, func(w *Watcher) { w.fallBack(p.Revision) })
	s.position = max(s.position, to)
}

// eachWatcher calls fn once with every watcher that wants some of a revision.
func (s *shard) eachWatcher(p *state.Part, fn func(*Watcher)) {
	s.round++
	for i := range p.Changes {
		c := &p.Changes[i]
		s.index.each(c.Key, func(w *Watcher) {
			if w.round != s.round && w.filter.Want(c.Key, c.Deleted) != state.WantNothing {
				w.round = s.round
				fn(w)
			}
		})
	}
}

func (s *shard) nudge() {
	if s.watchers.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.applied.Load() > s.position {
		s.hub.options.Wake()
	}
	s.index.all(func(w *Watcher) {
		if !w.live {
			w.notify()
		}
	})
}

// changeBytes is about what a change takes in memory.
func changeBytes(c *state.Change) uint64 {
	return 160 + uint64(len(c.Key)+len(c.After.GetValue())+len(c.Before.GetValue()))
}

// gap is where a watcher goes on in the history that falls behind at a revision.
func gap(revision uint64) uint64 {
	if planted.Is(planted.WatchGap) {
		return revision + 1 // R22
	}
	return revision
}
