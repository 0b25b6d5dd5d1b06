package raftnode

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// reserveName is the file that holds a part of the reserve.
	reserveName = "RESERVE"
	// The default is a share of the file system, between these bounds: the files of the node need some room in any case.
	reserveBytesMin = 32 << 20
	reserveBytesMax = 1 << 30
	reserveShare    = 8
)

// reserve is room on the disk for what must work when it is full: deletes, reads, trims, elections and recovery (R24).
//
// Three quarters are free space: once less is free, nothing that grows is taken. A running node lives on that. The last quarter is a file, for
// a node that cannot even start because somebody else has filled the disk: it gives the file up then, and makes it again once there is room.
type reserve struct {
	fs  vfs.FS
	dir string
	log *slog.Logger
	// bytes is the whole reserve; 0 if the system does not tell what is free, and then there is none.
	bytes uint64
	// held says that the file stands, blind that the last look at the disk failed. They belong to Open, then to the gauge.
	held, blind bool
	// free is the free space as last seen; full says that it has fallen into the reserve. Any goroutine may load them.
	free atomic.Uint64
	full atomic.Bool
}

// mark is the free space below which nothing that grows is taken, enough that from which it is taken again. Between them nothing changes, so that a
// disk at the mark does not refuse one write and take the next.
func (r *reserve) mark() uint64   { return r.bytes - r.file() }
func (r *reserve) enough() uint64 { return r.mark() + r.bytes/8 }

// file is the size of the file.
func (r *reserve) file() uint64 { return r.bytes / 4 }

func (r *reserve) path() string { return r.fs.PathJoin(r.dir, reserveName) }

// open measures the disk and makes the file, or gives it up if the node could not start otherwise. Nothing else has been written yet.
func (r *reserve) open() error {
	usage, err := r.fs.GetDiskUsage(r.dir)
	if errors.Is(err, vfs.ErrUnsupported) {
		r.log.Warn("the system does not tell how much of the disk is free: a full disk will stop this node without warning", "dir", r.dir)
		r.bytes = 0
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask how much of the disk of %s is free: %w", r.dir, err)
	}
	if r.bytes == 0 {
		r.bytes = min(reserveBytesMax, max(reserveBytesMin, usage.TotalBytes/reserveShare), usage.TotalBytes/2)
	}
	if _, err := r.fs.Stat(r.path()); err == nil {
		r.held = true
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look for the reserve: %w", err)
	}
	starved := usage.AvailBytes < r.file()
	if r.held && starved {
		r.log.Warn("the disk is full: its reserve is released, so that reads and deletes work; free space on it", "dir", r.dir,
			"free", usage.AvailBytes, "reserve", r.file())
	}
	if r.held && (starved || usage.AvailBytes >= r.enough()) { // With room it is made anew: it may be of another size.
		if err := r.release(); err != nil {
			return err
		}
	}
	_, err = r.look()
	return err
}

// release gives the file up.
func (r *reserve) release() error {
	r.held = false
	if err := r.fs.Remove(r.path()); err != nil {
		return fmt.Errorf("release the reserve: %w", err)
	}
	return syncDir(r.fs, r.dir)
}

// look measures the free space, and says whether the disk has become full by that or is so no longer.
func (r *reserve) look() (changed bool, err error) {
	if r.bytes == 0 {
		return false, nil
	}
	free, ok := r.measure()
	if ok && !r.held && free >= r.enough()+r.file() {
		if err := r.hold(); err != nil {
			return false, fmt.Errorf("reserve space on the disk: %w", err)
		}
		free, ok = r.measure()
	}
	if !ok {
		return false, nil
	}
	// Without the file all of its space counts as taken: it is made before anything else may grow.
	if !r.held {
		free -= min(free, r.file())
	}
	was := r.full.Load()
	now := free < r.mark() || was && free < r.enough()
	r.full.Store(now)
	switch {
	case now && !was:
		r.log.Warn("the disk is nearly full: its shards take deletes and reads only; delete keys or free space", "free", free, "reserve", r.bytes)
	case was && !now:
		r.log.Info("the disk has room again", "free", free, "reserve", r.bytes)
	}
	return was != now, nil
}

// measure asks for the free space. A disk that does not tell is taken to be as it was.
func (r *reserve) measure() (free uint64, ok bool) {
	usage, err := r.fs.GetDiskUsage(r.dir)
	if err != nil {
		if !r.blind {
			r.log.Warn("cannot see how much of the disk is free", "err", err)
		}
		r.blind = true
		return 0, false
	}
	r.blind = false
	r.free.Store(usage.AvailBytes)
	return usage.AvailBytes, true
}

// hold makes the file, unless there is no room for it after all. A file system that cannot reserve space does without one: it counts as held, and
// only the free part of the reserve protects it. All other errors are final (R6).
func (r *reserve) hold() error {
	f, err := r.fs.OpenReadWrite(r.path(), vfs.WriteCategoryUnspecified) // creates it
	if err != nil {
		return err
	}
	switch err := f.Preallocate(0, int64(r.file())); { //nolint:gosec // a share of a disk
	case err == nil:
		r.held = true
		return errors.Join(f.Sync(), f.Close(), syncDir(r.fs, r.dir))
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, syscall.EINVAL):
		r.held = true
		r.log.Warn("the file system cannot reserve space: a node that finds it full will not be able to start")
		return errors.Join(f.Close(), r.fs.Remove(r.path()))
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EINTR):
		return errors.Join(f.Close(), r.fs.Remove(r.path()))
	default:
		return errors.Join(err, f.Close())
	}
}
