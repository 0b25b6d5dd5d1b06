package state

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/raftkv/raftkv/raftnode/failpoint"
	"github.com/raftkv/raftkv/raftnode/planted"
)

const (
	batchBytes         = 1 << 20
	batchBytesRetained = 16 << 20
)

// Batch is one round of applying: entries of any number of shards. Everything that they change, the positions included, becomes visible,
// and after a crash is there, as a whole (R1). One goroutine uses it; after Commit it is empty and can be used again.
type Batch struct {
	store *Store
	pb    *pebble.Batch
	// history has the changes of the history sections, results and forgotten those of the results of requests. They are appended to pb at
	// the commit: the memtable takes neighbours in a row much faster than neighbours that are far apart in the batch, and each of these
	// is written in order.
	history, results, forgotten *pebble.Batch
	shards                      []*Shard // with changes, by their first one
	lookup                      lookup
}

// NewBatch returns an empty batch. It costs little to keep and reuse it.
func (s *Store) NewBatch() *Batch {
	options := []pebble.BatchOption{pebble.WithInitialSizeBytes(batchBytes), pebble.WithMaxRetainedSizeBytes(batchBytesRetained)}
	b := &Batch{
		store: s, pb: s.db.NewBatch(options...),
		history: s.db.NewBatch(options...), results: s.db.NewBatch(options...), forgotten: s.db.NewBatch(options...),
		lookup: lookup{store: s},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches = append(s.batches, b)
	return b
}

// Bytes is the size of what the batch holds.
func (b *Batch) Bytes() int {
	return b.pb.Len() + b.history.Len() + b.results.Len() + b.forgotten.Len()
}

// Commit makes the batch visible. It is durable once DurableApplied says so. An error is fatal (R6).
func (b *Batch) Commit() error {
	if err := b.store.fatal.err(); err != nil {
		return err
	}
	if err := b.commit(); err != nil {
		b.store.fatal.fail(fmt.Errorf("commit: %w", err))
		return b.store.fatal.err()
	}
	return nil
}

func (b *Batch) commit() error {
	if err := b.lookup.close(); err != nil {
		return err
	}
	for _, sh := range b.shards {
		if err := sh.finish(b); err != nil {
			return err
		}
	}
	runs := []*pebble.Batch{b.history, b.results, b.forgotten} // in this order: a result may be forgotten in the batch that keeps it
	for _, run := range runs {
		if planted.Is(planted.TwoBatches) { // R1
			if err := b.store.write(run); err != nil {
				return err
			}
			continue
		}
		if err := b.pb.Apply(run, nil); err != nil {
			return err
		}
	}
	if err := b.store.write(b.pb); err != nil {
		return err
	}
	b.pb.Reset()
	for _, run := range runs {
		run.Reset()
	}
	for i, sh := range b.shards {
		if err := sh.findDue(); err != nil {
			return err
		}
		sh.publish()
		sh.overlay.clear()
		sh.open = nil
		b.shards[i] = nil
	}
	b.shards = b.shards[:0]
	return nil
}

// write is the only door to Pebble for what is applied: one call for each Batch (R1).
func (s *Store) write(pb *pebble.Batch) error {
	if s.beforeWrite != nil {
		s.beforeWrite()
	}
	failpoint.Hit(failpoint.ApplyBeforeCommit)
	err := pb.Commit(pebble.NoSync)
	failpoint.Hit(failpoint.ApplyAfterCommit)
	return err
}

// finish writes what a batch holds once per shard: the slot summaries, and the position that makes the rest count (R9).
func (sh *Shard) finish(b *Batch) error {
	slices.Sort(sh.touched) // neighbours in a row, as with history
	for _, slot := range sh.touched {
		s := &sh.summaries[slot]
		m := &sh.scratch.summary
		m.DigestLow, m.DigestHigh = s.digest.Low, s.digest.High
		sh.key = appendSlotSummaryKey(sh.key[:0], sh.id, slot)
		if _, err := b.set(sh.key, m); err != nil {
			return err
		}
		s.dirty = false
	}
	sh.touched = sh.touched[:0]
	sh.key = appendKey(sh.key[:0], sh.id, sectionMeta)
	if planted.Is(planted.AppliedIndexBehind) { // R9
		sh.meta.AppliedIndex--
		defer func() { sh.meta.AppliedIndex++ }()
	}
	_, err := b.set(sh.key, &sh.meta)
	return err
}

// set encodes a message right into the batch. What it returns is readable until the commit.
func (b *Batch) set(key []byte, m encoder) ([]byte, error) {
	op := b.part(key).SetDeferred(len(key), encodedLen(m))
	copy(op.Key, key)
	if err := encodeTo(op.Value, m); err != nil {
		return nil, err
	}
	return op.Value, op.Finish()
}

// setBytes sets a key to a value as it is. What it returns is readable until the commit.
func (b *Batch) setBytes(key, value []byte) ([]byte, error) {
	op := b.part(key).SetDeferred(len(key), len(value))
	copy(op.Key, key)
	copy(op.Value, value)
	return op.Value, op.Finish()
}

// delete removes a key. The answer to a request is written once under its key, which has the index of its entry, and so a removal that takes one write along is enough for it: both vanish
// at the flush, where an ordinary one would stay until the last level is compacted, one for every write there ever was.
func (b *Batch) delete(key []byte) error {
	if section(key[shardPrefixLen]) == sectionDedup {
		return b.forgotten.SingleDelete(key, nil)
	}
	return b.part(key).Delete(key, nil)
}

// deleteRange removes the keys from start up to end, which are of one section and end excluded.
func (b *Batch) deleteRange(start, end []byte) error {
	return b.part(start).DeleteRange(start, end, nil)
}

// part returns the batch for a key: always the same, so that changes of one key keep their order.
func (b *Batch) part(key []byte) *pebble.Batch {
	switch section(key[shardPrefixLen]) {
	case sectionHistory:
		return b.history
	case sectionDedup:
		return b.results
	default:
		return b.pb
	}
}

// overlay is what the open batch changed of a shard, as far as Apply reads it again. Pebble's own indexed batch would index every pair.
type overlay struct {
	// records by key; nil for those that were removed.
	records map[string][]byte
	// values separated from those records, by key.
	values map[string][]byte
	// offsets of the histories made in the batch, from firstRevision on.
	offsets       []uint64
	firstRevision uint64
	// tombstones made in the batch, in order, with those that a put or a trim has removed again; replaced are the separated values that the
	// batch replaced, likewise.
	tombstones []tombstone
	replaced   []replaced
	// results kept in the batch. They are looked up for a retry that is in one batch with its first attempt, which is rare enough
	// to search through.
	results []keptResult
	// index has the pairs of the sections a, e, f and j that the batch has set (true) or removed; leases the stored leases, nil for those that
	// were removed.
	index  map[string]bool
	leases map[uint64][]byte
	// keyed has the stored results by idempotency key that the batch has set; nil for those that were removed.
	keyed map[string][]byte
}

// tombstone names a record that says that its key was deleted at a revision.
type tombstone struct {
	revision uint64
	key      string
}

// replaced names a separated value that nobody needs any more once the history of the revision that replaced it goes.
type replaced struct {
	by  uint64
	key string
	old uint64 // the revision that wrote it
}

type keptResult struct {
	id     dedupID
	stored []byte
}

func (o *overlay) init() {
	*o = overlay{
		records: make(map[string][]byte), values: make(map[string][]byte), index: make(map[string]bool), leases: make(map[uint64][]byte),
		keyed: make(map[string][]byte),
	}
}

func (o *overlay) clear() {
	clear(o.records)
	clear(o.values)
	clear(o.index)
	clear(o.leases)
	clear(o.keyed)
	clear(o.tombstones)
	clear(o.replaced)
	clear(o.results)
	o.offsets, o.tombstones, o.replaced, o.results = o.offsets[:0], o.tombstones[:0], o.replaced[:0], o.results[:0]
}

// result returns the stored result of a request that the batch holds.
func (o *overlay) result(id *dedupID) ([]byte, bool) {
	for i := len(o.results) - 1; i >= 0; i-- {
		if o.results[i].id == *id {
			return o.results[i].stored, true
		}
	}
	return nil, false
}

// offset returns the offset of a history that the batch holds.
func (o *overlay) offset(revision uint64) (uint64, bool) {
	if len(o.offsets) == 0 || revision < o.firstRevision {
		return 0, false
	}
	return o.offsets[revision-o.firstRevision], true
}

// addHistory takes the next revision.
func (o *overlay) addHistory(revision, offset uint64) {
	if len(o.offsets) == 0 {
		o.firstRevision = revision
	}
	o.offsets = append(o.offsets, offset)
}

type noCloser struct{}

func (noCloser) Close() error { return nil }

// read returns what Pebble has at sh.key, nil if that is nothing. The value may be read until the closer is closed.
func (sh *Shard) read() ([]byte, io.Closer, error) {
	value, closer, err := sh.store.db.Get(sh.key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, noCloser{}, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("state: shard %d: read %x: %w", sh.id, sh.key, err)
	}
	return value, closer, nil
}
