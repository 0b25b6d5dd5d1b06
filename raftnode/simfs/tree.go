package simfs

import (
	"errors"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Create creates a file. A file that has the name loses it and lives on under its others.
func (f *FS) Create(name string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	p := clean(name)
	var file *file
	err := f.do(OpCreate, p, func(Fault) error {
		node, err := f.create(p)
		if err != nil {
			return err
		}
		file = f.open(node, p, true)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return file, nil
}

// create makes p a new, empty file. mu is held.
func (f *FS) create(p string) (*inode, error) {
	dir, name, old, err := f.place(p)
	if err != nil {
		return nil, err
	}
	if old != nil && old.dir != nil {
		return nil, syscall.EISDIR
	}
	node := &inode{id: f.born(p), links: 1}
	f.alter(p, &change{removes: old != nil, touches: []touch{{dir, name, node}}})
	f.unlink(old)
	return node, nil
}

func (f *FS) born(p string) uint64 { return f.seed.hash("inode", p, f.count(eventBirth, p)) }

// unlink counts a lost name and frees the space of a file that nobody can reach. mu is held.
func (f *FS) unlink(node *inode) {
	if node == nil || node.dir != nil {
		return
	}
	node.links--
	f.release(node)
}

func (f *FS) release(node *inode) {
	if node.links == 0 && node.handles == 0 {
		f.used -= int64(node.space(f.blockBytes)) * int64(f.blockBytes)
	}
}

// Link gives a file another name.
func (f *FS) Link(oldname, newname string) error {
	from, to := clean(oldname), clean(newname)
	return f.do(OpLink, to, func(Fault) error {
		node, err := f.find(from)
		if err != nil {
			return err
		}
		dir, name, old, err := f.place(to)
		switch {
		case err != nil:
			return err
		case node.dir != nil:
			return syscall.EPERM
		case old != nil:
			return syscall.EEXIST
		}
		node.links++
		f.alter(to, &change{touches: []touch{{dir, name, node}}})
		return nil
	})
}

// Rename moves a file, over another if there is one, or a directory. A crash leaves it either before or after as a whole.
func (f *FS) Rename(oldname, newname string) error {
	from, to := clean(oldname), clean(newname)
	return f.do(OpRename, to, func(Fault) error { return f.rename(from, to) })
}

func (f *FS) rename(from, to string) error {
	fromDir, fromName, node, err := f.place(from)
	if err != nil {
		return err
	}
	if node == nil {
		return syscall.ENOENT
	}
	toDir, toName, old, err := f.place(to)
	switch {
	case err != nil:
		return err
	case old != nil && old.dir != nil:
		return syscall.EEXIST // as os.Rename
	case node == old:
		return nil // POSIX: two names of one file, both stay
	case strings.HasPrefix(to, from+"/"):
		return syscall.EINVAL
	case old != nil && node.dir != nil:
		return syscall.ENOTDIR
	}
	f.alter(to, &change{
		touches: []touch{{fromDir, fromName, nil}, {toDir, toName, node}},
		above:   births(toDir),
	})
	f.unlink(old)
	return nil
}

// ReuseForWrite renames a file and opens it for overwriting; its bytes stay.
func (f *FS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.Rename(oldname, newname); err != nil {
		return nil, err
	}
	return f.OpenReadWrite(newname, category)
}

// MkdirAll makes a directory and those above it that are missing.
func (f *FS) MkdirAll(name string, _ os.FileMode) error {
	p := clean(name)
	return f.do(OpMkdir, p, func(Fault) error { return f.mkdirAll(p) })
}

func (f *FS) mkdirAll(p string) error {
	if p == "/" {
		return nil
	}
	if err := f.mkdirAll(path.Dir(p)); err != nil {
		return err
	}
	dir, name, old, err := f.place(p)
	switch {
	case err != nil:
		return err
	case old != nil && old.dir == nil:
		return syscall.ENOTDIR
	case old != nil:
		return nil
	}
	id := f.born(p)
	node := &inode{id: id, dir: newDirectory(id)}
	f.alter(p, &change{touches: []touch{{dir, name, node}}})
	return nil
}

// Remove removes a file's name or an empty directory.
func (f *FS) Remove(name string) error {
	p := clean(name)
	return f.do(OpRemove, p, func(Fault) error { return f.remove(p) })
}

func (f *FS) remove(p string) error {
	dir, name, node, err := f.place(p)
	if err != nil {
		return err
	}
	if node == nil {
		return syscall.ENOENT
	}
	c := &change{removes: true, touches: []touch{{dir, name, nil}}}
	if node.dir != nil {
		if len(node.dir.entries) > 0 {
			return syscall.ENOTEMPTY
		}
		c.after = f.pendingIn(node.dir)
	}
	f.alter(p, c)
	f.unlink(node)
	return nil
}

// RemoveAll removes a file or a directory with everything in it. That there is nothing is no error.
func (f *FS) RemoveAll(name string) error {
	p := clean(name)
	return f.do(OpRemove, p, func(Fault) error {
		err := f.removeAll(p)
		if errors.Is(err, syscall.ENOENT) {
			return nil
		}
		return err
	})
}

func (f *FS) removeAll(p string) error {
	node, err := f.find(p)
	if err != nil {
		return err
	}
	if node.dir != nil {
		for _, name := range sortedNames(node.dir.entries) {
			if err := f.removeAll(path.Join(p, name)); err != nil {
				return err
			}
		}
	}
	return f.remove(p)
}
