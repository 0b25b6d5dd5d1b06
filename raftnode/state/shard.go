package state

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
)

// Position is where the state of a shard stands.
type Position struct {
	// Index and Term are those of the last entry applied.
	Index, Term uint64
	// Revision counts the commands that changed something.
	Revision uint64
	// ClockMs is the clock of the shard.
	ClockMs uint64
	// HistoryFloor is the first revision whose history is kept, HistoryBytes what it takes.
	HistoryFloor, HistoryBytes uint64
	// Keys that exist.
	Keys uint64
	// LeasedKeys are those of them that hang on a lease, Leases the leases whose home the shard is.
	LeasedKeys, Leases uint64
	// KeyedResults are the answers that are kept under idempotency keys, KeyedBytes what they take.
	KeyedResults, KeyedBytes uint64
}

func position(m *shardMeta) Position {
	return Position{
		Index: m.AppliedIndex, Term: m.AppliedTerm, Revision: m.Revision, ClockMs: m.ClockMs,
		HistoryFloor: m.HistoryFloor, HistoryBytes: m.HistoryEnd - m.HistoryStart, Keys: m.Keys,
		LeasedKeys: m.LeasedKeys, Leases: m.Leases, KeyedResults: m.KeyedResults, KeyedBytes: m.KeyedBytes,
	}
}

// Shard applies entries to one shard. Position and Configuration may be called from any goroutine; everything else belongs to the goroutine
// that applies, and to Ingest and Drop, which must not run beside it.
type Shard struct {
	store *Store
	id    placement.ShardID

	// What follows is the image as the open batch leaves it. It is derived from what is stored, by load and by nothing else.
	meta          shardMeta
	configuration *storev1.Configuration
	slotTable     *storev1.SlotTable // nil before Bootstrap
	slots         *slotStates
	summaries     [placement.SlotCount]slotSummary
	dedup         *dedupIndex
	checkpoint    Checkpoint
	due           soonest
	dropped       bool

	recent  recentRecords
	open    *Batch  // the batch that holds changes of this shard; nil after its commit
	overlay overlay // those changes, for reads before the commit
	touched []placement.Slot

	committed atomic.Pointer[committed]
	// expiredKeys counts the keys that no client has deleted. It begins at 0 with the store and does not fall with the image.
	expiredKeys atomic.Uint64

	// Buffers that Apply uses again and again.
	key     []byte
	scratch scratch
}

// committed is what other goroutines may know.
type committed struct {
	position      Position
	configuration *storev1.Configuration
	checkpoint    Checkpoint
	deadline      uint64
	// sessions are the clients that the shard remembers, results the answers that it keeps for their retries.
	sessions, results int
}

// slotSummary is a SlotSummary in memory.
type slotSummary struct {
	digest Digest
	dirty  bool // it differs from what is stored and in no list but touched
}

func newShard(s *Store, id placement.ShardID) *Shard {
	sh := &Shard{store: s, id: id}
	sh.scratch.separated.Separated = new(storev1.Separated)
	sh.reset()
	return sh
}

// ID returns the shard's id.
func (sh *Shard) ID() placement.ShardID { return sh.id }

// Position returns the position as of the last commit.
func (sh *Shard) Position() Position { return sh.committed.Load().position }

// Configuration returns the membership as of the last commit, nil before the first. It must not be changed.
func (sh *Shard) Configuration() *storev1.Configuration { return sh.committed.Load().configuration }

// Checkpoint returns the newest checkpoint of what is committed.
func (sh *Shard) Checkpoint() Checkpoint { return sh.committed.Load().checkpoint }

// publish shows the image to other goroutines.
func (sh *Shard) publish() {
	sh.committed.Store(&committed{
		position: position(&sh.meta), configuration: sh.configuration, checkpoint: sh.checkpoint, deadline: sh.due.next(),
		sessions: len(sh.dedup.sessions), results: sh.dedup.len(),
	})
}

// Sessions returns how many clients the shard remembers, and how many answers it keeps for their retries. Any goroutine may call it.
func (sh *Shard) Sessions() (clients, results int) {
	c := sh.committed.Load()
	return c.sessions, c.results
}

var errMissing = errors.New("it is not there")

// damage blames the key read last.
func (sh *Shard) damage(err error) error {
	return &CorruptionError{Shard: sh.id, Key: slices.Clone(sh.key), Err: err}
}

// serves says whether the shard executes commands on a slot. The meta shard has no slots and serves every key.
func (sh *Shard) serves(slot placement.Slot) bool {
	return sh.id == placement.MetaShard || (sh.slots != nil && sh.slots.serving(slot)) || planted.Is(planted.SlotUnchecked) // R17
}

// touch returns the summary of a slot, to be changed.
func (sh *Shard) touch(slot placement.Slot) *slotSummary {
	s := &sh.summaries[slot]
	if !s.dirty {
		s.dirty = true
		sh.touched = append(sh.touched, slot)
	}
	return s
}

// reset makes the image that of a shard without state.
func (sh *Shard) reset() {
	sh.meta.Reset()
	sh.meta.HistoryFloor = 1
	sh.configuration, sh.slotTable, sh.slots = nil, nil, nil
	sh.summaries = [placement.SlotCount]slotSummary{}
	sh.touched, sh.open, sh.checkpoint = nil, nil, Checkpoint{}
	sh.dedup, sh.due, sh.recent = newDedupIndex(), nothingDue(), recentRecords{}
	sh.overlay.init()
	sh.publish()
}

// load derives the image from what is stored.
func (sh *Shard) load() error {
	sh.reset()
	meta, configuration, table := new(shardMeta), new(storev1.Configuration), new(storev1.SlotTable)
	found, err := loadOne(sh, sectionMeta, meta, "meta")
	if err != nil {
		return err
	}
	if found {
		if meta.CommandVersion > CommandVersion {
			return &VersionError{Need: meta.CommandVersion, Have: CommandVersion}
		}
		copyMeta(&sh.meta, meta)
	}
	if found, err = loadOne(sh, sectionConfiguration, configuration, "configuration"); err != nil {
		return err
	} else if found {
		sh.configuration = configuration
	}
	if found, err = loadOne(sh, sectionSlotTable, table, "slot table"); err != nil {
		return err
	} else if found {
		sh.slotTable = table
		if sh.slots, err = expandSlots(table); err != nil {
			return err
		}
	}
	if err := sh.loadSummaries(); err != nil {
		return err
	}
	if err := sh.loadDedup(); err != nil {
		return err
	}
	sh.dedup.pin(sh.meta.Revision)
	if err := sh.loadDue(); err != nil {
		return err
	}
	if planted.Is(planted.RevisionInferred) {
		if err := sh.inferRevision(); err != nil { // R2
			return err
		}
	}
	sh.publish()
	return nil
}

// inferRevision is for a planted bug.
func (sh *Shard) inferRevision() error {
	sh.meta.Revision = 0
	return sh.each(sectionHistory, func(rest, _ []byte) (err error) {
		sh.meta.Revision, err = parseRevision(rest)
		return err
	})
}

func copyMeta(to, from *shardMeta) {
	to.AppliedIndex, to.AppliedTerm, to.Revision, to.ClockMs = from.AppliedIndex, from.AppliedTerm, from.Revision, from.ClockMs
	to.HistoryFloor, to.HistoryStart, to.HistoryEnd = from.HistoryFloor, from.HistoryStart, from.HistoryEnd
	to.CommandVersion, to.Keys, to.SessionFloor = from.CommandVersion, from.Keys, from.SessionFloor
	to.LeasedKeys, to.Leases = from.LeasedKeys, from.Leases
	to.KeyedResults, to.KeyedBytes = from.KeyedResults, from.KeyedBytes
}

func loadOne(sh *Shard, s section, m decoder, what string) (bool, error) {
	sh.key = appendKey(sh.key[:0], sh.id, s)
	stored, closer, err := sh.store.db.Get(sh.key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", what, err)
	}
	defer closer.Close()
	if err := decode(m, stored, what); err != nil {
		return false, sh.damage(err)
	}
	return true, nil
}

// each calls fn with the rest of the key and the value of every pair of a section.
func (sh *Shard) each(s section, fn func(rest, value []byte) error) error {
	start, end := sectionSpan(sh.id, s)
	it, err := sh.store.db.NewIter(&pebble.IterOptions{LowerBound: start, UpperBound: end})
	if err != nil {
		return fmt.Errorf("read section %c: %w", s, err)
	}
	return eachPair(it, sh.id, fn)
}

func (sh *Shard) loadSummaries() error {
	return sh.each(sectionSlotSummary, func(rest, value []byte) error {
		slot, err := parseSlot(rest)
		if err != nil {
			return err
		}
		var s storev1.SlotSummary
		if err := decode(&s, value, "slot summary"); err != nil {
			return err
		}
		sh.summaries[slot] = slotSummary{digest: Digest{Low: s.DigestLow, High: s.DigestHigh}}
		return nil
	})
}

// loadDedup makes the index of the stored results, which stand in the order in which they are forgotten.
func (sh *Shard) loadDedup() error {
	return sh.each(sectionDedup, func(rest, value []byte) error {
		index, ordinal, err := parseDedup(rest)
		if err != nil {
			return err
		}
		id, r, err := readResult(value)
		if err != nil {
			return err
		}
		if sh.dedup.find(&id) != nil {
			return errTwoResults
		}
		sh.dedup.add(dedupEntry{id: id, slot: placement.Slot(r.Slot), index: index, ordinal: ordinal, revision: r.Result.Revision}, r)
		return nil
	})
}
