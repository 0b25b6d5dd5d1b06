package simfs

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// info describes a file as of one moment.
type info struct {
	name    string
	size    int64
	dir     bool
	changed time.Time
}

func (i info) Name() string           { return i.name }
func (i info) Size() int64            { return i.size }
func (i info) IsDir() bool            { return i.dir }
func (i info) ModTime() time.Time     { return i.changed }
func (i info) Sys() any               { return nil }
func (i info) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }

func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o755
	}
	return 0o644
}

func (n *inode) info(p string) info {
	return info{name: path.Base(p), size: n.size, dir: n.dir != nil, changed: n.modTime()}
}

// Stat describes the file at a path. Its modification time counts changes; it is no time.
func (f *FS) Stat(name string) (vfs.FileInfo, error) {
	p := clean(name)
	var i info
	err := f.do(OpStat, p, func(Fault) error {
		node, err := f.find(p)
		if err != nil {
			return err
		}
		i = node.info(p)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return i, nil
}

// Stat describes the open file.
func (h *file) Stat() (vfs.FileInfo, error) {
	var i info
	if err := h.do(OpStat, func(Fault) error { i = h.node.info(h.path); return nil }); err != nil {
		return nil, err
	}
	return i, nil
}

// List returns the names in a directory, sorted.
func (f *FS) List(name string) ([]string, error) {
	p := clean(name)
	var names []string
	err := f.do(OpList, p, func(Fault) error {
		node, err := f.find(p)
		if err != nil {
			return err
		}
		if node.dir == nil {
			return syscall.ENOTDIR
		}
		names = sortedNames(node.dir.entries)
		return nil
	})
	return names, err
}

func sortedNames(entries map[string]*inode) []string {
	return slices.Sorted(maps.Keys(entries))
}

// diskBytesUnlimited is the size that a disk without a quota reports.
const diskBytesUnlimited = 1 << 50

// GetDiskUsage returns the quota and what files take of it.
func (f *FS) GetDiskUsage(name string) (vfs.DiskUsage, error) {
	p := clean(name)
	var u vfs.DiskUsage
	err := f.do(OpStat, p, func(Fault) error {
		if _, err := f.find(p); err != nil {
			return err
		}
		total := cmp.Or(f.quota, diskBytesUnlimited)
		u = vfs.DiskUsage{
			TotalBytes: uint64(total),
			UsedBytes:  uint64(f.used),
			AvailBytes: uint64(max(0, total-f.used)),
		}
		return nil
	})
	return u, err
}

// lock is a held lock.
type lock struct {
	fs   *FS
	path string
}

// Lock takes a lock and empties or creates its file. A lock that is held gives EAGAIN. No lock outlives a crash.
func (f *FS) Lock(name string) (io.Closer, error) {
	p := clean(name)
	err := f.do(OpLock, p, func(Fault) error {
		if f.locks[p] {
			return syscall.EAGAIN
		}
		node, err := f.find(p)
		switch {
		case errors.Is(err, syscall.ENOENT):
			_, err = f.create(p)
		case err == nil && node.dir != nil:
			err = syscall.EISDIR
		case err == nil && node.size > 0:
			before := node.space(f.blockBytes)
			node.truncate(f.blockBytes, 0)
			f.grown(node, before)
		}
		if err == nil {
			f.locks[p] = true
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &lock{fs: f, path: p}, nil
}

// Close releases the lock, also on a dead disk.
func (l *lock) Close() error {
	l.fs.mu.Lock()
	defer l.fs.mu.Unlock()
	if !l.fs.locks[l.path] {
		return &fs.PathError{Op: "unlock", Path: l.path, Err: os.ErrClosed}
	}
	delete(l.fs.locks, l.path)
	return nil
}

// String lists every file with its size and a hash of its bytes, by path. Two disks with equal content are equal texts.
func (f *FS) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	f.describe(&b, "/", f.root)
	return b.String()
}

func (f *FS) describe(b *strings.Builder, p string, node *inode) {
	if node.dir == nil {
		data := make([]byte, min(node.size, math.MaxInt))
		node.readAt(f.blockBytes, data, 0)
		fmt.Fprintf(b, "%s %d %016x\n", p, node.size, xxhash.Sum64(data))
		return
	}
	fmt.Fprintf(b, "%s\n", strings.TrimSuffix(p, "/")+"/")
	for _, name := range sortedNames(node.dir.entries) {
		f.describe(b, path.Join(p, name), node.dir.entries[name])
	}
}
