package logstore

// Metrics are sizes as they are now and counts since Open.
type Metrics struct {
	// Bytes is what segments of the log take, files kept for recycling not counted.
	Bytes int64
	// Segments is how many there are, Free how many files wait to be recycled.
	Segments, Free int
	// Pinned is how many segments are kept although a newer one is gone already: some shard has a long log there that is not
	// truncated, which usually means that its state is not flushed or a follower lags.
	Pinned int

	Appends, Syncs uint64
	// BytesWritten is everything written, with headers and padding; BytesMoved is the part that was written again so that an old
	// segment could go.
	BytesWritten, BytesMoved int64
	// Rotations is how many segments were opened.
	Rotations uint64
	// DamagedRecords is how many records Open found damaged, those that nothing needs any more included.
	DamagedRecords int
}

// Metrics returns the current figures.
func (l *Log) Metrics() Metrics {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.metrics
	m.Segments = len(l.segments)
	for _, s := range l.segments {
		m.Bytes += s.end
	}
	return m
}

// countPinned counts the segments in ascending order that a newer one was retired after. next is the number behind the last.
func countPinned(segments []*segment, next uint32) int {
	for i := len(segments) - 1; i >= 0; i-- {
		if segments[i].number+1 != next {
			return i + 1
		}
		next = segments[i].number
	}
	return 0
}
