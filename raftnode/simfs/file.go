package simfs

import (
	"errors"
	"io"
	"os"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// file is an open file or directory. It stays usable when its names go. The FS's mu guards pos and closed.
type file struct {
	fs       *FS
	node     *inode
	path     string // under which it was opened
	writable bool
	pos      int64
	closed   bool
}

var _ vfs.File = (*file)(nil)

// open returns a handle. mu is held.
func (f *FS) open(node *inode, p string, writable bool) *file {
	node.handles++
	h := &file{fs: f, node: node, path: p, writable: writable}
	f.handles[h] = true
	return h
}

// Open opens a file or directory for reading.
func (f *FS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.openExisting(name, opts, false)
}

// OpenDir opens a directory, to sync it.
func (f *FS) OpenDir(name string) (vfs.File, error) {
	return f.openExisting(name, nil, true)
}

func (f *FS) openExisting(name string, opts []vfs.OpenOption, mustBeDir bool) (vfs.File, error) {
	p := clean(name)
	var h *file
	err := f.do(OpOpen, p, func(Fault) error {
		node, err := f.find(p)
		if err != nil {
			return err
		}
		if mustBeDir && node.dir == nil {
			return syscall.ENOTDIR
		}
		h = f.open(node, p, false)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, o := range opts {
		o.Apply(h)
	}
	return h, nil
}

// OpenReadWrite opens a file for reading and writing and creates it if it is missing.
func (f *FS) OpenReadWrite(name string, _ vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	p := clean(name)
	var h *file
	err := f.do(OpOpen, p, func(Fault) error {
		node, err := f.find(p)
		if errors.Is(err, syscall.ENOENT) {
			node, err = f.create(p)
		}
		if err != nil {
			return err
		}
		if node.dir != nil {
			return syscall.EISDIR
		}
		h = f.open(node, p, true)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, o := range opts {
		o.Apply(h)
	}
	return h, nil
}

// do runs an operation on the open file.
func (h *file) do(kind OpKind, act func(Fault) error) error {
	return h.fs.do(kind, h.path, func(fault Fault) error {
		if h.closed {
			return os.ErrClosed
		}
		return act(fault)
	})
}

// Close releases the handle. It works on a dead disk: programs may clean up behind themselves.
func (h *file) Close() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.closed {
		return pathError(Op{Kind: OpOpen, Path: h.path}, os.ErrClosed)
	}
	h.closed = true
	h.node.handles--
	delete(h.fs.handles, h)
	if h.node.dir == nil && !h.fs.dead {
		h.fs.release(h.node)
	}
	return nil
}

// Read reads on from where the last Read or Write ended.
func (h *file) Read(p []byte) (n int, err error) {
	err = h.do(OpRead, func(fault Fault) (err error) {
		n, err = h.read(p, h.pos, fault)
		h.pos += int64(n)
		return err
	})
	return n, plainEOF(n, len(p), err)
}

// ReadAt reads at an offset. At the end of the file it returns io.EOF with what there is.
func (h *file) ReadAt(p []byte, off int64) (n int, err error) {
	err = h.do(OpRead, func(fault Fault) (err error) {
		n, err = h.read(p, off, fault)
		return err
	})
	if err == nil && n < len(p) {
		return n, io.EOF
	}
	return n, err
}

// plainEOF is the end of a sequential read: readers compare io.EOF by identity.
func plainEOF(n, want int, err error) error {
	if err == nil && n == 0 && want > 0 {
		return io.EOF
	}
	return err
}

func (h *file) read(p []byte, off int64, fault Fault) (int, error) {
	if h.node.dir != nil {
		return 0, syscall.EISDIR
	}
	if off < 0 {
		return 0, syscall.EINVAL
	}
	n := h.node.readAt(h.fs.blockBytes, p, off)
	if fault == BitFlip && n > 0 {
		bit := h.fs.seed.below(n*8, "bitflip", h.node.id, uint64(off), uint64(n))
		p[bit/8] ^= 1 << (bit % 8)
	}
	h.fs.stats.BytesRead += uint64(n)
	return n, nil
}

// Write writes on from where the last Read or Write ended.
func (h *file) Write(p []byte) (n int, err error) {
	err = h.do(OpWrite, func(Fault) (err error) {
		n, err = h.write(p, h.pos)
		h.pos += int64(n)
		return err
	})
	return n, err
}

// WriteAt writes at an offset; a gap behind the end of the file reads as zeros.
func (h *file) WriteAt(p []byte, off int64) (n int, err error) {
	err = h.do(OpWrite, func(Fault) (err error) {
		n, err = h.write(p, off)
		return err
	})
	return n, err
}

// write writes as much as fits on the disk.
func (h *file) write(p []byte, off int64) (int, error) {
	switch {
	case !h.writable || h.node.dir != nil:
		return 0, syscall.EBADF
	case off < 0:
		return 0, syscall.EINVAL
	}
	room, err := h.fs.reserve(h.node, off+int64(len(p)))
	if err != nil {
		p = p[:max(0, min(int64(len(p)), room-off))]
	}
	if len(p) > 0 {
		before := h.node.space(h.fs.blockBytes)
		h.node.writeAt(h.fs.blockBytes, p, off)
		h.fs.grown(h.node, before)
	}
	h.fs.stats.BytesWritten += uint64(len(p))
	return len(p), err
}

// reserve reports whether a file may grow to size and, if not, the size to which it may.
func (f *FS) reserve(node *inode, size int64) (room int64, err error) {
	have, bs := node.space(f.blockBytes), int64(f.blockBytes)
	grow := int64(blocksFor(size, f.blockBytes)-have) * bs
	if f.quota == 0 || grow <= 0 || f.used+grow <= f.quota {
		return size, nil
	}
	free := max(0, f.quota-f.used) / bs
	return (int64(have) + free) * bs, syscall.ENOSPC
}

// grown accounts for a file whose space was before blocks.
func (f *FS) grown(node *inode, before int) {
	f.used += int64(node.space(f.blockBytes)-before) * int64(f.blockBytes)
}

// Truncate sets the size, as *os.File does; it is not part of vfs.File.
func (h *file) Truncate(size int64) error {
	return h.do(OpTruncate, func(Fault) error {
		switch {
		case !h.writable || h.node.dir != nil:
			return syscall.EBADF
		case size < 0:
			return syscall.EINVAL
		case size == h.node.size:
			return nil
		}
		if _, err := h.fs.reserve(h.node, size); err != nil {
			return err
		}
		before := h.node.space(h.fs.blockBytes)
		h.node.truncate(h.fs.blockBytes, size)
		h.fs.grown(h.node, before)
		return nil
	})
}

// Preallocate takes space from the quota for a range; the size of the file stays.
func (h *file) Preallocate(offset, length int64) error {
	return h.do(OpPreallocate, func(Fault) error {
		switch {
		case !h.writable || h.node.dir != nil:
			return syscall.EBADF
		case offset < 0 || length <= 0:
			return syscall.EINVAL
		}
		if _, err := h.fs.reserve(h.node, offset+length); err != nil {
			return err
		}
		before := h.node.space(h.fs.blockBytes)
		h.node.reserved = max(h.node.reserved, blocksFor(offset+length, h.fs.blockBytes))
		h.fs.grown(h.node, before)
		return nil
	})
}

// Sync makes the data and size of a file durable, or the names in a directory. It does not make the file's own name
// durable: that is the directory's.
func (h *file) Sync() error {
	if h.node.dir != nil {
		return h.do(OpDirSync, func(fault Fault) error {
			if errno := fault.errno(); errno != 0 {
				h.fs.forgetDir(h.node.dir)
				return errno
			}
			h.fs.syncDir(h.node.dir)
			return nil
		})
	}
	return h.do(OpSync, func(fault Fault) error {
		if errno := fault.errno(); errno != 0 {
			h.node.forget()
			return errno
		}
		h.fs.stats.BytesSynced += uint64(h.node.sync(h.fs.blockBytes) * h.fs.blockBytes)
		return nil
	})
}

// SyncData is Sync: the size is needed to read the data, and there are no other attributes.
func (h *file) SyncData() error { return h.Sync() }

// SyncTo promises nothing, as the interface allows, and says so.
func (h *file) SyncTo(int64) (fullSync bool, err error) {
	return false, h.do(OpSyncTo, func(Fault) error { return nil })
}

// Prefetch does nothing: reads never wait.
func (h *file) Prefetch(int64, int64) error { return nil }

// Fd returns that there is no descriptor.
func (h *file) Fd() uintptr { return vfs.InvalidFd }
