// Package state is the state machine of raftkv: the keys, the history, the results of retried requests, the slot table and the membership
// of every shard of a node, in one Pebble store without a write-ahead log.
//
// It knows no Raft. Its caller hands it the committed entries of a shard in order, and keeps them until DurableApplied has passed them;
// after a crash the store is the outcome of a prefix of those entries, and the caller applies the rest again. What Apply does depends on
// the entry and on the state of the shard alone, so that replicas which applied the same entries are equal in every byte (R20, R21).
//
// DESIGN.md has the key layout, the content of a batch and the reasons.
package state

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/raftkv/raftkv/raftnode/placement"
)

const (
	defaultCacheBytes    = 256 << 20
	defaultMemTableBytes = 32 << 20
	defaultDedupResults  = 1 << 16
)

// KeyedResults and KeyedBytes bound what a shard keeps under idempotency keys, unless Options say otherwise.
const (
	KeyedResults = 1_000_000
	KeyedBytes   = 256 << 20
)

// SessionResults is how many results that it has not acknowledged a shard keeps of one client, unless Options say otherwise.
const SessionResults = 4096

// Options configure a Store. The zero value of each field means its default.
type Options struct {
	// FS is the disk; by default the real one.
	FS vfs.FS
	// CacheBytes bounds what is kept in memory of what is stored, memtables not counted; by default 256 MiB. A quarter is for records that were
	// written of late, the rest for blocks.
	CacheBytes int64
	// MemTableBytes is the size at which a memtable is flushed, 32 MiB by default. Up to four may wait, so a crash can cost the
	// replay of four times as much.
	MemTableBytes int64
	// OpenFiles is how many tables are kept open, 1,000 by default.
	OpenFiles int
	// DedupResults is how many results of retried requests a shard keeps, 65,536 by default. It decides what Apply does and must be
	// the same on every replica (R21).
	DedupResults int
	// SessionResults is how many of them one client may have that it has not acknowledged, 4,096 by default. The same on every replica.
	SessionResults int
	// KeyedResults and KeyedBytes bound what a shard keeps under idempotency keys, by default 1,000,000 answers and 256 MiB of them; the second is
	// passed by one answer at the most. The same on every replica.
	KeyedResults, KeyedBytes uint64
	// CompactionsLeave is the free space of the disk in bytes that compactions do not touch; 0 is none, and then one ends when the disk is full. They go
	// on after ResumeCompactions.
	CompactionsLeave uint64
	// Logger hears what Pebble has to say; by default nobody does.
	Logger *slog.Logger
	// OnFlush is called after every flush, when DurableApplied may have risen. It is called with Pebble's locks held: it must not
	// block and must not call the store.
	OnFlush func()
	// OnFatal hears the first error after which nothing may be acknowledged any more (R6), under the conditions of OnFlush. It has to
	// see to it that the process ends. By default it ends at once, with status 1.
	OnFatal func(error)
}

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = defaultCacheBytes
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = defaultMemTableBytes
	}
	if o.DedupResults == 0 {
		o.DedupResults = defaultDedupResults
	}
	if o.SessionResults == 0 {
		o.SessionResults = min(SessionResults, o.DedupResults)
	}
	if o.KeyedResults == 0 {
		o.KeyedResults = KeyedResults
	}
	if o.KeyedBytes == 0 {
		o.KeyedBytes = KeyedBytes
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Store holds the state of all shards of a node. Its methods may be called from any goroutine; for those of Shard and Batch see there.
type Store struct {
	options Options
	engine  *pebble.Options
	db      *pebble.DB
	fatal   fatality
	room    room

	// beforeWrite is for tests: flushing there shows a batch that is written in parts.
	beforeWrite func()

	// installs counts, per shard, the beginnings and ends of replacements of its image; the map is never changed in place. It tells a
	// View that a shard was replaced under it, which Pebble's snapshots do not survive.
	installs atomic.Pointer[map[placement.ShardID]uint64]

	// mu guards shards, batches and the replacement of installs. Never held across an ingest.
	mu     sync.Mutex
	shards map[placement.ShardID]*Shard
	// loaded counts those of them that hold data, for any goroutine.
	loaded atomic.Int32
	closed bool
	// batches are those that were made; Close ends what they look up.
	batches []*Batch
}

// Open opens the store in dir, and makes it if there is none. The caller holds the lock of the data directory.
func Open(dir string, o Options) (*Store, error) {
	o = o.withDefaults()
	if o.CacheBytes < 0 || o.MemTableBytes < 64<<10 || o.SessionResults < 1 || o.DedupResults < o.SessionResults {
		return nil, fmt.Errorf("state: open %s: cache of %d bytes, memtables of %d bytes, %d dedup results, %d of a session: want at least 0, 65536, those of a session and 1",
			dir, o.CacheBytes, o.MemTableBytes, o.DedupResults, o.SessionResults)
	}
	s := &Store{options: o, shards: make(map[placement.ShardID]*Shard)}
	s.fatal.init(o.Logger, o.OnFatal)
	s.room = room{fs: o.FS, dir: dir, leave: o.CompactionsLeave, log: o.Logger, compactions: newScheduler()}
	s.installs.Store(&map[placement.ShardID]uint64{})
	s.engine = s.engineOptions()
	err := s.fatal.guardOpen(func() error {
		db, err := openEngine(dir, s.engine)
		if err != nil {
			return err
		}
		if err := checkFormat(db); err != nil {
			return errors.Join(err, db.Close())
		}
		if err := s.fatal.err(); err != nil { // Damage that Pebble has told of and gone on from.
			return errors.Join(err, db.Close())
		}
		s.db = db
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("state: open %s: %w", dir, err)
	}
	return s, nil
}

// checkFormat refuses a store that this version cannot read, and marks a new one. The mark is flushed before anything else can be: an
// ingest passes the memtables by.
func checkFormat(db *pebble.DB) error {
	value, closer, err := db.Get(formatKey)
	switch {
	case err == nil:
		defer closer.Close()
		if len(value) != 1 || value[0] != formatVersion {
			return &FormatError{What: "state store", Found: value, Want: formatVersion}
		}
		return nil
	case !errors.Is(err, pebble.ErrNotFound):
		return fmt.Errorf("read format: %w", err)
	}
	it, err := db.NewIter(nil)
	if err != nil {
		return fmt.Errorf("look for data: %w", err)
	}
	used := it.First()
	if err := it.Close(); err != nil {
		return fmt.Errorf("look for data: %w", err)
	}
	if used {
		return errors.New("there is data but no format mark: this is not a state store of raftkv, or it is damaged; move it away and let the replica be rebuilt")
	}
	if err := db.Set(formatKey, []byte{formatVersion}, pebble.NoSync); err != nil {
		return fmt.Errorf("write format: %w", err)
	}
	if err := db.Flush(); err != nil {
		return fmt.Errorf("flush format: %w", err)
	}
	return nil
}

// Close flushes and closes the store; the open batches, views and shards are dead then. After a fatal error it flushes nothing and
// returns that error.
func (s *Store) Close() error {
	s.mu.Lock()
	closed, batches := s.closed, s.batches
	s.closed, s.batches = true, nil
	s.mu.Unlock()
	if closed {
		return nil
	}
	if s.fatal.err() == nil {
		// A failing flush is a fatal error; it is met again below.
		_ = s.fatal.guard(s.db.Flush)
	}
	if s.fatal.isAbandoned() {
		return s.fatal.err()
	}
	for _, b := range batches {
		_ = b.lookup.close() // what it has met is in the fatal error, or in that of closing the store
	}
	if err := s.fatal.guardClose(s.db.Close); err != nil {
		return errors.Join(s.fatal.err(), fmt.Errorf("state: close: %w", err))
	}
	return s.fatal.err()
}

// Shard returns a shard, loaded from disk or empty. An empty one is on disk only after the first commit.
func (s *Store) Shard(id placement.ShardID) (*Shard, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	if sh, ok := s.shards[id]; ok {
		return sh, nil
	}
	sh := newShard(s, id)
	if err := sh.load(); err != nil {
		return nil, fmt.Errorf("state: load shard %d: %w", id, err)
	}
	s.keep(sh)
	return sh, nil
}

// keep puts a shard among those that are loaded. s.mu is held.
func (s *Store) keep(sh *Shard) {
	if s.shards[sh.id] == nil && sh.id != placement.MetaShard {
		s.loaded.Add(1)
	}
	s.shards[sh.id] = sh
}

// recentShare is the part of the cache that is for records written of late.
const recentShare = 4

// recentBytes is how much of that a shard has. The meta shard takes next to nothing, and is not counted.
func (s *Store) recentBytes() int {
	return int(s.options.CacheBytes) / recentShare / max(1, int(s.loaded.Load()))
}

// handle is Shard for what replaces the image: one that can not be loaded counts as empty.
func (s *Store) handle(id placement.ShardID) (*Shard, error) {
	sh, err := s.Shard(id)
	var damage *CorruptionError
	if !errors.As(err, &damage) {
		return sh, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sh = newShard(s, id)
	s.keep(sh)
	return sh, nil
}

// Shards returns the shards that have state, ascending.
func (s *Store) Shards() ([]placement.ShardID, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{shardSpace}, UpperBound: []byte{shardSpace + 1}})
	if err != nil {
		return nil, fmt.Errorf("state: list shards: %w", err)
	}
	var ids []placement.ShardID
	for ok := it.First(); ok; {
		id, ok1 := shardOfKey(it.Key())
		if !ok1 {
			err = &CorruptionError{Key: slices.Clone(it.Key()), Err: errors.New("no shard in it")}
			break
		}
		ids = append(ids, id)
		_, end := shardSpan(id)
		ok = it.SeekGE(end)
	}
	if err := errors.Join(err, it.Error(), it.Close()); err != nil {
		return nil, fmt.Errorf("state: list shards: %w", err)
	}
	return ids, nil
}

// DurableApplied returns the index that a shard would have applied if the machine lost its power now; 0 if the shard is new. The log may
// be cut at it and no further.
//
// Without a log Pebble guarantees what it has flushed or ingested, and OnlyReadGuaranteedDurable reads that: it leaves the memtables out.
// Memtables are flushed in order and whole, so what is read is the outcome of a prefix of the batches.
func (s *Store) DurableApplied(id placement.ShardID) (uint64, error) {
	key := appendKey(nil, id, sectionMeta)
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound:                key,
		UpperBound:                append(slices.Clone(key), 0),
		OnlyReadGuaranteedDurable: true,
	})
	if err != nil {
		return 0, fmt.Errorf("state: durable index of shard %d: %w", id, err)
	}
	var meta shardMeta
	if it.First() {
		value, err1 := it.ValueAndErr()
		if err = err1; err == nil {
			err = decode(&meta, value, "meta")
		}
	}
	if err := errors.Join(err, it.Error(), it.Close()); err != nil {
		return 0, fmt.Errorf("state: durable index of shard %d: %w", id, err)
	}
	return meta.AppliedIndex, nil
}

// Flush begins to flush what is committed. The channel is closed when that is done; after a fatal error it never is.
func (s *Store) Flush() (<-chan struct{}, error) {
	var done <-chan struct{}
	err := s.fatal.guard(func() (err error) {
		done, err = s.db.AsyncFlush()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("state: flush: %w", err)
	}
	return done, nil
}
