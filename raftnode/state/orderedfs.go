package state

import (
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/raftkv/raftkv/raftnode/planted"
)

// orderedFS closes two gaps of Pebble v2.1.7 in the order of what becomes durable (R7, R6).
//
// Pebble makes a new MANIFEST and then the marker file that names it, and syncs the directory once, after both. A crash before that may
// keep the marker's name and lose the MANIFEST's, and the store can not be opened any more. Here the directory is synced before a marker is
// made.
//
// Pebble panics when the sync of a directory fails; here that is a fatal error like any other.
//
// What compactions write goes through room.
type orderedFS struct {
	vfs.FS
	fatal *fatality
	room  *room
}

const markerPrefix = "marker."

func (f *orderedFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(f.PathBase(name), markerPrefix) && !planted.Is(planted.ManifestAfterMarker) { // R7
		if err := syncDir(f.FS, f.PathDir(name)); err != nil {
			return nil, err
		}
	}
	if c == compactionCategory {
		return f.room.file(name, f.FS.Create)
	}
	return f.FS.Create(name, c)
}

func (f *orderedFS) OpenDir(name string) (vfs.File, error) {
	d, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &orderedDir{File: d, name: name, fatal: f.fatal}, nil
}

func (f *orderedFS) Unwrap() vfs.FS { return f.FS }

type orderedDir struct {
	vfs.File
	name  string
	fatal *fatality
}

func (d *orderedDir) Sync() error {
	if err := d.File.Sync(); err != nil {
		d.fatal.abandon(fmt.Errorf("sync directory %s: %w", d.name, err))
	}
	return nil
}

func syncDir(fs vfs.FS, name string) error {
	d, err := fs.OpenDir(name)
	if err != nil {
		return fmt.Errorf("open directory %s: %w", name, err)
	}
	if err := d.Sync(); err != nil {
		_ = d.Close()
		return fmt.Errorf("sync directory %s: %w", name, err)
	}
	return d.Close()
}

// makeDir makes a directory whose name is durable.
func makeDir(fs vfs.FS, dir string) error {
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	return syncDir(fs, fs.PathDir(dir))
}
