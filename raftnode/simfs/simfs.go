// Package simfs is a disk in memory that can lose power: a vfs.FS for tests that keeps apart what programs see and what
// the disk surely holds, and computes from a seed what is left after a crash.
//
// Synced data and synced names always survive. Everything else survives or not by a hash of the seed, the path and the
// number of the operation on that path or block, never by map order, a global counter or the interleaving of goroutines.
// A program whose goroutines do the same operations on each path therefore leaves the same disk for the same seed.
//
// DESIGN.md states the rules of durability one by one; rules_test.go has a test for each.
package simfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// ErrCrashed is what every operation on a disk returns once it has lost power.
var ErrCrashed = errors.New("simfs: the disk has lost power; go on with the FS that Crash returns")

const (
	blockBytesDefault  = 4096
	sectorBytesDefault = 512
)

// Options shapes a disk. The zero value is usable.
type Options struct {
	// Seed decides, with the seed of each Crash, what survives.
	Seed uint64
	// BlockBytes is the unit in which unsynced data survives, the page of the system. Default 4096.
	BlockBytes int
	// SectorBytes is the unit that the disk writes whole: a block may be torn between sectors. It must divide BlockBytes;
	// equal to it, blocks are never torn. Default 512.
	SectorBytes int
	// QuotaBytes is the size of the disk; writes beyond it fail with ENOSPC. Default: no limit.
	QuotaBytes int64
}

// FS is a disk. All methods are safe for concurrent use.
type FS struct {
	paths
	blockBytes  int
	sectorBytes int

	// mu guards everything below and every inode, directory and open file of the disk. It is never held while the
	// fault function runs.
	mu sync.Mutex
	// dead: power is lost. Nothing below changes any more.
	dead bool
	seed draw
	root *inode
	// journal holds the changes of names that no sync has made durable, in the order in which they were made.
	journal []*change
	// seen counts the events on each path. Events on one path number themselves; there is no order between paths.
	seen  map[event]uint64
	locks map[string]bool
	// handles are the open files and directories.
	handles map[*file]bool
	faults  func(Op) Fault
	stats   Stats
	// used is the space of all files that have a name or are open; quota bounds it unless 0.
	used, quota int64
}

var _ vfs.FS = (*FS)(nil)

// event is a kind of thing that happens on a path.
type event struct {
	kind OpKind
	path string
}

// New returns an empty disk. It panics if SectorBytes does not divide BlockBytes.
func New(o Options) *FS {
	if o.BlockBytes == 0 {
		o.BlockBytes = blockBytesDefault
	}
	if o.SectorBytes == 0 {
		o.SectorBytes = min(sectorBytesDefault, o.BlockBytes)
	}
	if o.BlockBytes < 0 || o.SectorBytes < 0 || o.BlockBytes%o.SectorBytes != 0 {
		panic(fmt.Sprintf("simfs: sectors of %d bytes do not divide blocks of %d", o.SectorBytes, o.BlockBytes))
	}
	return newFS(o, draw(o.Seed))
}

func newFS(o Options, seed draw) *FS {
	return &FS{
		blockBytes:  o.BlockBytes,
		sectorBytes: o.SectorBytes,
		seed:        seed,
		root:        &inode{dir: newDirectory(0)},
		seen:        map[event]uint64{},
		locks:       map[string]bool{},
		handles:     map[*file]bool{},
		quota:       o.QuotaBytes,
	}
}

// Stats counts what programs asked of a disk.
type Stats struct {
	// FileSyncs counts Sync and SyncData on files, DirSyncs on directories, failed ones included.
	FileSyncs, DirSyncs uint64
	// Writes counts Write and WriteAt, Reads counts Read and ReadAt.
	Writes, Reads uint64
	// Creates, Removes, Renames and Links count changes of names.
	Creates, Removes, Renames, Links uint64
	// BytesWritten and BytesRead count payload; BytesSynced counts the blocks that syncs made durable.
	BytesWritten, BytesRead, BytesSynced uint64
}

// Stats returns the counts since the disk was made or came out of a crash.
func (f *FS) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

// OpenFiles returns the names under which the files and directories were opened that are open now, sorted, one for each handle. It works on
// a dead disk, too: programs that end leave none.
func (f *FS) OpenFiles() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var open []string
	for h := range f.handles {
		open = append(open, h.path)
	}
	slices.Sort(open)
	return open
}

// SetQuota changes the size of the disk; 0 is no limit.
func (f *FS) SetQuota(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.quota = bytes
}

// do runs one operation: it numbers it, asks the fault function without holding mu, and then acts under mu. act is told
// the fault because a failing sync is the one failure that changes something.
func (f *FS) do(kind OpKind, path string, act func(Fault) error) error {
	op, faults, err := f.enter(kind, path)
	if err != nil {
		return pathError(op, err)
	}
	fault := NoFault
	if faults != nil {
		fault = faults(op)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.dead || fault == CrashBefore:
		f.dead = true
		return pathError(op, ErrCrashed)
	case fault.errno() != 0 && kind != OpSync && kind != OpDirSync:
		return pathError(op, fault.errno())
	}
	err = act(fault)
	if fault == CrashAfter {
		f.dead = true
		return pathError(op, ErrCrashed) // done, and nobody learns of it
	}
	if err != nil {
		return pathError(op, err)
	}
	return nil
}

func (f *FS) enter(kind OpKind, path string) (Op, func(Op) Fault, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	op := Op{Kind: kind, Path: path, Class: classOf(path)}
	if f.dead {
		return op, nil, ErrCrashed
	}
	op.N = f.count(kind, path)
	f.stats.add(kind)
	return op, f.faults, nil
}

// count numbers the events of a kind on a path, from 1. mu is held.
func (f *FS) count(kind OpKind, path string) uint64 {
	f.seen[event{kind, path}]++
	return f.seen[event{kind, path}]
}

func pathError(op Op, err error) error {
	return &fs.PathError{Op: op.Kind.String(), Path: op.Path, Err: err}
}

func (s *Stats) add(kind OpKind) {
	switch kind {
	case OpSync:
		s.FileSyncs++
	case OpDirSync:
		s.DirSyncs++
	case OpWrite:
		s.Writes++
	case OpRead:
		s.Reads++
	case OpCreate:
		s.Creates++
	case OpRemove:
		s.Removes++
	case OpRename:
		s.Renames++
	case OpLink:
		s.Links++
	}
}

// draw is a seed. The same seed and key always draw the same number.
type draw uint64

func (d draw) hash(what, text string, numbers ...uint64) uint64 {
	h := xxhash.NewWithSeed(uint64(d))
	buf := append([]byte(what), 0)
	buf = append(append(buf, text...), 0)
	for _, n := range numbers {
		buf = binary.BigEndian.AppendUint64(buf, n)
	}
	_, _ = h.Write(buf) // a hash never fails
	return h.Sum64()
}

// below draws a number from 0 up to but not including limit.
func (d draw) below(limit int, what string, numbers ...uint64) int {
	return int(d.hash(what, "", numbers...) % uint64(limit))
}
