package state

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"github.com/cespare/xxhash/v2"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// verifier checks that the pairs of a snapshot are the state of a shard: what load and Apply rely on. Checksums tell that a stream arrived as it
// was sent; this tells that what was sent is whole.
type verifier struct {
	header   *storev1.SnapshotHeader
	previous []byte

	meta          *shardMeta
	configuration *storev1.Configuration
	kept, records Digests // as stored, and as computed
	keys          uint64
	lastRecord    uint64 // the highest mod revision

	firstHistory, lastHistory uint64
	historyStart, historyEnd  uint64 // offsets
	firstNote                 uint64 // the lowest revision in the sections w and x
	tombstones, marks         Digest // the tombstones among the records, and those that are marked
	values, references        Digest // the separated values, and what refers to them: records, and replaced values
	due, dueMarks             Digest // what has a deadline: keys and leases, and the indexes of both
	leased, leasedMarks       Digest // the keys that hang on a lease, and their index
	leasedKeys, leases        uint64
	keyedDue, keyedMarks      Digest // the results under idempotency keys, and the index of their deadlines
	keyedResults, keyedBytes  uint64
	requests                  map[dedupID]struct{}
	lastResult                uint64
}

func (v *verifier) begin(h *storev1.SnapshotHeader) error {
	if h.Index == 0 {
		return badStream("it is of index 0", nil)
	}
	v.header, v.firstNote, v.requests = h, math.MaxUint64, make(map[dedupID]struct{})
	return nil
}

// pair checks one pair; the key has no shard prefix.
func (v *verifier) pair(key, value []byte) error {
	if len(key) == 0 || (v.previous != nil && bytes.Compare(key, v.previous) <= 0) {
		return badStream(fmt.Sprintf("key %x is out of order", key), nil)
	}
	v.previous = append(v.previous[:0], key...)
	if err := v.check(section(key[0]), key[1:], value); err != nil {
		return badStream(fmt.Sprintf("key %x", key), err)
	}
	return nil
}

func (v *verifier) check(s section, rest, value []byte) error {
	switch s {
	case sectionConfiguration:
		v.configuration = new(storev1.Configuration)
		return single(rest, v.configuration, value, "configuration")
	case sectionDedup:
		return v.dedup(rest, value)
	case sectionHistory:
		return v.history(rest, value)
	case sectionRecord:
		return v.record(rest, value)
	case sectionLeased, sectionDue, sectionKeyedDue:
		return v.indexed(s, rest, value)
	case sectionKeyed:
		return v.keyed(rest, value)
	case sectionLeaseDue:
		deadline, id, err := parseLeaseDue(rest)
		v.dueMarks.add(hashMark(deadline, id, nil))
		return err
	case sectionLease:
		return v.lease(rest, value)
	case sectionMeta:
		v.meta = new(shardMeta)
		return single(rest, v.meta, value, "meta")
	case sectionSlotTable:
		t := new(storev1.SlotTable)
		if err := single(rest, t, value, "slot table"); err != nil {
			return err
		}
		_, err := expandSlots(t)
		return err
	case sectionSlotSummary:
		return v.summary(rest, value)
	case sectionValue, sectionReplaced, sectionTombstone:
		return v.noted(s, rest, value)
	default:
		return errBadKey
	}
}

// single decodes what a section of one key holds.
func single(rest []byte, m decoder, value []byte, what string) error {
	if len(rest) != 0 {
		return errBadKey
	}
	return decode(m, value, what)
}

func (v *verifier) dedup(rest, value []byte) error {
	index, _, err := parseDedup(rest)
	if err != nil {
		return err
	}
	v.lastResult = index // they stand in this order
	id, _, err := readResult(value)
	if err != nil {
		return err
	}
	if _, twice := v.requests[id]; twice {
		return errTwoResults
	}
	v.requests[id] = struct{}{}
	return nil
}

func (v *verifier) history(rest, value []byte) error {
	revision, err := parseRevision(rest)
	if err != nil {
		return err
	}
	if v.firstHistory != 0 && revision != v.lastHistory+1 {
		return fmt.Errorf("revision %d does not follow %d", revision, v.lastHistory)
	}
	h := new(storev1.History)
	if err := decode(h, value, "history"); err != nil {
		return err
	}
	if v.firstHistory == 0 {
		v.firstHistory, v.historyStart, v.historyEnd = revision, h.Offset, h.Offset
	}
	if h.Offset != v.historyEnd {
		return fmt.Errorf("offset %d, not %d", h.Offset, v.historyEnd)
	}
	v.lastHistory = revision
	v.historyEnd += uint64(len(value))
	if len(h.Changes) == 0 {
		return errors.New("history of no change")
	}
	for _, c := range h.Changes {
		if err := v.change(c, revision); err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) change(c *storev1.History_Change, revision uint64) error {
	if err := checkKey(c.Key); err != nil {
		return fmt.Errorf("key %w", err)
	}
	after, err := readRecord(c.After)
	if err != nil {
		return err
	}
	v.historyEnd += after.GetSeparated().GetLength()
	before := new(record)
	if c.Before != nil {
		if before, err = readRecord(c.Before); err != nil {
			return err
		}
	}
	if after.ModRevision != revision || before.ModRevision >= revision {
		return errors.New("history with a change that is not of its revision")
	}
	return nil
}

func (v *verifier) record(rest, value []byte) error {
	key := string(rest)
	if err := checkKey(key); err != nil {
		return fmt.Errorf("key %w", err)
	}
	h, err := readHead(value)
	if err != nil {
		return err
	}
	if h.live() {
		v.keys++
	} else {
		v.tombstones.add(hashMark(h.mod, 0, rest))
	}
	if h.separated {
		v.references.add(hashMark(h.mod, h.hash, rest))
	}
	if h.deadline != 0 {
		v.due.add(hashMark(h.deadline, 0, rest))
	}
	if h.lease != 0 {
		v.leasedKeys++
		v.leased.add(hashMark(h.lease, 0, rest))
	}
	if (h.deadline != 0 || h.lease != 0) && !h.live() || h.deadline != 0 && h.lease != 0 {
		return errors.New("record with a time to live that it can not have")
	}
	v.lastRecord = max(v.lastRecord, h.mod)
	v.records[placement.SlotOf(key)].add(hashRecord(key, value))
	return decode(new(record), value, "record")
}

// keyed takes a result under an idempotency key.
func (v *verifier) keyed(rest, value []byte) error {
	r, err := readKeyed(value)
	if err != nil {
		return err
	}
	if err := checkIdempotencyKey(string(rest)); err != nil {
		return err
	}
	v.keyedResults++
	v.keyedBytes += uint64(len(rest) + len(value))
	v.keyedDue.add(hashMark(r.DeadlineMs, 0, rest))
	return nil
}

// indexed takes a pair of the sections a, e and j.
func (v *verifier) indexed(s section, rest, value []byte) error {
	number, key, err := parseRevisionKey(rest)
	if err != nil {
		return err
	}
	if len(value) != 0 {
		return errors.New("index with a value")
	}
	switch s {
	case sectionDue:
		v.dueMarks.add(hashMark(number, 0, key))
	case sectionKeyedDue:
		v.keyedMarks.add(hashMark(number, 0, key))
	default:
		v.leasedMarks.add(hashMark(number, 0, key))
	}
	return nil
}

func (v *verifier) lease(rest, value []byte) error {
	id, err := parseLease(rest)
	if err != nil {
		return err
	}
	l, err := readLease(value)
	if err != nil {
		return err
	}
	v.leases++
	v.due.add(hashMark(l.DeadlineMs, id, nil))
	v.records[placement.SlotOfLease(id)].add(hashLease(id, value))
	return nil
}

// noted takes a pair of the sections v, w and x.
func (v *verifier) noted(s section, rest, value []byte) error {
	revision, key, err := parseRevisionKey(rest)
	if err != nil {
		return err
	}
	if err := checkKey(string(key)); err != nil {
		return fmt.Errorf("key %w", err)
	}
	switch s {
	case sectionValue:
		if len(value) < separateBytes {
			return errBadValue
		}
		v.values.add(hashMark(revision, xxhash.Sum64(value), key))
		return nil
	case sectionReplaced:
		old, hash, err := parseReplaced(value)
		if err != nil {
			return err
		}
		v.references.add(hashMark(old, hash, key))
	default:
		if len(value) != 0 {
			return errors.New("tombstone with a value")
		}
		v.marks.add(hashMark(revision, 0, key))
	}
	v.firstNote = min(v.firstNote, revision)
	return nil
}

// hashMark is what the verifier sums up, to see that two sets are the same.
func hashMark(revision, hash uint64, key []byte) Digest {
	return hashRecord(string(key), appendReplaced(nil, revision, hash))
}

func (v *verifier) summary(rest, value []byte) error {
	slot, err := parseSlot(rest)
	if err != nil {
		return err
	}
	s := new(storev1.SlotSummary)
	if err := decode(s, value, "slot summary"); err != nil {
		return err
	}
	v.kept[slot] = Digest{Low: s.DigestLow, High: s.DigestHigh}
	return nil
}

// end checks what needs the whole.
func (v *verifier) end() error {
	m, h := v.meta, v.header
	switch {
	case m == nil:
		return badStream("no position in it", nil)
	case m.AppliedIndex != h.Index || m.AppliedTerm != h.Term:
		return badStream("its position is not that of its header", nil)
	case m.CommandVersion > CommandVersion:
		return &VersionError{Need: m.CommandVersion, Have: CommandVersion}
	case !sameConfiguration(v.configuration, h.Configuration):
		return badStream("its configuration is not that of its header", nil)
	case m.HistoryFloor == 0 || m.HistoryFloor > m.Revision+1:
		return badStream("the floor of its history is impossible", nil)
	case m.HistoryFloor <= m.Revision && (v.firstHistory != m.HistoryFloor || v.lastHistory != m.Revision),
		m.HistoryFloor <= m.Revision && (v.historyStart != m.HistoryStart || v.historyEnd != m.HistoryEnd),
		m.HistoryFloor > m.Revision && (v.firstHistory != 0 || m.HistoryStart != m.HistoryEnd):
		return badStream("its history is not whole", nil)
	case v.tombstones != v.marks || v.firstNote < m.HistoryFloor:
		return badStream("its tombstones are not whole", nil)
	case v.values != v.references:
		return badStream("its values are not whole", nil)
	case v.due != v.dueMarks || v.leased != v.leasedMarks || v.leasedKeys != m.LeasedKeys || v.leases != m.Leases:
		return badStream("its deadlines and leases are not whole", nil)
	case v.keyedDue != v.keyedMarks || v.keyedResults != m.KeyedResults || v.keyedBytes != m.KeyedBytes:
		return badStream("its results under idempotency keys are not whole", nil)
	case v.keys != m.Keys || v.lastRecord > m.Revision:
		return badStream("its keys are not whole", nil)
	case v.lastResult > m.AppliedIndex:
		return badStream("it has results of later entries", nil)
	case v.kept != v.records:
		return badStream("the digests of its slots are not those of its records", nil)
	}
	return nil
}

func sameConfiguration(a, b *storev1.Configuration) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, err := a.MarshalVT()
	y, err1 := b.MarshalVT()
	return err == nil && err1 == nil && bytes.Equal(x, y)
}
