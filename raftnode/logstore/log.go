package logstore

import (
	"errors"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// Update is what one append changes in the log of one shard. Parts that are nil or zero leave things as they are. Within an
// update the parts take effect in the order Reset, Entries, Truncate, the rest; updates take effect in the order given. All
// updates of an Append survive a crash together or not at all.
type Update struct {
	Shard     placement.ShardID
	HardState *raftpb.HardState
	// Entries are contiguous. The first may lie anywhere behind what is truncated and up to one behind the last: what the log has
	// from there on is replaced.
	Entries []*raftpb.Entry
	// Intent says that a snapshot is about to be ingested. It stands until a Reset.
	Intent *Intent
	// Reset empties the log at a snapshot, or at nothing for a replica that begins again, and clears the intent. Together with
	// HardState it is one record (R8).
	Reset *Reset
	// Truncate says that entries up to here are no longer needed.
	Truncate uint64
}

// Intent is a snapshot install under way: the state machine ingests what is staged in Dir, then the log is reset.
type Intent struct {
	Index, Term uint64
	Dir         string
}

// Reset is where the log starts anew: as if all up to Index were truncated, and nothing behind it.
type Reset struct{ Index, Term uint64 }

// State is all that a shard's log is besides its entries, which are those behind TruncatedIndex and up to LastIndex.
type State struct {
	// HardState is nil if none was ever written.
	HardState                                *raftpb.HardState
	TruncatedIndex, TruncatedTerm, LastIndex uint64
	// Intent is nil unless an install was begun and not finished.
	Intent *Intent
}

// Log is the Raft logs of all shards of a node. Append, Reclaim and Close are for one goroutine, the log writer; the other methods are for
// any goroutine at any time.
type Log struct {
	o       Options
	fs      vfs.FS
	dir     string
	dirFile vfs.File

	// What follows belongs to the writer.

	active *segment
	// off is where the next batch goes in active, opened where the first behind the opening batch went.
	off, opened int64
	// seq is the last batch written, synced the last one known to be on disk. Invariant: synced <= seq.
	seq, synced uint64
	// unsynced is how many bytes appends have written since the last one that was synced.
	unsynced int
	// marked is true if the last batch is nothing but proof that those before it are synced.
	marked bool
	batch  batch
	// free are files to recycle, retired segments that still have readers.
	free    []string
	retired []*segment
	// failure is the first error, for ever (R6).
	failure error

	// damaged does not change after Open.
	damaged []*CorruptionError

	// mu guards what follows, with the heads and indexes of shards and the reference counts of segments. Only the writer changes
	// shards, heads, indexes and segments, so it may read them without mu. Never held across input or output; a leaf.
	mu       sync.Mutex
	shards   map[placement.ShardID]*shardLog
	segments map[uint32]*segment
	metrics  Metrics
	closed   bool
}

// shardLog is the log of one shard in memory.
type shardLog struct {
	id    placement.ShardID
	head  head
	index index
	// known is false until the first append to the shard has succeeded.
	known bool

	// staged is head as it will be after the batch stagedSeq, which is being made. The writer's.
	staged    head
	stagedSeq uint64
}

// put takes over an entry that is written.
func (s *shardLog) put(i, term uint64, segment uint32, r ref) {
	s.index.put(i, term, segment, r)
	s.head.last = i
}

// set takes over a state that is written.
func (s *shardLog) set(h head) {
	s.index.cut(h.last)
	s.index.truncate(h.truncated)
	s.head = h
}

// shard returns the log of a shard, new if need be. The writer's.
func (l *Log) shard(id placement.ShardID) *shardLog {
	if s, ok := l.shards[id]; ok {
		return s
	}
	s := &shardLog{id: id}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shards[id] = s
	return s
}

// sorted returns the known shards in ascending order. mu is held, or the caller is the writer.
func (l *Log) sorted() []*shardLog {
	list := make([]*shardLog, 0, len(l.shards))
	for _, s := range l.shards {
		if s.known {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b *shardLog) int { return int(int64(a.id) - int64(b.id)) })
	return list
}

// Damaged returns what Open found damaged and could blame on shards whose logs need it: their replicas may not vote and must be
// rebuilt (R15). A Reset with a hard state ends that.
func (l *Log) Damaged() []*CorruptionError { return slices.Clone(l.damaged) }

// Close makes everything durable and closes the files. After a failure it only closes.
func (l *Log) Close() error {
	if errors.Is(l.failure, ErrClosed) {
		return nil
	}
	var err error
	if l.failure == nil {
		err = l.seal()
	}
	l.failure = ErrClosed

	l.mu.Lock()
	l.closed = true
	var drop []*segment
	for _, s := range l.segments {
		drop = append(drop, s)
	}
	l.mu.Unlock()
	return errors.Join(err, l.release(append(drop, l.retired...)...), l.dirFile.Close())
}

// seal makes all batches durable and proves it by one more, so that damage to the last of them is not taken for a torn write.
func (l *Log) seal() error {
	if err := l.sync(); err != nil || l.marked {
		return err
	}
	l.batch.begin(l.active.seed, l.seq+1, l.off, nil)
	if err := l.write(); err != nil {
		return err
	}
	return l.sync()
}
