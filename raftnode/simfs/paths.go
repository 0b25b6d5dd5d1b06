package simfs

import (
	"path"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// paths is the part of vfs.FS that only handles text. Paths are separated by slashes; relative ones start at the root.
type paths struct{}

// PathBase returns the last element of p.
func (paths) PathBase(p string) string { return path.Base(p) }

// PathJoin joins path elements.
func (paths) PathJoin(elem ...string) string { return path.Join(elem...) }

// PathDir returns all but the last element of p.
func (paths) PathDir(p string) string { return path.Dir(p) }

// Unwrap returns nil: there is no other file system below.
func (paths) Unwrap() vfs.FS { return nil }

// clean makes a path absolute, so that one file has one text for each of its names.
func clean(p string) string { return path.Clean("/" + p) }

// find returns the inode at a clean path. mu is held.
func (f *FS) find(p string) (*inode, error) {
	node := f.root
	for name := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		if name == "" {
			break // the root
		}
		if node.dir == nil {
			return nil, syscall.ENOTDIR
		}
		child, ok := node.dir.entries[name]
		if !ok {
			return nil, syscall.ENOENT
		}
		node = child
	}
	return node, nil
}

// place returns the directory and the name of a clean path, and the inode there or nil. mu is held.
func (f *FS) place(p string) (*directory, string, *inode, error) {
	if p == "/" {
		return nil, "", nil, syscall.EBUSY // the root has no name to change
	}
	parent, err := f.find(path.Dir(p))
	if err != nil {
		return nil, "", nil, err
	}
	if parent.dir == nil {
		return nil, "", nil, syscall.ENOTDIR
	}
	name := path.Base(p)
	return parent.dir, name, parent.dir.entries[name], nil
}
