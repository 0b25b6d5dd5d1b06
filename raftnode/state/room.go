package state

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
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
//
// Pebble repeats what has failed at once, so after a compaction that found no room all others wait at their first file until Store.ResumeCompactions.
type room struct {
	fs    vfs.FS
	dir   string
	leave uint64
	log   *slog.Logger
	// failed is closed when the store can do nothing more.
	failed <-chan struct{}

	// mu guards the rest. It is a leaf: Pebble's locks are held where shut is called.
	mu sync.Mutex
	// opens is closed when compactions may go on; nil if they may.
	opens  chan struct{}
	closed bool
}

// shut makes compactions wait.
func (r *room) shut(cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.opens == nil && !r.closed {
		r.opens = make(chan struct{})
		r.log.Warn("state: the disk has too little room to compact what is stored; it is tried again in a while", "error", cause)
	}
}

// open lets compactions go on; with closing nothing makes them wait any more.
func (r *room) open(closing bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.opens != nil {
		close(r.opens)
		r.opens = nil
	}
	r.closed = r.closed || closing
}

// wait returns once compactions may go on, or the store ends.
func (r *room) wait() {
	r.mu.Lock()
	opens := r.opens
	r.mu.Unlock()
	if opens == nil {
		return
	}
	select {
	case <-opens:
	case <-r.failed:
	}
}

// look says whether there is room for what a compaction writes until it looks again.
func (r *room) look() error {
	if r.leave == 0 || planted.Is(planted.CompactionsFillTheDisk) {
		return nil
	}
	u, err := r.fs.GetDiskUsage(r.dir)
	if err != nil {
		return fmt.Errorf("ask how much of the disk is free: %w", err)
	}
	if u.AvailBytes < r.leave+bytesPerSync {
		return fmt.Errorf("%w: %d bytes are free, and %d stay so", errNoRoom, u.AvailBytes, r.leave)
	}
	return nil
}

// file makes a file for a compaction.
func (r *room) file(name string, create func(string, vfs.DiskWriteCategory) (vfs.File, error)) (vfs.File, error) {
	r.wait()
	if err := r.look(); err != nil {
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
	if errors.Is(err, syscall.ENOSPC) {
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
		if err := f.room.look(); err != nil {
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
