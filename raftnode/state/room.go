package state

import (
	"errors"
	"fmt"
	"log/slog"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/raftkv/raftkv/raftnode/planted"
)

// compactionCategory is what Pebble says of the files that compactions write. Those of flushes have another one: they must succeed.
const compactionCategory vfs.DiskWriteCategory = "pebble-compaction"

// errNoRoom ends a compaction that the disk has no room for. Nothing is in doubt then: what it read is all there, and what it wrote is removed.
var errNoRoom = errors.New("not enough room on the disk for a compaction")

// room keeps compactions off the last free space of the disk, which flushes and the log need (R24). A compaction writes its outcome beside what it
// reads, and how much that will be Pebble does not know.
type room struct {
	fs    vfs.FS
	dir   string
	leave uint64
	log   *slog.Logger
	// compactions are shut when one has found no room: Pebble would repeat it at once and for ever.
	compactions *scheduler
}

// foundNone says that a compaction has ended for want of room. It is called with Pebble's locks held.
func (r *room) foundNone(err error) {
	if r.compactions.shut() {
		r.log.Warn("state: the disk has too little room to compact what is stored; it is tried again in a while", "error", err)
	}
}

// look says whether there is room for so many bytes.
func (r *room) look(more int) error {
	if r.leave == 0 || planted.Is(planted.CompactionsFillTheDisk) {
		return nil
	}
	u, err := r.fs.GetDiskUsage(r.dir)
	if err != nil {
		return fmt.Errorf("ask how much of the disk is free: %w", err)
	}
	if u.AvailBytes < r.leave+uint64(more) { //nolint:gosec // a length
		return fmt.Errorf("%w: %d bytes are free, and %d stay so", errNoRoom, u.AvailBytes, r.leave)
	}
	return nil
}

// file makes a file for a compaction.
func (r *room) file(name string, create func(string, vfs.DiskWriteCategory) (vfs.File, error)) (vfs.File, error) {
	if err := r.look(bytesPerSync); err != nil {
		return nil, err
	}
	f, err := create(name, compactionCategory)
	if err != nil {
		return nil, noRoom(err)
	}
	return &compactionFile{File: f, room: r}, nil
}

// noRoom marks the error of a full disk as one that is no harm to a compaction.
func noRoom(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", errNoRoom, err)
	}
	return err
}

// compactionFile is a file that a compaction writes.
type compactionFile struct {
	vfs.File
	room   *room
	unseen int // written since the last look at the disk
}

func (f *compactionFile) Write(p []byte) (int, error) {
	if f.unseen += len(p); f.unseen > bytesPerSync {
		if err := f.room.look(max(len(p), bytesPerSync)); err != nil {
			return 0, err
		}
		f.unseen = len(p)
	}
	n, err := f.File.Write(p)
	return n, noRoom(err)
}

func (f *compactionFile) Sync() error     { return noRoom(f.File.Sync()) }
func (f *compactionFile) SyncData() error { return noRoom(f.File.SyncData()) }

func (f *compactionFile) SyncTo(length int64) (bool, error) {
	whole, err := f.File.SyncTo(length)
	return whole, noRoom(err)
}
