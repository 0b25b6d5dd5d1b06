package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

const (
	quota       = 64 << 20
	testReserve = 16 << 20
	valueBytes  = 32 << 10
	tick        = 20 * time.Millisecond
	patience    = 3 * time.Minute
)

// openReserveOn opens a reserve of 16 blocks.
func openReserveOn(t *testing.T, fs *simfs.FS) *reserve {
	t.Helper()
	if err := fs.MkdirAll("/data", 0o700); err != nil {
		t.Fatal(err)
	}
	r := &reserve{fs: fs, dir: "/data", log: quietLog(), bytes: 16 * 4096}
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	return r
}

// fillDisk leaves so many blocks of a disk.
func fillDisk(t *testing.T, fs *simfs.FS, left int64) {
	t.Helper()
	u, err := fs.GetDiskUsage("/")
	if err != nil {
		t.Fatal(err)
	}
	f, err := fs.Create("/others", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	u, err = fs.GetDiskUsage("/")
	if take := int64(u.AvailBytes) - left*4096; err == nil && take > 0 {
		err = f.Preallocate(0, take)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// A disk is full below three quarters of the reserve, and no longer once an eighth more is free.
func TestReserveMarks(t *testing.T) {
	fs := simfs.New(simfs.Options{QuotaBytes: 64 * 4096})
	r := openReserveOn(t, fs)
	if !r.held || r.full.Load() || r.free.Load() != 60*4096 {
		t.Fatalf("held %t, full %t, free %d: want the file of 4 blocks", r.held, r.full.Load(), r.free.Load())
	}
	for _, step := range []struct {
		left          int64
		full, changed bool
	}{{12, false, false}, {11, true, true}, {12, true, false}, {13, true, false}, {14, false, true}, {13, false, false}} {
		fillDisk(t, fs, step.left)
		if changed, err := r.look(); err != nil || changed != step.changed || r.full.Load() != step.full {
			t.Errorf("%d blocks free: full %t, changed %t; want %t, %t", step.left, r.full.Load(), changed, step.full, step.changed)
		}
	}
}

// A node that finds a disk on which nothing fits gives up the file, is full, and makes it again once there is room for all.
func TestReserveIsReleasedOnAFullDisk(t *testing.T) {
	fs := simfs.New(simfs.Options{QuotaBytes: 64 * 4096})
	openReserveOn(t, fs)
	fillDisk(t, fs, 0)
	r := openReserveOn(t, fs)
	if r.held || !r.full.Load() || r.free.Load() != 4*4096 {
		t.Fatalf("held %t, full %t, free %d", r.held, r.full.Load(), r.free.Load())
	}
	fillDisk(t, fs, 17)
	if _, err := r.look(); err != nil || r.held || !r.full.Load() {
		t.Errorf("17 blocks free: held %t, full %t", r.held, r.full.Load())
	}
	fillDisk(t, fs, 18)
	if _, err := r.look(); err != nil || !r.held || r.full.Load() || r.free.Load() != 14*4096 {
		t.Errorf("18 blocks free: held %t, full %t, free %d", r.held, r.full.Load(), r.free.Load())
	}
}

// openOnQuota opens a cluster of one node on a small disk.
func openOnQuota(t *testing.T, fs *simfs.FS) *Node {
	t.Helper()
	n, err := Open(Options{
		NodeID: "n1", Dir: "/data", FS: fs, DiskReserve: testReserve, Logger: quietLog(),
		HeartbeatInterval: tick, ElectionTimeout: 200 * time.Millisecond,
	})
	if err == nil {
		err = n.Formed(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// change puts or deletes a key; a node that is behind is asked again.
func change(t *testing.T, n *Node, kind storev1.OperationKind, i int) error {
	t.Helper()
	op := &storev1.Operation{Kind: kind, Key: fmt.Sprintf("key-%d", i)}
	if kind == storev1.OperationKind_OPERATION_KIND_PUT {
		op.Value = make([]byte, valueBytes)
		for j := 0; j < valueBytes; j += 8 {
			binary.LittleEndian.PutUint64(op.Value[j:], n.random()) // so that nothing is compressed
		}
	}
	return askAgain(func(err error) bool { over := (*OverloadedError)(nil); return errors.As(err, &over) }, func() error {
		return n.Do(t.Context(), &Request{AutoShard: true, Command: &storev1.Command{
			Body: &storev1.Command_Write{Write: &storev1.Write{Operations: []*storev1.Operation{op}}},
		}}).Err
	})
}

// askAgain asks as a client does that is told to come back later, and returns the first answer that is none of those, or the last one.
func askAgain(later func(error) bool, ask func() error) error {
	for end := time.Now().Add(patience); ; <-time.After(tick) {
		if err := ask(); err == nil || !later(err) || time.Now().After(end) {
			return err
		}
	}
}

// fill puts keys from one on until the node says that its disk is full, and returns the first that it did not take.
func fill(t *testing.T, n *Node, from int) int {
	t.Helper()
	for i := from; i < from+quota/valueBytes; i++ {
		err := change(t, n, storev1.OperationKind_OPERATION_KIND_PUT, i)
		if full := (*DiskFullError)(nil); errors.As(err, &full) {
			if full.Node != "n1" || full.Shard != DataShard {
				t.Errorf("full: %+v", full)
			}
			return i
		}
		if err != nil {
			t.Fatalf("put %d: %v", i, err)
		}
	}
	t.Fatal("more fits on the disk than there is")
	return 0
}

// A node whose disk fills up refuses puts before the disk is full; reads and deletes go on, and when a part is deleted it takes puts again by itself,
// though nothing else is written (R24).
func TestFullDiskTakesDeletesAndRecovers(t *testing.T) {
	n := openOnQuota(t, simfs.New(simfs.Options{QuotaBytes: quota}))
	defer n.Close()
	first, end := 0, 0 // of the keys that there are
	for range 3 {
		end = fill(t, n, end)
		t.Logf("%d keys fill the disk", end-first)
		if res := n.Do(t.Context(), &Request{AutoShard: true, Read: &peerv1.ReadRequest{Keys: []string{"key-0"}}}); res.Err != nil {
			t.Errorf("read: %v", res.Err)
		}
		for gone := first + (end-first)/3; first < gone; first++ {
			if err := change(t, n, storev1.OperationKind_OPERATION_KIND_DELETE, first); err != nil {
				t.Fatalf("delete %d of %d: %v (%v)", first, end, err, n.Err())
			}
		}
		err := askAgain(func(err error) bool { full := (*DiskFullError)(nil); return errors.As(err, &full) }, func() error {
			return change(t, n, storev1.OperationKind_OPERATION_KIND_PUT, end)
		})
		if err != nil {
			t.Fatalf("put, with %d of %d keys deleted: %v", first, end, err)
		}
		end++
	}
	if n.Metrics().RefusedGrowth == 0 {
		t.Error("no write was refused")
	}
}

// When others fill the disk, the node stops at the first write that does not fit (R6). It starts again on the full disk, serves reads and deletes, and
// refuses puts until somebody makes room.
func TestNodeStartsOnAFullDisk(t *testing.T) {
	fs := simfs.New(simfs.Options{QuotaBytes: quota})
	n := openOnQuota(t, fs)
	for i := range 20 {
		if err := change(t, n, storev1.OperationKind_OPERATION_KIND_PUT, i); err != nil {
			t.Fatal(err)
		}
	}
	fillDisk(t, fs, 0)
	// The log has the rest of its segment yet.
	fs.SetFaults(func(op simfs.Op) simfs.Fault {
		if op.Kind == simfs.OpWrite && strings.HasPrefix(op.Path, "/data/log/") {
			return simfs.ENOSPC
		}
		return simfs.NoFault
	})
	if err := change(t, n, storev1.OperationKind_OPERATION_KIND_DELETE, 0); err == nil {
		t.Error("a delete that did not fit into the log is acknowledged")
	}
	if !errors.Is(n.Err(), syscall.ENOSPC) {
		t.Errorf("the node failed with %v", n.Err())
	}
	left := fs.Image(simfs.CrashOptions{Keep: simfs.KeepAll})
	fs.SetFaults(nil)
	fs.SetQuota(0)
	if err := n.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("close: %v", err)
	}
	n = openOnQuota(t, left)
	defer n.Close()
	full := (*DiskFullError)(nil)
	if err := change(t, n, storev1.OperationKind_OPERATION_KIND_PUT, 0); !errors.As(err, &full) {
		t.Errorf("put: %v", err)
	}
	for i := range 20 {
		res := n.Do(t.Context(), &Request{AutoShard: true, Read: &peerv1.ReadRequest{Keys: []string{fmt.Sprintf("key-%d", i)}}})
		if res.Err != nil || len(res.Read.GetRecords()[0].GetRecord().GetValue()) != valueBytes {
			t.Errorf("read %d: %v", i, res.Err)
		}
		if err := change(t, n, storev1.OperationKind_OPERATION_KIND_DELETE, i); err != nil {
			t.Errorf("delete %d: %v", i, err)
		}
	}
}
