package state

import (
	"errors"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
)

// Cursor is a place in the history of a shard: before the change of a revision that has so many changes of it behind it.
type Cursor struct {
	Revision uint64
	Changes  int
}

// Want says what of a change is asked for.
type Want uint8

const (
	// WantNothing asks for the key only.
	WantNothing Want = iota
	// WantAfter asks for the record as the revision left it.
	WantAfter
	// WantBoth asks for the record that it replaced, too.
	WantBoth
)

// Change is what a revision did to a key.
type Change struct {
	Key string
	// Deleted says that the key was removed.
	Deleted bool
	// Expired says that no client has removed it: its time has passed, or its lease has ended.
	Expired bool
	// Loaded is what of the records is here.
	Loaded Want
	// After is the record as the revision left it; nil after a delete. Before is the one that it replaced; nil if the key did not exist.
	After, Before *storev1.Record
}

// Part is what a revision changed, all of it or some.
type Part struct {
	Revision, ClockMs uint64
	// First is the position of the first change in the revision.
	First int
	// More says that changes of the revision that are asked for follow in another part.
	More    bool
	Changes []Change
}

// ChangesRead says what Changes reads.
type ChangesRead struct {
	// From is where it begins.
	From Cursor
	// MaxBytes bounds what is read: stored history, and the keys and values of what is asked for. At least one change is.
	MaxBytes uint64
	// Want says what is asked for of a change.
	Want func(key string, deleted bool) Want
}

// Changes reads history from a place on, and returns the place to go on from. Parts follow each other without a gap; a revision is split
// only where the bytes that are asked for pass the bound, so memory is bounded whatever a command has changed.
func (v *View) Changes(id placement.ShardID, r ChangesRead) ([]*Part, Cursor, error) {
	w := changesWalk{view: v, shard: id, read: r, next: r.From}
	_, err := v.History(id, r.From.Revision, ^uint64(0), r.MaxBytes, w.take)
	if errors.Is(err, errEnough) {
		err = nil
	}
	if err != nil {
		return nil, r.From, err
	}
	return w.parts, w.next, nil
}

// changesWalk is a read of changes on its way.
type changesWalk struct {
	view  *View
	shard placement.ShardID
	read  ChangesRead
	next  Cursor
	parts []*Part
	bytes uint64
	// some says that a change has been read.
	some bool
}

// take adds a revision, or the part of it that fits.
func (w *changesWalk) take(revision uint64, h *storev1.History) error {
	p := &Part{Revision: revision, ClockMs: h.ClockMs, First: w.next.Changes, Changes: make([]Change, 0, max(0, len(h.Changes)-w.next.Changes))}
	w.parts = append(w.parts, p)
	for i := p.First; i < len(h.Changes); i++ {
		c, want, err := w.change(h.Changes[i])
		if err != nil {
			return &CorruptionError{Shard: w.shard, Key: appendHistoryKey(nil, w.shard, revision), Err: err}
		}
		if want != WantNothing && w.some && w.bytes >= w.read.MaxBytes {
			p.More = !planted.Is(planted.WatchSplitUnmarked) // R22
			w.next = Cursor{revision, i}
			return errEnough
		}
		if want != WantNothing {
			if err := w.load(&c, h.Changes[i], want); err != nil {
				return err
			}
		}
		p.Changes = append(p.Changes, c)
	}
	w.next = Cursor{Revision: revision + 1}
	if w.bytes >= w.read.MaxBytes {
		return errEnough
	}
	return nil
}

func (w *changesWalk) change(c *storev1.History_Change) (Change, Want, error) {
	head, err := readHead(c.After)
	if err != nil {
		return Change{}, WantNothing, err
	}
	return Change{Key: c.Key, Deleted: head.tombstone, Expired: c.Expired}, w.read.Want(c.Key, head.tombstone), nil
}

// load reads the records of a change.
func (w *changesWalk) load(c *Change, stored *storev1.History_Change, want Want) (err error) {
	c.Loaded, w.some = want, true
	w.bytes += uint64(len(c.Key))
	if !c.Deleted {
		if c.After, err = w.record(c.Key, stored.After); err != nil {
			return err
		}
	}
	if want == WantBoth && stored.Before != nil {
		if c.Before, err = w.record(c.Key, stored.Before); err != nil {
			return err
		}
		if c.Before.GetTombstone() {
			c.Before = nil
		}
	}
	return nil
}

// record reads a record of the history whole. The values of those are there as long as the history is.
func (w *changesWalk) record(key string, stored []byte) (*record, error) {
	r, err := readRecord(stored)
	if err != nil {
		return nil, &CorruptionError{Shard: w.shard, Key: []byte(key), Err: err}
	}
	if err := w.view.whole(w.shard, key, r); err != nil {
		return nil, err
	}
	w.bytes += uint64(len(r.GetValue()))
	return r, nil
}

// RevisionClock returns the clock of a shard, in milliseconds, at a revision whose history is kept.
func (v *View) RevisionClock(id placement.ShardID, revision uint64) (at uint64, err error) {
	// Not checkRevision: the state before the first history can be read, its clock has gone.
	next, err := v.History(id, revision, revision, 1, func(_ uint64, h *storev1.History) error {
		at = h.ClockMs
		return nil
	})
	if err == nil && next == revision {
		p, err := v.Position(id)
		if err != nil {
			return 0, err
		}
		return 0, &FutureRevisionError{Revision: revision, Current: p.Revision}
	}
	return at, err
}
