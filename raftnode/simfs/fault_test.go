package simfs

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// nth fails the n-th operation of a kind on a path.
func nth(kind OpKind, path string, n uint64, fault Fault) func(Op) Fault {
	return func(op Op) Fault {
		if op.Kind == kind && op.Path == path && op.N == n {
			return fault
		}
		return NoFault
	}
}

// TestFailedSyncForgets: the error comes once, the file still reads well, the next sync succeeds, and the data is gone.
func TestFailedSyncForgets(t *testing.T) {
	f := New(Options{})
	h := saved(t, f, "a", "old")
	f.SetFaults(nth(OpSync, "/a", 2, EIO))
	_, err := h.WriteAt([]byte("new"), 0)
	must(t, err)
	if err := h.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("sync: %v, want EIO", err)
	}
	must(t, h.Sync())
	if got := content(t, f, "a"); got != "new" {
		t.Errorf("before the crash: %q", got)
	}
	for _, keep := range []Survival{KeepSynced, KeepSome, KeepOrdered, KeepAll} {
		if got := content(t, f.Image(CrashOptions{Keep: keep}), "a"); got != "old" {
			t.Errorf("after the crash, keep %d: %q", keep, got)
		}
	}
	// A later write to the page takes the forgotten bytes along.
	_, err = h.WriteAt([]byte("!"), 3)
	must(t, err)
	must(t, h.Sync())
	if got := content(t, f.Crash(CrashOptions{}), "a"); got != "new!" {
		t.Errorf("after another write: %q", got)
	}
}

func TestFailedDirSyncForgets(t *testing.T) {
	f := New(Options{})
	must(t, create(t, f, "a", "data").Sync())
	f.SetFaults(nth(OpDirSync, "/", 1, EIO))
	d, err := f.OpenDir("/")
	must(t, err)
	if err := d.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("sync: %v, want EIO", err)
	}
	must(t, d.Sync())
	must(t, f.Rename("a", "b")) // comes after what was forgotten
	must(t, d.Sync())
	for _, keep := range []Survival{KeepSynced, KeepAll} {
		if names, _ := f.Image(CrashOptions{Keep: keep}).List("/"); len(names) > 0 {
			t.Errorf("keep %d: %v survives", keep, names)
		}
	}
}

func TestFaultsFailOperations(t *testing.T) {
	f := New(Options{})
	h := saved(t, f, "a", "data")
	f.SetFaults(func(op Op) Fault {
		switch op.Kind {
		case OpWrite:
			return ENOSPC
		case OpRename:
			return EIO
		}
		return NoFault
	})
	if _, err := h.Write([]byte("x")); !vfs.IsNoSpaceError(err) {
		t.Errorf("write: %v, want ENOSPC", err)
	}
	if err := f.Rename("a", "b"); !errors.Is(err, syscall.EIO) {
		t.Errorf("rename: %v, want EIO", err)
	}
	f.SetFaults(nil)
	if got := content(t, f, "a"); got != "data" {
		t.Errorf("the file holds %q", got)
	}
}

func TestBitFlip(t *testing.T) {
	f := New(Options{})
	data := strings.Repeat("data", 100)
	h := saved(t, f, "a", data)
	f.SetFaults(nth(OpRead, "/a", 2, BitFlip))
	var differ []int
	for range 3 {
		got := make([]byte, len(data))
		_, err := h.ReadAt(got, 0)
		must(t, err)
		bits := 0
		for i := range got {
			for x := got[i] ^ data[i]; x != 0; x &= x - 1 {
				bits++
			}
		}
		differ = append(differ, bits)
	}
	if !slices.Equal(differ, []int{0, 1, 0}) {
		t.Errorf("wrong bits by read: %v, want one in the second", differ)
	}
}

func TestCrashAtOperation(t *testing.T) {
	for fault, want := range map[Fault]string{CrashBefore: "old", CrashAfter: "new"} {
		f := New(Options{})
		h := saved(t, f, "a", "old")
		_, err := h.WriteAt([]byte("new"), 0)
		must(t, err)
		f.SetFaults(nth(OpSync, "/a", 2, fault))
		if err := h.Sync(); !errors.Is(err, ErrCrashed) {
			t.Errorf("sync: %v, want ErrCrashed", err)
		}
		if _, err := f.List("/"); !errors.Is(err, ErrCrashed) {
			t.Errorf("list: %v, want ErrCrashed", err)
		}
		if got := content(t, f.Crash(CrashOptions{}), "a"); got != want {
			t.Errorf("fault %d leaves %q, want %q", fault, got, want)
		}
	}
}

func TestOpsAreNumberedByPath(t *testing.T) {
	f := New(Options{})
	var got []Op
	f.SetFaults(func(op Op) Fault { got = append(got, op); return NoFault })
	for _, n := range []string{"000001.log", "MANIFEST-000002", "000001.log"} {
		must(t, create(t, f, n, "x").Close())
	}
	want := []Op{
		{OpCreate, "/000001.log", "log", 1},
		{OpWrite, "/000001.log", "log", 1},
		{OpCreate, "/MANIFEST-000002", "MANIFEST", 1},
		{OpWrite, "/MANIFEST-000002", "MANIFEST", 1},
		{OpCreate, "/000001.log", "log", 2},
		{OpWrite, "/000001.log", "log", 2},
	}
	if !slices.Equal(got, want) {
		t.Errorf("operations %v\nwant %v", got, want)
	}
}

func TestQuota(t *testing.T) {
	f := New(Options{QuotaBytes: 4 * 4096})
	h := saved(t, f, "a", "")
	must(t, h.Preallocate(0, 2*4096))
	if n, err := h.Write(make([]byte, 3*4096)); err != nil || n != 3*4096 {
		t.Fatalf("write: %d, %v", n, err)
	}
	if n, err := h.Write(make([]byte, 2*4096)); n != 4096 || !vfs.IsNoSpaceError(err) {
		t.Errorf("write beyond the quota: %d, %v, want one block and ENOSPC", n, err)
	}
	if _, err := h.WriteAt([]byte("x"), 0); err != nil {
		t.Errorf("overwriting on a full disk: %v", err)
	}
	usage(t, f, 4, 0)
	must(t, f.Remove("a"))
	usage(t, f, 4, 0) // still open
	must(t, h.Close())
	usage(t, f, 0, 4)
	f.SetQuota(0)
	big := create(t, f, "b", strings.Repeat("x", 9*4096))
	must(t, big.Sync())
	syncDir(t, f, "/")
	f.SetQuota(10 * 4096)
	usage(t, f.Crash(CrashOptions{}), 9, 1)
}

func usage(t *testing.T, f *FS, used, avail uint64) {
	t.Helper()
	u, err := f.GetDiskUsage("/")
	must(t, err)
	if u.UsedBytes != used*4096 || u.AvailBytes != avail*4096 {
		t.Errorf("usage %+v, want %d blocks used and %d left", u, used, avail)
	}
}

func TestLock(t *testing.T) {
	f := New(Options{})
	l, err := f.Lock("d/LOCK")
	if !errors.Is(err, os.ErrNotExist) || l != nil {
		t.Errorf("lock in no directory: %v, %v", l, err)
	}
	must(t, f.MkdirAll("d", 0o755))
	l, err = f.Lock("d/LOCK")
	must(t, err)
	if _, err := f.Lock("/d/../d/LOCK"); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("second lock: %v, want EAGAIN", err)
	}
	must(t, l.Close())
	l, err = f.Lock("d/LOCK")
	must(t, err)
	must(t, l.Close())
	if err := l.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("second unlock: %v, want ErrClosed", err)
	}
}

func TestStats(t *testing.T) {
	f := New(Options{})
	h := saved(t, f, "a", "data")
	must(t, f.Link("a", "b"))
	must(t, f.Rename("b", "c"))
	must(t, f.Remove("c"))
	_, err := h.ReadAt(make([]byte, 8), 0)
	if err != io.EOF {
		t.Errorf("short read: %v, want io.EOF", err)
	}
	want := Stats{
		FileSyncs: 1, DirSyncs: 1, Writes: 1, Reads: 1, Creates: 1, Removes: 1, Renames: 1, Links: 1,
		BytesWritten: 4, BytesRead: 4, BytesSynced: 4096,
	}
	if got := f.Stats(); got != want {
		t.Errorf("stats %+v, want %+v", got, want)
	}
}

func TestOpenFiles(t *testing.T) {
	f := New(Options{})
	b := create(t, f, "b", "")
	a := create(t, f, "a", "")
	d, err := f.OpenDir("/")
	must(t, err)
	must(t, b.Close())
	f.Crash(CrashOptions{})
	if got, want := f.OpenFiles(), []string{"/", "/a"}; !slices.Equal(got, want) {
		t.Errorf("open are %q, want %q", got, want)
	}
	must(t, a.Close())
	must(t, d.Close())
	if got := f.OpenFiles(); len(got) > 0 {
		t.Errorf("%q are open after all were closed", got)
	}
}
