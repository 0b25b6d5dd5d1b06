package state

import (
	"maps"
	"slices"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
)

const (
	put       = storev1.OperationKind_OPERATION_KIND_PUT
	deletion  = storev1.OperationKind_OPERATION_KIND_DELETE
	get       = storev1.OperationKind_OPERATION_KIND_GET
	applied   = storev1.WriteOutcome_WRITE_OUTCOME_APPLIED
	failed    = storev1.WriteOutcome_WRITE_OUTCOME_COMPARE_FAILED
	notServed = storev1.WriteOutcome_WRITE_OUTCOME_NOT_SERVING
	expired   = storev1.WriteOutcome_WRITE_OUTCOME_SESSION_EXPIRED
	noLease   = storev1.WriteOutcome_WRITE_OUTCOME_LEASE_NOT_FOUND

	fencesFull  = storev1.WriteOutcome_WRITE_OUTCOME_FENCES_FULL
	sessionFull = storev1.WriteOutcome_WRITE_OUTCOME_SESSION_FULL
	fenced      = storev1.WriteOutcome_WRITE_OUTCOME_FENCED
	keyReused   = storev1.WriteOutcome_WRITE_OUTCOME_IDEMPOTENCY_KEY_REUSED
	keysFull    = storev1.WriteOutcome_WRITE_OUTCOME_IDEMPOTENCY_FULL
)

// applyWrite executes a write: look for the answer to an earlier attempt first, then refuse what may have been forgotten, then what is not
// served here, then compare, then change one way or the other (R23, R17). What comes of the compares and the leases is an answer
// that a retry must get again; the rest says that this attempt did nothing, and is not kept.
func (sh *Shard) applyWrite(b *Batch, ordinal uint32, c *storev1.Command, w *storev1.Write, r *storev1.WriteResult) (*storev1.WriteResult, error) {
	var request dedupID
	id, home := c.RequestId, placement.SlotOf(firstKey(w))
	if id != nil {
		copy(request.client[:], id.ClientId)
		request.sequence = id.Sequence
		if planted.Is(planted.CompareBeforeLookup) { // R23
			if i, _, err := sh.compare(w.Compares); err != nil || i < len(w.Compares) {
				refuse(r, failed, sh.meta.Revision)
				return r, err
			}
		}
		if answer, err := sh.asked(&request, id, r); err != nil || answer != nil {
			return answer, err
		}
	}
	if c.Idempotency != nil {
		if answer, err := sh.askedByKey(c.Idempotency, r); err != nil || answer != nil {
			return answer, err
		}
	}
	if slot, ok := sh.unserved(w); ok {
		refuse(r, notServed, sh.meta.Revision)
		r.Slot = uint32(slot)
		return r, nil
	}
	if c.Idempotency != nil && sh.keysFull() {
		refuse(r, keysFull, sh.meta.Revision)
		return r, nil
	}
	if i, current, err := sh.compare(w.Compares); err != nil {
		return nil, err
	} else if i < len(w.Compares) {
		r.Operations = makeOperationResults(len(w.Otherwise))
		if err := sh.change(b, w.Otherwise, r); err != nil {
			return nil, err
		}
		if r.Outcome == applied {
			r.Outcome, r.FailedCompare, r.FailedModRevision = failed, uint32(i), current
		}
	} else if err := sh.change(b, w.Operations, r); err != nil {
		return nil, err
	}
	if id != nil {
		if err := sh.remember(b, &request, home, id.AckedBelow, ordinal, r); err != nil {
			return nil, err
		}
	}
	if c.Idempotency != nil {
		if err := sh.keepKeyed(b, c.Idempotency, home, r); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func refuse(r *storev1.WriteResult, outcome storev1.WriteOutcome, revision uint64) {
	r.Outcome, r.Revision, r.Operations = outcome, revision, nil
}

// firstKey decides under which slot the result is kept, whatever comes of the compares. A write of nothing is refused before.
func firstKey(w *storev1.Write) string {
	if len(w.Operations) > 0 {
		return w.Operations[0].Key
	}
	return w.Compares[0].Key
}

// unserved returns the first slot of a write that the shard does not serve.
func (sh *Shard) unserved(w *storev1.Write) (placement.Slot, bool) {
	if sh.id == placement.MetaShard {
		return 0, false
	}
	for _, c := range w.Compares {
		if slot := placement.SlotOf(c.Key); !sh.serves(slot) {
			return slot, true
		}
	}
	for _, ops := range [2][]*storev1.Operation{w.Operations, w.Otherwise} { // both: who is told to ask elsewhere must not depend on the compares
		for _, op := range ops {
			if slot := placement.SlotOf(op.Key); !sh.serves(slot) {
				return slot, true
			}
		}
	}
	return 0, false
}

// compare returns the index of the first compare that does not hold, or their number, and the revision of the last write of its key.
func (sh *Shard) compare(cs []*storev1.Compare) (i int, current uint64, err error) {
	for i, c := range cs {
		ok, current, err := sh.holds(c)
		if err != nil || !ok {
			return i, current, err
		}
	}
	return len(cs), 0, nil
}

// holds also returns the revision of the last write of the key, 0 if the key does not exist.
func (sh *Shard) holds(c *storev1.Compare) (ok bool, current uint64, err error) {
	stored, err := sh.stored(c.Key)
	if err != nil {
		return false, 0, err
	}
	var h recordHead
	if stored != nil {
		if h, err = readHead(stored); err != nil {
			return false, 0, sh.damage(err)
		}
	}
	if h.live() {
		current = h.mod
	}
	switch want := c.Condition.(type) {
	case *storev1.Compare_Exists:
		return h.live() == want.Exists, current, nil
	case *storev1.Compare_ModRevision:
		return current == want.ModRevision, current, nil
	case *storev1.Compare_Value:
		if h.live() {
			ok, err = sh.valueIs(c.Key, &h, want.Value)
		}
		return ok, current, err
	default:
		return false, 0, ErrInvalidEntry
	}
}

// change executes the operations under one revision, or under none if they change nothing.
func (sh *Shard) change(b *Batch, ops []*storev1.Operation, r *storev1.WriteResult) error {
	if missing, err := sh.missingLease(ops); err != nil || missing != 0 {
		refuse(r, noLease, sh.meta.Revision)
		r.LeaseId = missing
		return err
	}
	revision := sh.meta.Revision + 1
	h := &sh.scratch.history
	h.Changes, sh.scratch.before = h.Changes[:0], sh.scratch.before[:0]
	separatedBytes := uint64(0)
	for i, op := range ops {
		if op.Kind == get {
			continue // The requester reads it at the revision of the result.
		}
		c := sh.scratch.at(len(h.Changes))
		changed, err := sh.operate(b, op, revision, c, r.Operations[i])
		if err != nil {
			return err
		}
		if changed {
			h.Changes = append(h.Changes, c)
			separatedBytes += separatedLen(op.Value)
		}
	}
	sh.done(r)
	if len(h.Changes) == 0 {
		return nil
	}
	if planted.Is(planted.HistoryMissing) {
		h.Changes = h.Changes[:1] // R22
	}
	if planted.Is(planted.MapOrder) {
		h.Changes = slices.Collect(maps.Values(maps.Collect(slices.All(h.Changes)))) // R20
	}
	sh.meta.Revision, r.Revision = revision, revision
	h.ClockMs, h.Offset = sh.meta.ClockMs, sh.meta.HistoryEnd
	sh.key = appendHistoryKey(sh.key[:0], sh.id, revision)
	stored, err := b.set(sh.key, h)
	if err != nil {
		return err
	}
	sh.overlay.addHistory(revision, h.Offset)
	sh.meta.HistoryEnd += uint64(len(stored)) + separatedBytes
	return nil
}

// at returns the i-th change, made when it is first needed.
func (s *scratch) at(i int) *storev1.History_Change {
	if i == len(s.changes) {
		s.changes = append(s.changes, new(storev1.History_Change))
	}
	return s.changes[i]
}

// keep copies the record that a change replaced, which is readable only for now.
func (s *scratch) keep(stored []byte) []byte {
	from := len(s.before)
	s.before = append(s.before, stored...)
	return s.before[from:len(s.before):len(s.before)]
}

// operate executes one operation: it fills c and r, and says whether it changed anything.
func (sh *Shard) operate(b *Batch, op *storev1.Operation, revision uint64, c *storev1.History_Change, r *storev1.OperationResult) (bool, error) {
	slot := placement.SlotOf(op.Key)
	before, err := sh.stored(op.Key)
	if err != nil {
		return false, err
	}
	var old recordHead
	if before != nil {
		if old, err = readHead(before); err != nil {
			return false, sh.damage(err)
		}
	}
	r.Existed = old.live()
	if op.Kind == deletion && !old.live() {
		return false, nil
	}
	rec := sh.scratch.leave(op, &old, revision)
	sh.live(rec, op)
	if len(op.Value) >= separateBytes {
		if rec.Content, err = sh.separate(b, op.Key, op.Value, revision); err != nil {
			return false, err
		}
	}
	after, err := b.set(sh.key, rec)
	if err != nil {
		return false, err
	}
	sh.overlay.records[op.Key] = after
	c.Key, c.After, c.Before, c.Expired = op.Key, after, nil, sh.scratch.expiring
	if err := sh.reindex(b, op.Key, &old, rec); err != nil {
		return false, err
	}
	if before != nil {
		c.Before = sh.scratch.keep(before)
		if !planted.Is(planted.DigestNotUpdated) { // R25
			sh.touch(slot).digest.remove(hashRecord(op.Key, before))
		}
	}
	sh.touch(slot).digest.add(hashRecord(op.Key, after))
	sh.recent.put(op.Key, after, sh.store.recentBytes()) // behind the last look at before, which may be there
	if old.separated {
		if err := sh.replaceValue(b, revision, op.Key, &old); err != nil {
			return false, err
		}
	}
	if op.Kind == deletion {
		sh.meta.Keys--
		return true, sh.markTombstone(b, revision, op.Key)
	}
	r.CreateRevision, r.Version = rec.CreateRevision, rec.Version
	if old.live() {
		return true, nil
	}
	sh.meta.Keys++
	if old.tombstone {
		return true, sh.unmarkTombstone(b, old.mod, op.Key)
	}
	return true, nil
}

// leave makes the record that an operation leaves. A deleted key keeps one until history has passed the deletion: reads at old
// revisions begin at it.
func (s *scratch) leave(op *storev1.Operation, old *recordHead, revision uint64) *record {
	rec := &s.record
	rec.ModRevision = revision
	if op.Kind == deletion {
		rec.CreateRevision, rec.Version, rec.Tombstone, rec.Content = 0, 0, true, nil
		return rec
	}
	rec.CreateRevision, rec.Version, rec.Tombstone = revision, 1, false
	if old.live() {
		rec.CreateRevision, rec.Version = old.create, old.version+1
	}
	s.value.Value = op.Value
	rec.Content = &s.value
	return rec
}

// stored returns the record of a key as the open batch leaves it, nil if there is none, and leaves its key in sh.key. The record may be read
// until the next one is asked for, or written.
func (sh *Shard) stored(key string) ([]byte, error) {
	sh.key = appendRecordKey(sh.key[:0], sh.id, key)
	if stored, ok := sh.overlay.records[key]; ok {
		return stored, nil
	}
	if stored := sh.recent.get(key); stored != nil {
		return stored, nil
	}
	return sh.open.lookup.find(sh.key)
}
