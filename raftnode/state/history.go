package state

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// trimHistory raises the floor of the history, by at most as many revisions as the command allows.
//
// Nothing above the floor depends on what goes: a history holds what its revision replaced, so the read of an old revision never looks below it.
// That makes a trim one range deletion; only tombstones and separated values that were replaced are looked at one by one. The range
// deletion covers no later write: history is written above the revision of the shard only.
func (sh *Shard) trimHistory(b *Batch, c *storev1.TrimHistory) error {
	floor := sh.meta.HistoryFloor
	below := min(c.Below, sh.meta.Revision+1, floor+uint64(c.MaxRevisions))
	if below <= floor {
		return nil
	}
	tombstones, below, err := sh.tombstonesFrom(floor, below, int(c.MaxRevisions))
	if err != nil {
		return err
	}
	values, below, err := sh.replacedFrom(floor, below, int(c.MaxRevisions))
	if err != nil {
		return err
	}
	for _, t := range tombstones {
		if t.revision < below {
			err = errors.Join(err, sh.clearTombstone(b, t))
		}
	}
	for _, r := range values {
		if r.by < below {
			err = errors.Join(err, sh.dropValue(b, r))
		}
	}
	if err != nil {
		return err
	}
	start, err := sh.historyOffset(below)
	if err != nil {
		return err
	}
	if err := b.deleteRange(appendHistoryKey(nil, sh.id, floor), appendHistoryKey(nil, sh.id, below)); err != nil {
		return err
	}
	sh.meta.HistoryFloor, sh.meta.HistoryStart = below, start
	return nil
}

// historyOffset returns the offset of the history of a revision that is kept or the next to come.
func (sh *Shard) historyOffset(revision uint64) (uint64, error) {
	if revision > sh.meta.Revision {
		return sh.meta.HistoryEnd, nil
	}
	if offset, ok := sh.overlay.offset(revision); ok {
		return offset, nil
	}
	sh.key = appendHistoryKey(sh.key[:0], sh.id, revision)
	stored, closer, err := sh.read()
	if err != nil {
		return 0, err
	}
	defer closer.Close()
	if stored == nil {
		return 0, sh.damage(errMissing)
	}
	h := new(storev1.History)
	if err := decode(h, stored, "history"); err != nil {
		return 0, sh.damage(err)
	}
	return h.Offset, nil
}

// noted calls fn with what is noted under the revisions from floor up to below in a section of the store.
func (sh *Shard) noted(s section, floor, below uint64, fn func(revision uint64, key string, value []byte) error) error {
	it, err := sh.store.db.NewIter(&pebble.IterOptions{
		LowerBound: appendRevisionKey(nil, sh.id, s, floor, ""),
		UpperBound: appendRevisionKey(nil, sh.id, s, below, ""),
	})
	if err != nil {
		return fmt.Errorf("state: shard %d: read section %c: %w", sh.id, s, err)
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var value []byte
		if value, err = it.ValueAndErr(); err != nil {
			break
		}
		revision, key, bad := parseRevisionKey(it.Key()[sectionLen:])
		if bad != nil {
			err = &CorruptionError{Shard: sh.id, Key: slices.Clone(it.Key()), Err: bad}
			break
		}
		err = fn(revision, string(key), value)
	}
	if err := errors.Join(err, it.Error(), it.Close()); err != nil && !errors.Is(err, errEnough) {
		return err
	}
	return nil
}

// errEnough ends a walk that has found as much as it may.
var errEnough = errors.New("enough")

// tombstonesFrom returns the tombstones of the revisions from floor up to below. After most of them it ends with the revision that it is at;
// it returns the revision below which it has all.
func (sh *Shard) tombstonesFrom(floor, below uint64, most int) ([]tombstone, uint64, error) {
	var found []tombstone
	take := func(t tombstone) error {
		if len(found) >= most && t.revision > found[len(found)-1].revision {
			below = t.revision
			return errEnough
		}
		stands, err := sh.isTombstone(t)
		if err == nil && stands {
			found = append(found, t)
		}
		return err
	}
	err := sh.noted(sectionTombstone, floor, below, func(revision uint64, key string, _ []byte) error {
		return take(tombstone{revision, key})
	})
	// Those of the open batch are younger than all that are stored.
	for _, t := range sh.overlay.tombstones {
		if err != nil || t.revision >= below {
			break
		}
		if t.revision >= floor {
			err = take(t)
		}
	}
	if errors.Is(err, errEnough) {
		err = nil
	}
	return found, below, err
}

// isTombstone says whether the tombstone still is the record of its key: the open batch may have replaced it.
func (sh *Shard) isTombstone(t tombstone) (bool, error) {
	stored, err := sh.stored(t.key)
	if err != nil {
		return false, err
	}
	var h recordHead
	if stored != nil {
		if h, err = readHead(stored); err != nil {
			return false, sh.damage(err)
		}
	}
	if h.mod == t.revision && h.tombstone {
		return true, nil
	}
	if _, ok := sh.overlay.records[t.key]; ok {
		return false, nil
	}
	return false, sh.damage(errMissing)
}

// clearTombstone removes a record that is a tombstone: no read asks for what was before any more.
func (sh *Shard) clearTombstone(b *Batch, t tombstone) error {
	stored, err := sh.stored(t.key)
	if err != nil {
		return err
	}
	sh.touch(placement.SlotOf(t.key)).digest.remove(hashRecord(t.key, stored))
	if err := b.delete(sh.key); err != nil {
		return err
	}
	sh.overlay.records[t.key] = nil
	sh.recent.remove(t.key)
	return sh.unmarkTombstone(b, t.revision, t.key)
}

// replacedFrom is tombstonesFrom for separated values.
func (sh *Shard) replacedFrom(floor, below uint64, most int) ([]replaced, uint64, error) {
	var found []replaced
	take := func(r replaced) error {
		if len(found) >= most && r.by > found[len(found)-1].by {
			below = r.by
			return errEnough
		}
		found = append(found, r)
		return nil
	}
	err := sh.noted(sectionReplaced, floor, below, func(revision uint64, key string, value []byte) error {
		old, _, err := parseReplaced(value)
		if err != nil {
			return sh.damage(err)
		}
		return take(replaced{revision, key, old})
	})
	for _, r := range sh.overlay.replaced {
		if err != nil || r.by >= below {
			break
		}
		if r.by >= floor {
			err = take(r)
		}
	}
	if errors.Is(err, errEnough) {
		err = nil
	}
	return found, below, err
}

// markTombstone notes that the record of a key is a tombstone, so that a trim finds it.
func (sh *Shard) markTombstone(b *Batch, revision uint64, key string) error {
	sh.overlay.tombstones = append(sh.overlay.tombstones, tombstone{revision, key})
	sh.key = appendRevisionKey(sh.key[:0], sh.id, sectionTombstone, revision, key)
	_, err := b.setBytes(sh.key, nil)
	return err
}

// unmarkTombstone notes that it no longer is.
func (sh *Shard) unmarkTombstone(b *Batch, revision uint64, key string) error {
	sh.key = appendRevisionKey(sh.key[:0], sh.id, sectionTombstone, revision, key)
	return b.delete(sh.key)
}
