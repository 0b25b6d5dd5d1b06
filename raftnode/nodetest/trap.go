package nodetest

import (
	"strings"
	"sync"

	"github.com/raftkv/raftkv/raftnode/simfs"
)

// Place is a part of a node's disk where a trap can be set.
type Place uint8

const (
	// InLog are the Raft logs and the identity: written by the node itself. The operation that springs the trap fails, and with it the
	// node, so that nothing after it has an effect.
	InLog Place = iota + 1
	// InState are the state and staged snapshots: written by Pebble, which cannot be stopped in the middle. The disk is photographed at
	// the moment, and the node dies at the end of the event.
	InState
)

// trap is a crash that waits for a moment in the life of a disk, or an error of the disk.
type trap struct {
	disk *simfs.FS

	// mu guards what follows: Pebble's goroutines write, too. It is a leaf.
	mu    sync.Mutex
	place Place
	// count is how many changing operations of the place are let through.
	count int
	// syncs: only syncs count.
	syncs bool
	// fails, if set, is how the operation fails; nothing else happens then.
	fails  simfs.Fault
	crash  simfs.CrashOptions
	image  *simfs.FS
	failed bool
	// name is what springing it is counted as.
	name Event
	// during is the operation that sprang it.
	during simfs.Op
}

// set arms the trap, in the place of one that was set before. It springs once in a life. name is what that is counted as; Crash for
// what it is by the place.
func (t *trap) set(name Event, place Place, count int, syncs bool, fails simfs.Fault, crash simfs.CrashOptions) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.image == nil && !t.failed {
		t.name, t.place, t.count, t.syncs, t.fails, t.crash = name, place, count, syncs, fails, crash
	}
}

func (t *trap) sprung() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.image != nil
}

func (t *trap) faulty() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

func (t *trap) decide(op simfs.Op) simfs.Fault {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.place == 0 || !changes(op.Kind) || placeOf(op.Path) != t.place || t.syncs && op.Kind != simfs.OpSync && op.Kind != simfs.OpDirSync {
		return simfs.NoFault
	}
	if t.count > 0 {
		t.count--
		return simfs.NoFault
	}
	place := t.place
	t.place, t.during = 0, op
	if t.fails != simfs.NoFault {
		t.failed = true
		return t.fails
	}
	t.image = t.disk.Image(t.crash)
	if place == InState {
		return simfs.NoFault
	}
	return simfs.EIO
}

func placeOf(path string) Place {
	if path == dataDir+"/RESERVE" {
		return 0 // It holds nothing, and errors of it need not stop a node.
	}
	if strings.HasPrefix(path, dataDir+"/state") || strings.HasPrefix(path, dataDir+"/staging") {
		return InState
	}
	return InLog
}

func changes(k simfs.OpKind) bool {
	switch k {
	case simfs.OpCreate, simfs.OpWrite, simfs.OpSync, simfs.OpDirSync, simfs.OpTruncate, simfs.OpPreallocate, simfs.OpRemove,
		simfs.OpRename, simfs.OpLink, simfs.OpMkdir:
		return true
	}
	return false
}

// disarm takes back a trap that has not sprung.
func (t *trap) disarm() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.place = 0
}
