package state

import (
	"io"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// trimHistory raises the floor of the history, by at most as many revisions as the command allows.
//
// A read at a revision above the floor may need a record that was written below it. While that record stands, fine. If it was overwritten
// above the new floor, its only copy is in the history that goes now, so it moves to the section of overwritten records, and stays until the
// revision that overwrote it goes too. (If it is overwritten after the trim, operate moves it there.)
func (sh *Shard) trimHistory(b *Batch, c *storev1.TrimHistory) error {
	floor := sh.meta.HistoryFloor
	below := min(c.Below, sh.meta.Revision+1, floor+uint64(c.MaxRevisions))
	if below <= floor {
		return nil
	}
	t := trim{sh: sh, b: b, floor: floor, last: make(map[string]uint64)}
	for revision := floor; revision < below; revision++ {
		if err := t.takeOut(revision); err != nil {
			return err
		}
	}
	for _, key := range t.keys {
		if err := t.settle(key, t.last[key]); err != nil {
			return err
		}
	}
	sh.meta.HistoryFloor = below
	return nil
}

// trim is one run of trimHistory.
type trim struct {
	sh    *Shard
	b     *Batch
	floor uint64
	// last is the last revision below the new floor that changed a key, by key; keys has the keys in their order.
	last    map[string]uint64
	keys    []string
	records map[string]*record // the record as last left it; nil for a deletion
}

// takeOut removes the history of one revision.
func (t *trim) takeOut(revision uint64) error {
	h, n, err := t.sh.takeHistory(t.b, revision)
	if err != nil {
		return err
	}
	t.sh.meta.HistoryBytes -= uint64(n)
	for _, c := range h.Changes {
		// What the first change in the run overwrote was kept by an earlier run. What later ones did is in this run.
		if c.PreviousRevision != 0 && c.PreviousRevision < t.floor {
			if err := t.sh.dropOverwritten(t.b, c.PreviousRevision, c.Key); err != nil {
				return err
			}
		}
		if _, ok := t.last[c.Key]; !ok {
			t.keys = append(t.keys, c.Key)
		}
		t.last[c.Key] = revision
		if t.records == nil {
			t.records = make(map[string]*record)
		}
		t.records[c.Key] = c.Record
	}
	return nil
}

// settle decides what becomes of the last record of a key below the new floor.
func (t *trim) settle(key string, revision uint64) error {
	sh := t.sh
	stored, closer, err := sh.stored(key)
	if err != nil {
		return err
	}
	defer closer.Close()
	if stored == nil {
		return sh.damage(errMissing)
	}
	current, err := readHead(stored)
	if err != nil {
		return sh.damage(err)
	}
	switch {
	case current.mod != revision && t.records[key].GetTombstone():
		return nil // a later write stands; before it the key was not there, which takes no record
	case current.mod != revision:
		kept, err := encode(t.records[key])
		if err != nil {
			return err
		}
		return sh.keepOverwritten(t.b, revision, key, kept)
	case current.tombstone:
		sh.touch(placement.SlotOf(key)).digest.remove(hashRecord(key, stored))
		sh.overlay.records[key] = nil
		return t.b.delete(sh.key)
	default:
		return nil
	}
}

// takeHistory reads and removes the history of a revision, and returns its stored length.
func (sh *Shard) takeHistory(b *Batch, revision uint64) (*storev1.History, int, error) {
	sh.key = appendHistoryKey(sh.key[:0], sh.id, revision)
	stored, ok := sh.overlay.history(revision)
	if !ok {
		var closer io.Closer
		var err error
		if stored, closer, err = sh.read(); err != nil {
			return nil, 0, err
		}
		defer closer.Close()
	}
	if stored == nil {
		return nil, 0, sh.damage(errMissing)
	}
	h := new(storev1.History)
	if err := decode(h, stored, "history"); err != nil {
		return nil, 0, sh.damage(err)
	}
	return h, len(stored), b.delete(sh.key)
}

// keepOverwritten keeps a stored record that is the only copy of what a key was at revisions above the floor.
func (sh *Shard) keepOverwritten(b *Batch, revision uint64, key string, stored []byte) error {
	sh.key = appendOverwrittenKey(sh.key[:0], sh.id, revision, key)
	kept, err := b.setBytes(sh.key, stored)
	if err != nil {
		return err
	}
	sh.overlay.overwritten[overwritten{revision, key}] = kept
	sh.meta.HistoryBytes += uint64(len(kept))
	return nil
}

// dropOverwritten removes an overwritten record, if one is kept: a deletion leaves none.
func (sh *Shard) dropOverwritten(b *Batch, revision uint64, key string) error {
	id := overwritten{revision, key}
	sh.key = appendOverwrittenKey(sh.key[:0], sh.id, revision, key)
	stored, ok := sh.overlay.overwritten[id]
	if !ok {
		var closer io.Closer
		var err error
		if stored, closer, err = sh.read(); err != nil {
			return err
		}
		defer closer.Close()
	}
	if stored == nil {
		return nil
	}
	sh.meta.HistoryBytes -= uint64(len(stored))
	sh.overlay.overwritten[id] = nil
	return b.delete(sh.key)
}
