package logstore

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	segmentBytesDefault = 64 << 20
	segmentBytesMin     = 4 * blockBytes
	segmentBytesMax     = 1 << 30
	recycleDefault      = 4
)

// Options of a log. Zero means the default.
type Options struct {
	// FS is the file system. Default: the operating system's.
	FS vfs.FS
	// SegmentBytes is where a segment ends, unless a single batch is larger. Default 64 MiB.
	SegmentBytes int64
	// RecycleSegments is how many files are kept for reuse: overwriting costs a third of extending. Default 4, negative: none.
	RecycleSegments int
	// NoSync makes Append never wait for the disk, so that a power loss loses acknowledged entries. Whole segments are still
	// synced when they are full.
	NoSync bool
	Logger *slog.Logger
	// Observe is told of every synced Append by the goroutine that called it.
	Observe func(SyncStats)
}

// SyncStats is what one synced Append took.
type SyncStats struct {
	Bytes       int // with padding, and with those of appends before it that were not synced
	Records     int
	Write, Sync time.Duration
}

func (o Options) withDefaults() (Options, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = segmentBytesDefault
	}
	if o.SegmentBytes < segmentBytesMin || o.SegmentBytes > segmentBytesMax {
		return o, fmt.Errorf("SegmentBytes (%d) must be between %d and %d", o.SegmentBytes, segmentBytesMin, segmentBytesMax)
	}
	o.SegmentBytes = align(o.SegmentBytes)
	switch {
	case o.RecycleSegments == 0:
		o.RecycleSegments = recycleDefault
	case o.RecycleSegments < 0:
		o.RecycleSegments = 0
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}
