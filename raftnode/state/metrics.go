package state

import "github.com/cockroachdb/pebble/v2"

// Metrics are figures for operators.
type Metrics struct {
	// Bytes on disk.
	Bytes uint64
	// MemTableBytes that are not flushed.
	MemTableBytes uint64
	// L0Sublevels are what a read has to look through before the ordered levels.
	L0Sublevels int
	// WrittenBytes are all that flushes and compactions have written, NewBytes the part that came in: flushed or ingested for the first time.
	WrittenBytes, NewBytes uint64
	// WriteAmplification is how often a byte that came in has been written; 0 before the first one.
	WriteAmplification float64
	// CompactionDebtBytes is what is left to compact.
	CompactionDebtBytes uint64
	// CacheBytes, CacheHits and CacheMisses are those of the block cache.
	CacheBytes, CacheHits, CacheMisses int64
	// Flushes and Compactions since the store was opened.
	Flushes, Compactions int64
}

// Metrics reads the figures. It takes Pebble's locks: seldom, not per request.
func (s *Store) Metrics() Metrics {
	m := s.db.Metrics()
	written, in := written(m)
	amplification := 0.0
	if in > 0 {
		amplification = float64(written) / float64(in)
	}
	return Metrics{
		Bytes:               m.DiskSpaceUsage(),
		MemTableBytes:       m.MemTable.Size,
		L0Sublevels:         int(m.Levels[0].Sublevels),
		WrittenBytes:        written,
		NewBytes:            in,
		WriteAmplification:  amplification,
		CompactionDebtBytes: m.Compact.EstimatedDebt,
		CacheBytes:          m.BlockCache.Size,
		CacheHits:           m.BlockCache.Hits,
		CacheMisses:         m.BlockCache.Misses,
		Flushes:             m.Flush.Count,
		Compactions:         m.Compact.Count,
	}
}

// written is what flushes, ingests and compactions have written, and what of it came in. Pebble's own figure takes what goes into its log for what comes
// in, and there is no log.
func written(m *pebble.Metrics) (all, in uint64) {
	for i := range m.Levels {
		l := &m.Levels[i]
		in += l.TableBytesFlushed + l.BlobBytesFlushed + l.TableBytesIngested
		all += l.TableBytesCompacted + l.BlobBytesCompacted
	}
	return all + in, in
}

// Pressure says whether Pebble will soon stall the applier, and because of what: then nothing more may be proposed. The limits lie a memtable
// and a quarter of the sublevels below those at which Pebble stalls. That is room for what a leader has proposed and not applied, unless its
// followers are far behind, too; then Pebble stalls the applier, which delays answers and nothing else.
func (s *Store) Pressure() (what string, limit, actual uint64, high bool) {
	m := s.db.Metrics()
	s.room.compactions.behind.Store(m.Levels[0].Sublevels >= l0StopSublevels/2)
	return pressure(m, uint64(s.options.MemTableBytes))
}

func pressure(m *pebble.Metrics, memTableBytes uint64) (what string, limit, actual uint64, high bool) {
	const sublevels = l0StopSublevels * 3 / 4
	if n := uint64(max(0, m.Levels[0].Sublevels)); n >= sublevels {
		return "l0_sublevels", sublevels, n, true
	}
	limit = (memTableStop - 1) * memTableBytes
	return "unflushed_bytes", limit, m.MemTable.Size, m.MemTable.Size >= limit
}
