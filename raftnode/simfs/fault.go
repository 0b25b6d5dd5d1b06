package simfs

import (
	"path"
	"strings"
	"syscall"
)

// OpKind is a kind of operation.
type OpKind uint8

// The kinds of operations that a fault function sees.
const (
	OpCreate OpKind = iota + 1
	OpOpen
	OpRead
	OpWrite
	OpSync    // Sync and SyncData of a file
	OpSyncTo  // SyncTo of a file
	OpDirSync // Sync and SyncData of a directory
	OpTruncate
	OpPreallocate
	OpRemove
	OpRename // Path is the new name
	OpLink   // Path is the new name
	OpMkdir
	OpList
	OpStat
	OpLock

	// Not operations: how often a file was born under a path, and how often a path changed.
	eventBirth
	eventChange
)

var opNames = [...]string{
	OpCreate: "create", OpOpen: "open", OpRead: "read", OpWrite: "write", OpSync: "sync", OpSyncTo: "syncto",
	OpDirSync: "dirsync", OpTruncate: "truncate", OpPreallocate: "preallocate", OpRemove: "remove", OpRename: "rename",
	OpLink: "link", OpMkdir: "mkdir", OpList: "list", OpStat: "stat", OpLock: "lock",
}

// String returns the name of the kind.
func (k OpKind) String() string {
	if int(k) < len(opNames) && opNames[k] != "" {
		return opNames[k]
	}
	return "unknown"
}

// Op is an operation that is about to happen.
type Op struct {
	Kind OpKind
	// Path is absolute and clean. For an open file it is the name under which it was opened.
	Path string
	// Class is the file name without its number: "log" for 000012.log, "MANIFEST" for MANIFEST-000001, "LOCK" for LOCK.
	Class string
	// N numbers the operations of this kind on this path, from 1. It does not depend on what happens to other paths.
	N uint64
}

// Fault is what goes wrong with an operation.
type Fault uint8

const (
	// NoFault: nothing.
	NoFault Fault = iota
	// EIO fails the operation. A failing sync moreover forgets what was to be written: the file still reads as before, a
	// later sync succeeds, and a crash shows that the data never reached the disk.
	EIO
	// ENOSPC fails the operation; nothing is changed. On a sync it is an EIO under another name.
	ENOSPC
	// CrashBefore takes the power away just before the operation.
	CrashBefore
	// CrashAfter takes the power away just after the operation; its caller does not learn that it was done.
	CrashAfter
	// BitFlip lets a read return one wrong bit. On other operations it is nothing.
	BitFlip
)

func (f Fault) errno() syscall.Errno {
	switch f {
	case EIO:
		return syscall.EIO
	case ENOSPC:
		return syscall.ENOSPC
	}
	return 0
}

// SetFaults makes decide choose what goes wrong from now on; nil is nothing. It is called once for every operation, by
// the goroutine that does it, and may block to make the disk slow. Of the disk it may use only Image and Crash, which see
// the moment before the operation.
//
// To be repeatable it should decide by the Op alone, never by how often it was called.
func (f *FS) SetFaults(decide func(Op) Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = decide
}

// classOf returns the letters before the first digit of a file name or, if it starts with one, its extension.
func classOf(name string) string {
	base := path.Base(name)
	switch i := strings.IndexAny(base, "0123456789"); {
	case i < 0:
		return base
	case i == 0:
		return strings.TrimPrefix(path.Ext(base), ".")
	default:
		return strings.TrimRight(base[:i], "-._")
	}
}
