package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/failpoint"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
)

// What a data directory holds.
const (
	identityName = "IDENTITY"
	lockName     = "LOCK"
	logName      = "log"
	stateName    = "state"
	stagingName  = "staging"
	// quarantineName is where a damaged log or state waits for all replicas in it to be replaced.
	quarantineName = "quarantine"

	identityFormat = 1
)

// ErrInUse says that another process has the data directory open.
var ErrInUse = errors.New("the data directory is in use by another process; stop that one, or give this node a directory of its own")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// readIdentity reads whose directory it is; nil if it is nobody's yet.
func readIdentity(fs vfs.FS, dir string) (*storev1.Identity, error) {
	path := fs.PathJoin(dir, identityName)
	f, err := fs.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	data, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) < 5 {
		return nil, fmt.Errorf("%s is damaged: %d bytes; replace the node by a new one", path, len(data))
	}
	body, sum := data[:len(data)-4], binary.BigEndian.Uint32(data[len(data)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, fmt.Errorf("%s is damaged: its checksum does not fit; replace the node by a new one", path)
	}
	if body[0] != identityFormat {
		return nil, fmt.Errorf("%s has format %d, this version of raftkv knows format %d: use the version that wrote it or a newer one", path, body[0], identityFormat)
	}
	id := &storev1.Identity{}
	if err := id.UnmarshalVT(body[1:]); err != nil {
		return nil, fmt.Errorf("decode %s: %w", path, err)
	}
	return id, nil
}

// writeIdentity replaces the identity: file, fsync, rename, fsync of the directory (R7).
func writeIdentity(fs vfs.FS, dir string, id *storev1.Identity) error {
	body, err := id.MarshalVT()
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	body = append([]byte{identityFormat}, body...)
	body = binary.BigEndian.AppendUint32(body, crc32.Checksum(body, castagnoli))
	path := fs.PathJoin(dir, identityName)
	if err := writeDurably(fs, dir, path, body); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// replaceIdentity makes an identity durable, and then that of the node. The caller holds identityMu.
func (n *Node) replaceIdentity(id *storev1.Identity) error {
	if err := writeIdentity(n.options.FS, n.options.Dir, id); err != nil {
		return err
	}
	n.identity.Store(id)
	return nil
}

// writeDurably writes a file so that after a crash either the old or the new content is there (R7).
func writeDurably(fs vfs.FS, dir, path string, content []byte) error {
	tmp := path + ".tmp"
	f, err := fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	failpoint.Hit(failpoint.IdentityWritten)
	if err := fs.Rename(tmp, path); err != nil {
		return err
	}
	failpoint.Hit(failpoint.IdentityNamed)
	if planted.Is(planted.IdentityNameNotSynced) {
		return nil // R7
	}
	return syncDir(fs, dir)
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// openDir makes the data directory, takes its lock and reads or mints the identity. An empty directory gets a random incarnation and
// may answer probes only, until the cluster forms (R13).
func (n *Node) openDir() error {
	fs, dir := n.options.FS, n.options.Dir
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	lock, err := fs.Lock(fs.PathJoin(dir, lockName))
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrInUse, dir, err)
	}
	n.lock = lock
	n.reserve.fs, n.reserve.dir, n.reserve.log, n.reserve.bytes = fs, dir, n.log, n.options.DiskReserve
	if err := n.reserve.open(); err != nil {
		return err
	}
	n.options.fit(n.reserve.bytes)
	id, err := readIdentity(fs, dir)
	if err != nil {
		return err
	}
	if id == nil {
		id = &storev1.Identity{NodeId: string(n.options.NodeID), Incarnation: n.random() | 1}
		if err := n.syncParents(); err != nil {
			return err
		}
		if err := writeIdentity(fs, dir, id); err != nil {
			return err
		}
	}
	if placement.NodeID(id.GetNodeId()) != n.options.NodeID {
		return fmt.Errorf("the data directory %s belongs to node %s, not to node %s: set node_id or data_dir right", dir, id.GetNodeId(), n.options.NodeID)
	}
	if f := id.GetFormation(); f != nil {
		if err := checkFormation(f); err != nil {
			return fmt.Errorf("%s holds a formation that is not sound: %w; replace the node by a new one", fs.PathJoin(dir, identityName), err)
		}
	}
	n.identity.Store(id)
	// Whatever was staged and not intended to be installed is of no use any more; recovery keeps what an intent names.
	return fs.MkdirAll(fs.PathJoin(dir, stagingName), 0o700)
}

// syncParents makes the name of a new data directory durable, and those of all directories above it: any of them may have been made with
// it, now or before a crash. One that may not be read was not.
func (n *Node) syncParents() error {
	fs, dir := n.options.FS, n.options.Dir
	for parent := fs.PathDir(dir); parent != dir; dir, parent = parent, fs.PathDir(parent) {
		if err := syncDir(fs, parent); err != nil && !errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("sync %s, above the data directory: %w", parent, err)
		}
	}
	return nil
}

// LockDir takes the lock of the data directory of a stopped node, for tools that read it.
func LockDir(fs vfs.FS, dir string) (io.Closer, error) {
	if id, err := readIdentity(fs, dir); err != nil {
		return nil, err
	} else if id == nil {
		return nil, fmt.Errorf("%s is not the data directory of a node", dir)
	}
	lock, err := fs.Lock(fs.PathJoin(dir, lockName))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInUse, dir, err)
	}
	return lock, nil
}

// LogDir is where the logs are in a data directory.
func LogDir(fs vfs.FS, dir string) string { return fs.PathJoin(dir, logName) }
