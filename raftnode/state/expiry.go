package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
)

// TTLMillisMax bounds the time to live of a key or lease: ten years.
const TTLMillisMax = 10 * 365 * 24 * 3600 * 1000

var errIndex = errors.New("the index names a key that is not there")

// checkLife checks how long an operation lets its key live.
func checkLife(op *storev1.Operation) error {
	switch {
	case op.Kind != put && (op.TtlMs != 0 || op.Lease != 0):
		return errors.New("is no put and has a time to live")
	case op.TtlMs != 0 && op.Lease != 0:
		return errors.New("has a time to live and a lease")
	case op.TtlMs > TTLMillisMax:
		return fmt.Errorf("lives for %d ms, the limit is %d", op.TtlMs, uint64(TTLMillisMax))
	case op.LeaseEnded && op.Lease == 0:
		return errors.New("hangs on no lease that could have ended")
	case op.Lease > math.MaxInt64:
		return errors.New("hangs on a lease of more than 63 bits")
	default:
		return nil
	}
}

func checkExpire(c *storev1.Expire) error {
	if c == nil || c.MaxKeys == 0 {
		return fmt.Errorf("%w: an expiry of nothing", ErrInvalidEntry)
	}
	last := uint64(0)
	for _, id := range c.Leases {
		if id <= last {
			return fmt.Errorf("%w: the leases of an expiry are out of order", ErrInvalidEntry)
		}
		last = id
	}
	return nil
}

// deadline is the clock at which the time of what begins now has passed. The clock counts whole milliseconds: it may have stood still for nearly one
// of them, which the last one makes up for (R19: late, never early).
func (sh *Shard) deadline(ttlMs uint64) uint64 {
	if planted.Is(planted.EarlyExpiry) { // R19
		return sh.meta.ClockMs + ttlMs - ttlMs/4
	}
	if room := never - 1 - min(never-1, sh.meta.ClockMs); ttlMs >= room {
		return never - 1
	}
	return sh.meta.ClockMs + ttlMs + 1
}

// dueSpan returns the bounds of what is due in an index of deadlines.
func (sh *Shard) dueSpan(s section) (start, end []byte) {
	if sh.meta.ClockMs >= never-1 {
		return sectionSpan(sh.id, s)
	}
	return appendKey(nil, sh.id, s), appendRevisionKey(nil, sh.id, s, sh.meta.ClockMs+1, "")
}

// live says in a record how long it lives. A put without either lives for ever, whatever the key did before.
func (sh *Shard) live(rec *record, op *storev1.Operation) {
	rec.Lease, rec.DeadlineMs = op.Lease, 0
	if op.TtlMs != 0 {
		rec.DeadlineMs = sh.deadline(op.TtlMs)
	}
}

// reindex keeps the indexes of deadlines and leases in step with a record that replaces another.
func (sh *Shard) reindex(b *Batch, key string, old *recordHead, now *record) error {
	if old.deadline != now.DeadlineMs {
		if err := sh.index(b, sectionDue, old.deadline, now.DeadlineMs, key); err != nil {
			return err
		}
	}
	if old.lease == now.Lease {
		return nil
	}
	if old.lease != 0 {
		sh.meta.LeasedKeys--
	}
	if now.Lease != 0 {
		sh.meta.LeasedKeys++
	}
	return sh.index(b, sectionLeased, old.lease, now.Lease, key)
}

// index moves a key in an index from one number to another; 0 is nowhere.
func (sh *Shard) index(b *Batch, s section, from, to uint64, key string) error {
	if from != 0 {
		sh.key = appendRevisionKey(sh.key[:0], sh.id, s, from, key)
		if err := sh.unmark(b); err != nil {
			return err
		}
	}
	if to == 0 {
		return nil
	}
	sh.key = appendRevisionKey(sh.key[:0], sh.id, s, to, key)
	return sh.mark(b)
}

// mark sets the pair of an index whose key is in sh.key.
func (sh *Shard) mark(b *Batch) error {
	sh.overlay.index[string(sh.key)] = true
	sh.due.set(sh.key)
	_, err := b.setBytes(sh.key, nil)
	return err
}

// unmark removes it.
func (sh *Shard) unmark(b *Batch) error {
	sh.overlay.index[string(sh.key)] = false
	sh.due.remove(sh.key)
	return b.delete(sh.key)
}

// indexed returns the first keys of an index from start up to end, with what the open batch has done to it, at most most of those that fit.
func (sh *Shard) indexed(start, end []byte, most int, fits func(key []byte) bool) ([]string, error) {
	it, err := sh.store.db.NewIter(&pebble.IterOptions{LowerBound: start, UpperBound: end})
	if err != nil {
		return nil, fmt.Errorf("state: shard %d: read an index: %w", sh.id, err)
	}
	var found []string
	for ok := it.First(); ok && len(found) < most; ok = it.Next() {
		if _, touched := sh.overlay.index[string(it.Key())]; !touched && fits(it.Key()) {
			found = append(found, string(it.Key()))
		}
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return nil, fmt.Errorf("state: shard %d: read an index: %w", sh.id, err)
	}
	for key, there := range sh.overlay.index { // sorted below (R20)
		if there && key >= string(start) && key < string(end) && fits([]byte(key)) {
			found = append(found, key)
		}
	}
	slices.Sort(found)
	return found[:min(len(found), most)], nil
}

// servedKey says whether the key of a pair of the sections a and e is one that the shard may change (R17).
func (sh *Shard) servedKey(key []byte) bool {
	return sh.serves(placement.SlotOf(string(key[sectionLen+8:])))
}

// removal is what an expiry is about to remove.
type removal struct {
	keys []*storev1.Operation
	// room is how much more it may take.
	room int
	more bool
}

// take adds keys of an index from start up to end, and says whether that were all of them.
func (sh *Shard) take(x *removal, start, end []byte) (all bool, err error) {
	found, err := sh.indexed(start, end, x.room+1, sh.servedKey)
	if err != nil {
		return false, err
	}
	all = len(found) <= x.room
	if !all {
		found, x.more = found[:x.room], true
	}
	for _, key := range found {
		x.keys = append(x.keys, &storev1.Operation{Kind: deletion, Key: key[sectionLen+8:]})
	}
	x.room -= len(found)
	return all, nil
}

// takeLeased adds the keys of a lease.
func (sh *Shard) takeLeased(x *removal, lease uint64) (all bool, err error) {
	return sh.take(x, appendRevisionKey(nil, sh.id, sectionLeased, lease, ""), appendRevisionKey(nil, sh.id, sectionLeased, lease+1, ""))
}

// expire removes what is due, as one revision.
func (sh *Shard) expire(b *Batch, c *storev1.Expire, r *storev1.WriteResult) error {
	x := &removal{room: int(c.MaxKeys)}
	for _, id := range c.Leases {
		if sh.serves(placement.SlotOfLease(id)) {
			continue // Its record is here, and says when it ends.
		}
		if _, err := sh.takeLeased(x, id); err != nil {
			return err
		}
	}
	if err := sh.endLeases(b, x); err != nil {
		return err
	}
	start, end := sh.dueSpan(sectionDue)
	if _, err := sh.take(x, start, end); err != nil {
		return err
	}
	if err := sh.forgetKeyed(b, x); err != nil {
		return err
	}
	r.More = x.more
	return sh.remove(b, x, r)
}

// remove removes keys that no client deletes.
func (sh *Shard) remove(b *Batch, x *removal, r *storev1.WriteResult) error {
	parts := make([]storev1.OperationResult, len(x.keys))
	r.Operations = make([]*storev1.OperationResult, len(x.keys))
	for i := range parts {
		r.Operations[i] = &parts[i]
	}
	sh.scratch.expiring = true
	err := sh.change(b, x.keys, r)
	sh.scratch.expiring = false
	r.Operations = nil
	for i := range parts {
		if err == nil && !parts[i].Existed {
			sh.key = appendRecordKey(sh.key[:0], sh.id, x.keys[i].Key)
			err = sh.damage(errIndex)
		}
	}
	sh.expiredKeys.Add(uint64(len(parts)))
	return err
}

// Expired returns how many keys have gone since the store was opened because their time had passed or their lease had ended. Any goroutine may call it.
func (sh *Shard) Expired() uint64 { return sh.expiredKeys.Load() }

// soonest knows the first deadline of keys, that of leases and that of results under idempotency keys. It is derived from what is stored.
type soonest struct{ keys, leases, results first }

// first is the first deadline of an index: exact after a commit, and not above the right one before.
type first struct {
	deadline uint64 // never for none
	stale    bool   // that deadline has been removed
}

const never = uint64(math.MaxUint64)

func nothingDue() soonest {
	return soonest{first{deadline: never}, first{deadline: never}, first{deadline: never}}
}

// of returns what is known of the index of a key, nil if it has no deadlines.
func (s *soonest) of(key []byte) *first {
	switch section(key[shardPrefixLen]) {
	case sectionDue:
		return &s.keys
	case sectionLeaseDue:
		return &s.leases
	case sectionKeyedDue:
		return &s.results
	default:
		return nil
	}
}

func (s *soonest) set(key []byte) {
	if f := s.of(key); f != nil {
		f.deadline = min(f.deadline, binary.BigEndian.Uint64(key[sectionLen:]))
	}
}

func (s *soonest) remove(key []byte) {
	if f := s.of(key); f != nil && binary.BigEndian.Uint64(key[sectionLen:]) == f.deadline {
		f.stale = true
	}
}

// next returns the first deadline of all, 0 if there is none.
func (s *soonest) next() uint64 {
	if d := min(s.keys.deadline, s.leases.deadline, s.results.deadline); d != never {
		return d
	}
	return 0
}

// loadDue finds the first deadlines.
func (sh *Shard) loadDue() error {
	if planted.Is(planted.DeadlinesForgotten) { // R19
		return nil
	}
	sh.due = soonest{first{stale: true}, first{stale: true}, first{stale: true}}
	return sh.findDue()
}

// findDue makes the first deadlines exact, after a commit that has removed one. It begins at the last one: what has been removed before is not passed again.
func (sh *Shard) findDue() error {
	for _, x := range []struct {
		s section
		f *first
	}{{sectionDue, &sh.due.keys}, {sectionLeaseDue, &sh.due.leases}, {sectionKeyedDue, &sh.due.results}} {
		if !x.f.stale {
			continue
		}
		it, err := sh.store.db.NewIter(&pebble.IterOptions{
			LowerBound: appendRevisionKey(nil, sh.id, x.s, x.f.deadline, ""), UpperBound: appendKey(nil, sh.id, x.s+1),
		})
		if err != nil {
			return fmt.Errorf("state: shard %d: read deadlines: %w", sh.id, err)
		}
		*x.f = first{deadline: never}
		if it.First() {
			rest := it.Key()[sectionLen:]
			if len(rest) < 9 {
				err = &CorruptionError{Shard: sh.id, Key: slices.Clone(it.Key()), Err: errBadKey}
			} else {
				x.f.deadline = binary.BigEndian.Uint64(rest)
			}
		}
		if err := errors.Join(err, it.Error(), it.Close()); err != nil {
			return fmt.Errorf("state: shard %d: read deadlines: %w", sh.id, err)
		}
	}
	return nil
}

// NextDeadline returns the first clock at which something of the shard is due, as of the last commit; 0 if nothing ever is.
func (sh *Shard) NextDeadline() uint64 { return sh.committed.Load().deadline }
