package state

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// View is the state of all shards as of one commit. It may be used by several goroutines until it is closed. While it is open, what it
// shows takes space on disk: a view does not outlive a page or an export.
//
// A shard whose image is replaced or dropped can not be read through a view from before; every method then returns ErrReplaced.
type View struct {
	store    *Store
	snapshot *pebble.Snapshot
	installs *map[placement.ShardID]uint64
}

// View opens a view of what is committed.
func (s *Store) View() *View {
	// In this order: a replacement between the two only makes the view useless for that shard.
	installs := s.installs.Load()
	return &View{store: s, snapshot: s.db.NewSnapshot(), installs: installs}
}

// Close ends the view.
func (v *View) Close() error { return v.snapshot.Close() }

// check says whether what was read of a shard until now is good. Pebble's snapshots do not survive that their keys are excised.
func (v *View) check(id placement.ShardID) error {
	now := v.store.installs.Load()
	was := (*v.installs)[id]
	if was%2 == 0 && (now == v.installs || (*now)[id] == was) {
		return nil
	}
	return fmt.Errorf("shard %d: %w", id, ErrReplaced)
}

// replacing counts the beginning or the end of a replacement. An odd count is one under way.
func (s *Store) replacing(id placement.ShardID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := make(map[placement.ShardID]uint64)
	for k, n := range *s.installs.Load() {
		next[k] = n
	}
	next[id]++
	s.installs.Store(&next)
}

// get reads a stored message into m and says whether it is there.
func (v *View) get(id placement.ShardID, key []byte, m decoder, what string) (bool, error) {
	stored, closer, err := v.snapshot.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, v.check(id)
	}
	if err != nil {
		return false, fmt.Errorf("state: shard %d: read %s: %w", id, what, err)
	}
	defer closer.Close()
	if err := decode(m, stored, what); err != nil {
		return false, &CorruptionError{Shard: id, Key: slices.Clone(key), Err: err}
	}
	return true, v.check(id)
}

func (v *View) meta(id placement.ShardID) (*shardMeta, error) {
	m := new(shardMeta)
	found, err := v.get(id, appendKey(nil, id, sectionMeta), m, "meta")
	if err == nil && !found {
		m.HistoryFloor = 1
	}
	return m, err
}

// Position returns the position of a shard; that of a new shard if there is none.
func (v *View) Position(id placement.ShardID) (Position, error) {
	m, err := v.meta(id)
	if err != nil {
		return Position{}, err
	}
	return position(m), nil
}

// Slots returns the slot table, an empty one before Bootstrap.
func (v *View) Slots(id placement.ShardID) (*storev1.SlotTable, error) {
	t := new(storev1.SlotTable)
	if _, err := v.get(id, appendKey(nil, id, sectionSlotTable), t, "slot table"); err != nil {
		return nil, err
	}
	return t, nil
}

// Configuration returns the membership, nil if none was applied.
func (v *View) Configuration(id placement.ShardID) (*storev1.Configuration, error) {
	c := new(storev1.Configuration)
	found, err := v.get(id, appendKey(nil, id, sectionConfiguration), c, "configuration")
	if err != nil || !found {
		return nil, err
	}
	return c, nil
}

// Get returns the record of a key, nil if the key does not exist.
func (v *View) Get(id placement.ShardID, key string) (*storev1.Record, error) {
	r, err := v.record(id, key)
	if err != nil || r == nil || r.GetTombstone() {
		return nil, err
	}
	return r, v.whole(id, key, r)
}

// record returns the record of a key, a tombstone too. A separated value is not in it.
func (v *View) record(id placement.ShardID, key string) (*record, error) {
	r := new(record)
	found, err := v.get(id, appendRecordKey(make([]byte, 0, sectionLen+len(key)), id, key), r, "record")
	if err != nil || !found {
		return nil, err
	}
	if r.GetReference() != nil {
		return nil, fmt.Errorf("shard %d, key %q: %w", id, key, ErrReference)
	}
	return r, nil
}

// checkRevision says whether the state at a revision can be read. That before the first history kept can: the history says what it replaced, so
// a write can show what it has found as long as it is in the history itself.
func (v *View) checkRevision(id placement.ShardID, revision uint64) error {
	m, err := v.meta(id)
	switch {
	case err != nil:
		return err
	case revision+1 < m.HistoryFloor:
		return &CompactedError{Revision: revision, Floor: m.HistoryFloor - 1}
	case revision > m.Revision:
		return &FutureRevisionError{Revision: revision, Current: m.Revision}
	}
	return nil
}

// GetAt returns the record that a key had at a revision, nil if it did not exist then. It follows the history back from the record of today, one
// read for each write since.
func (v *View) GetAt(id placement.ShardID, key string, revision uint64) (*storev1.Record, error) {
	if err := v.checkRevision(id, revision); err != nil {
		return nil, err
	}
	r, err := v.record(id, key)
	if err != nil {
		return nil, err
	}
	for r != nil && r.ModRevision > revision {
		if r, err = v.before(id, key, r.ModRevision); err != nil {
			return nil, err
		}
	}
	if r == nil || r.GetTombstone() {
		return nil, nil
	}
	return r, v.whole(id, key, r)
}

// before returns the record that the write of a key at a revision replaced, nil if there was none.
func (v *View) before(id placement.ShardID, key string, revision uint64) (*record, error) {
	at, h, err := v.history(id, revision)
	if err != nil {
		return nil, err
	}
	for _, c := range h.Changes {
		if c.Key != key {
			continue
		}
		r, err := replacedRecord(c, revision)
		if err != nil {
			return nil, &CorruptionError{Shard: id, Key: at, Err: err}
		}
		return r, nil
	}
	return nil, &CorruptionError{Shard: id, Key: at, Err: fmt.Errorf("no change of %q: %w", key, errMissing)}
}

// history reads what a revision has changed, and says under which key that is. The revision has written a record that is there, so its history is too.
func (v *View) history(id placement.ShardID, revision uint64) (at []byte, h *storev1.History, err error) {
	at, h = appendHistoryKey(nil, id, revision), new(storev1.History)
	found, err := v.get(id, at, h, "history")
	if err == nil && !found {
		err = &CorruptionError{Shard: id, Key: at, Err: errMissing}
	}
	return at, h, err
}

// replacedRecord is the record that a change of a revision replaced, nil if there was none.
func replacedRecord(c *storev1.History_Change, revision uint64) (*record, error) {
	if c.Before == nil {
		return nil, nil
	}
	r, err := readRecord(c.Before)
	if err == nil && r.ModRevision >= revision {
		err = fmt.Errorf("revision %d replaced one of %d", revision, r.ModRevision)
	}
	return r, err
}

// History calls fn with the history of the revisions from and up to to, both included, in order, and returns the revision to go on from. It
// ends early when maxBytes of history are passed, after at least one revision, or when fn returns an error.
func (v *View) History(id placement.ShardID, from, to, maxBytes uint64, fn func(revision uint64, h *storev1.History) error) (next uint64, err error) {
	m, err := v.meta(id)
	if err != nil {
		return from, err
	}
	if from < m.HistoryFloor {
		return from, &CompactedError{Revision: from, Floor: m.HistoryFloor}
	}
	to = min(to, m.Revision)
	if from > to {
		return from, nil
	}
	it, err := v.iterate(id, appendHistoryKey(nil, id, from), append(appendHistoryKey(nil, id, to), 0))
	if err != nil {
		return from, err
	}
	next = from
	size := uint64(0)
	for ok := it.First(); ok && (next == from || size < maxBytes); ok = it.Next() {
		n, err1 := readHistory(it, id, next, fn)
		if err = err1; err != nil {
			break
		}
		size += uint64(n)
		next++
	}
	err = errors.Join(err, it.Error(), it.Close())
	if err == nil && next == from {
		err = &CorruptionError{Shard: id, Key: appendHistoryKey(nil, id, from), Err: errMissing}
	}
	return next, err
}

// readHistory hands one revision over and returns its stored length.
func readHistory(it *pebble.Iterator, id placement.ShardID, want uint64, fn func(uint64, *storev1.History) error) (int, error) {
	revision, err := parseRevision(it.Key()[sectionLen:])
	if err == nil && revision != want {
		err = fmt.Errorf("revision %d follows, %d was expected", revision, want)
	}
	h := new(storev1.History)
	var stored []byte
	if err == nil {
		if stored, err = it.ValueAndErr(); err != nil {
			return 0, err
		}
		err = decode(h, stored, "history")
	}
	if err != nil {
		return 0, &CorruptionError{Shard: id, Key: slices.Clone(it.Key()), Err: err}
	}
	return len(stored), fn(revision, h)
}

// iterate opens an iterator, which then outlives a replacement of the shard.
func (v *View) iterate(id placement.ShardID, start, end []byte) (*pebble.Iterator, error) {
	it, err := v.snapshot.NewIter(&pebble.IterOptions{LowerBound: start, UpperBound: end})
	if err != nil {
		return nil, fmt.Errorf("state: shard %d: read: %w", id, err)
	}
	if err := v.check(id); err != nil {
		return nil, errors.Join(err, it.Close())
	}
	return it, nil
}

// Digests returns the digests of all slots as apply keeps them (R25).
func (v *View) Digests(id placement.ShardID) (*Digests, error) {
	d := new(Digests)
	err := v.each(id, sectionSlotSummary, func(rest, value []byte) error {
		slot, err := parseSlot(rest)
		if err != nil {
			return err
		}
		var s storev1.SlotSummary
		if err := decode(&s, value, "slot summary"); err != nil {
			return err
		}
		d[slot] = Digest{Low: s.DigestLow, High: s.DigestHigh}
		return nil
	})
	return d, err
}

// Recompute returns the digests of all slots from the records themselves. Separated values are read for that: one that is not what its record
// says is a *CorruptionError.
func (v *View) Recompute(id placement.ShardID) (*Digests, error) {
	d := new(Digests)
	err := v.each(id, sectionRecord, func(rest, value []byte) error {
		key := string(rest)
		d[placement.SlotOf(key)].add(hashRecord(key, value))
		r, err := readRecord(value)
		if err != nil {
			return err
		}
		return v.whole(id, key, r)
	})
	if err != nil {
		return d, err
	}
	return d, v.each(id, sectionLease, func(rest, value []byte) error {
		lease, err := parseLease(rest)
		if err != nil {
			return err
		}
		d[placement.SlotOfLease(lease)].add(hashLease(lease, value))
		return nil
	})
}

// each calls fn with the rest of the key and the value of every pair of a section.
func (v *View) each(id placement.ShardID, s section, fn func(rest, value []byte) error) error {
	it, err := v.iterate(id, appendKey(nil, id, s), appendKey(nil, id, s+1))
	if err != nil {
		return err
	}
	return eachPair(it, id, fn)
}

// eachPair calls fn with every pair of an iterator, and closes it.
func eachPair(it *pebble.Iterator, id placement.ShardID, fn func(rest, value []byte) error) error {
	var err error
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		value, err1 := it.ValueAndErr()
		if err = err1; err != nil {
			break
		}
		if err = fn(it.Key()[sectionLen:], value); err != nil {
			err = &CorruptionError{Shard: id, Key: slices.Clone(it.Key()), Err: err}
		}
	}
	return errors.Join(err, it.Error(), it.Close())
}
