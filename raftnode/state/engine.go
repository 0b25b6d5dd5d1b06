package state

import (
	"errors"
	"fmt"
	"log/slog"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"

	"github.com/raftkv/raftkv/raftnode/planted"
)

const (
	blockBytes         = 32 << 10
	filterBitsPerKey   = 10
	memTableStop       = 4  // memtables at which Pebble stalls
	l0CompactSublevels = 8  // sublevels at which compaction begins
	l0CompactFiles     = 32 // files at which it begins at the latest: what lies side by side makes no sublevels, and one compaction takes all of it
	l0StopSublevels    = 40 // sublevels at which Pebble stalls
	bytesPerSync       = 1 << 20
	sstBytes           = 32 << 20
)

// engineOptions sets Pebble up for a state without a log: few large memtables, 32 KiB blocks so that a value of 4 KiB is not a block of
// its own, filters everywhere because every write looks its key up first.
func (s *Store) engineOptions() *pebble.Options {
	o := s.options
	e := &pebble.Options{
		FS:                 &orderedFS{FS: o.FS, fatal: &s.fatal, room: &s.room},
		FormatMajorVersion: pebble.FormatNewest,
		DisableWAL:         true,
		// Pebble takes the memtables out of its cache. With a cache as large as they are, every block was read and decompressed again.
		CacheSize:                   o.CacheBytes - o.CacheBytes/recentShare + memTableStop*o.MemTableBytes,
		MemTableSize:                uint64(o.MemTableBytes),
		MemTableStopWritesThreshold: memTableStop,
		L0CompactionThreshold:       l0CompactSublevels,
		L0CompactionFileThreshold:   l0CompactFiles,
		L0StopWritesThreshold:       l0StopSublevels,
		MaxOpenFiles:                o.OpenFiles, // 0 is 1,000
		LBaseMaxBytes:               8 * o.MemTableBytes,
		BytesPerSync:                bytesPerSync,
		FlushSplitBytes:             o.MemTableBytes / 4,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		Logger:                      &engineLogger{log: o.Logger, fatal: &s.fatal},
		EventListener:               s.listener(),
	}
	// A compaction takes its neighbours in level 0 along up to 25 tables of the level that it writes. With small ones that is three memtables, so that records do not
	// take the history beside them.
	e.TargetFileSizes[0] = o.MemTableBytes / 2
	for i := range e.TargetFileSizes[1:] {
		e.TargetFileSizes[1+i] = max(o.MemTableBytes/8, min(o.MemTableBytes, 1<<20)) << i
	}
	for i := range e.Levels {
		e.Levels[i].BlockSize = blockBytes
		e.Levels[i].FilterPolicy = bloom.FilterPolicy(filterBitsPerKey)
		e.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.FastestCompression }
	}
	// What is flushed is compacted soon; compressing it twice does not pay.
	e.Levels[0].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression }
	e.Experimental.CompactionScheduler = s.room.compactions
	// An ingest that waits in the flush queue is durable only through the log, which we do not have (R8).
	e.Experimental.DisableIngestAsFlushable = func() bool { return !planted.Is(planted.IngestIsFlushable) }
	e.Experimental.SpanPolicyFunc = s.tablesEnd
	e.EnsureDefaults()
	return e
}

func (s *Store) listener() *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: func(err error) {
			if errors.Is(err, errNoRoom) {
				s.room.foundNone(err)
				return
			}
			s.fatal.fail(fmt.Errorf("pebble in the background: %w", err))
			s.room.compactions.end() // Pebble would repeat what failed, at once and for ever, until the process ends.
		},
		FlushEnd: func(pebble.FlushInfo) {
			if s.options.OnFlush != nil {
				s.options.OnFlush()
			}
		},
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			s.fatal.fail(fmt.Errorf("%w: %s: %w", ErrDamaged, i.Path, i.Details))
		},
		PossibleAPIMisuse: func(i pebble.PossibleAPIMisuseInfo) {
			// An answer that was written twice and forgotten once may come back. It is never written twice (see Batch.delete). This tells of a bug, it does not undo it, and Pebble does
			// not notice every case.
			if i.Kind == pebble.NondeterministicSingleDelete {
				s.fatal.fail(fmt.Errorf("an answer at %x was kept twice; report this to the developers of raftkv", i.UserKey))
			}
		},
		WriteStallBegin: func(i pebble.WriteStallBeginInfo) {
			s.options.Logger.Warn("state: Pebble stalls writes", "reason", i.Reason)
		},
	}
}

// openEngine makes the directory, with its name durable (R7), and opens Pebble in it.
func openEngine(dir string, e *pebble.Options) (*pebble.DB, error) {
	if err := makeDir(e.FS, dir); err != nil {
		return nil, err
	}
	// What another version wrote is refused here, so that it is not taken for damage below.
	if _, err := pebble.Peek(dir, e.FS); err != nil {
		return nil, err
	}
	db, err := pebble.Open(dir, e)
	var system syscall.Errno
	if err != nil && (!errors.As(err, &system) || system == syscall.ENOENT) {
		// The system has done all that it was asked to, so what it has is wrong. Pebble does not mark all of that: not that a file has
		// another size, or is not there.
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return db, err
}

// engineLogger passes on what Pebble says.
type engineLogger struct {
	log   *slog.Logger
	fatal *fatality
}

func (l *engineLogger) Infof(format string, args ...any) {
	l.log.Debug("pebble: " + fmt.Sprintf(format, args...))
}

func (l *engineLogger) Errorf(format string, args ...any) {
	l.log.Error("pebble: " + fmt.Sprintf(format, args...))
}

// Fatalf does not return, as Pebble expects.
func (l *engineLogger) Fatalf(format string, args ...any) {
	l.fatal.abandon(fmt.Errorf("pebble: "+format, args...))
}
