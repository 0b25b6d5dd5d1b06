package state

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/raftkv/raftkv/raftnode/simfs"
)

const (
	smallDisk   = 16 << 20
	fullAt      = 6 << 20
	fillerBytes = 16 << 10
)

// free is the free space of a disk.
func free(t *testing.T, fs vfs.FS) uint64 {
	t.Helper()
	u, err := fs.GetDiskUsage("/")
	if err != nil {
		t.Fatal(err)
	}
	return u.AvailBytes
}

// becomesFree waits for so much free space. Pebble removes files beside us, one after the other.
func becomesFree(t *testing.T, fs vfs.FS, want uint64) {
	t.Helper()
	for began := time.Now(); free(t, fs) < want; runtime.Gosched() {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("%d bytes are free, want %d", free(t, fs), want)
		}
	}
}

// flushed flushes what is committed.
func (m *machine) flushed() {
	m.t.Helper()
	done, err := m.store.Flush()
	if err != nil {
		m.t.Fatal(err)
	}
	<-done
}

// fillUntil puts keys with values of so many bytes that cannot be compressed until the disk has so little room left, and returns how many there are.
func (m *machine) fillUntil(fs *simfs.FS, left uint64, bytes int) int {
	value := make([]byte, bytes)
	r := rand.NewChaCha8([32]byte{})
	for i := 0; ; i++ {
		if free(m.t.(*testing.T), fs) < left {
			return i
		}
		_, _ = r.Read(value)
		m.commit(putCommand(fmt.Sprintf("key-%d", i), string(value)))
		if i%(1<<20/bytes) == 0 {
			m.flushed()
		}
	}
}

// What is deleted comes back as free space though nothing else is written: Pebble alone leaves it where it is for as long as nothing makes a level
// too large (R24).
func TestReclaim(t *testing.T) {
	fs := simfs.New(simfs.Options{QuotaBytes: smallDisk})
	o := testOptions(fs)
	o.CompactionsLeave = 1 << 20
	m := newServing(t, o)
	keys := m.fillUntil(fs, fullAt, fillerBytes)
	for i := range keys {
		m.commit(writeCommand(deleteOp(fmt.Sprintf("key-%d", i))))
	}
	m.commit(trimCommand(m.shard.Position().Revision, 1<<20))
	m.flushed()
	if whole, err := m.store.Reclaim(t.Context(), func() bool { return false }); !whole || err != nil {
		t.Fatal(whole, err)
	}
	becomesFree(t, fs, smallDisk-1<<20) // Nothing is stored but tombstones.
	checkDigests(t, m.store, testShard)
}

// Reclaim ends once there is enough room, or its caller has none any more.
func TestReclaimEnds(t *testing.T) {
	fs := simfs.New(simfs.Options{QuotaBytes: smallDisk})
	m := newServing(t, testOptions(fs))
	m.fillUntil(fs, fullAt, fillerBytes)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if whole, err := m.store.Reclaim(ctx, func() bool { return true }); !whole || err != nil {
		t.Errorf("something was compacted though there was enough: %t, %v", whole, err)
	}
	if whole, err := m.store.Reclaim(ctx, func() bool { return false }); whole || !errors.Is(err, context.Canceled) {
		t.Errorf("reclaim: %t, %v", whole, err)
	}
}

// A compaction that the disk has no room for ends without harm: it leaves what it has to, what it wrote is gone, the store goes on, and once there is
// room it is done.
func TestCompactionsLeaveRoom(t *testing.T) {
	for _, c := range []struct {
		name        string
		leave, room uint64
	}{{"some is left", 1 << 20, 1<<20 + bytesPerSync/2}, {"all is taken", 0, 1 << 16}} {
		t.Run(c.name, func(t *testing.T) {
			fs := simfs.New(simfs.Options{QuotaBytes: smallDisk})
			o := testOptions(fs)
			o.CompactionsLeave, o.MemTableBytes = c.leave, 1<<20
			m := newServing(t, o)
			m.store.room.compactions.shut()                 // so that all is in level 0
			keys := m.fillUntil(fs, 4<<20, separateBytes/2) // in records, which are written anew together
			m.commit(writeCommand(deleteOp("key-0")))
			m.flushed()
			fs.SetQuota(smallDisk - int64(free(t, fs)-c.room))
			room, least := free(t, fs), atomic.Uint64{}
			least.Store(room)
			fs.SetFaults(func(op simfs.Op) simfs.Fault {
				if op.Kind == simfs.OpWrite {
					least.Store(min(least.Load(), free(t, fs)))
				}
				return simfs.NoFault
			})
			tables := m.store.db.Metrics().Levels[0].TablesCount
			if whole, err := m.store.Reclaim(t.Context(), func() bool { return false }); whole || err != nil {
				t.Fatalf("reclaimed everything without room for that: %t, %v", whole, err)
			}
			// Each step lets compactions go on, and the next one that finds no room stops them again.
			if failed := m.store.db.Metrics().Compact.FailedCount; failed == 0 || failed > tables {
				t.Errorf("%d compactions were ended for want of room, of %d tables", failed, tables)
			}
			records, _ := sectionSpan(testShard, sectionRecord)
			m.store.ResumeCompactions()
			if err := m.store.compact(t.Context(), records, append(records, 0xff)); !errors.Is(err, errNoRoom) || !m.store.CompactionsWait() {
				t.Errorf("a compaction of all records ended with %v, or others go on", err)
			}
			fs.SetFaults(nil)
			if least.Load() < c.leave {
				t.Errorf("%d bytes were left; want %d", least.Load(), c.leave)
			}
			becomesFree(t, fs, room)
			fs.SetQuota(0)
			m.commit(putCommand("another", "value"))
			m.flushed()
			if whole, err := m.store.Reclaim(t.Context(), func() bool { return false }); !whole || err != nil || m.store.db.Metrics().Levels[0].TablesCount != 0 {
				t.Errorf("not reclaimed where there is room: %t, %v", whole, err)
			}
			checkDigests(t, m.store, testShard)
			for i := range keys {
				r, err := viewOf(t, m.store).Get(testShard, fmt.Sprintf("key-%d", i))
				if err != nil || (len(r.GetValue()) == separateBytes/2) != (i > 0) {
					t.Errorf("key-%d: %d bytes, %v", i, len(r.GetValue()), err)
				}
			}
		})
	}
}

// A compaction that is asked for ends without waiting for room, and a store closes beside it.
func TestCompactionsDoNotWaitForRoom(t *testing.T) {
	m := newServing(t, testOptions(newDisk()))
	m.flushed()
	m.store.room.foundNone(errNoRoom)
	if err := m.store.compact(t.Context(), []byte{0}, []byte{255}); !errors.Is(err, errNoRoom) {
		t.Errorf("compact: %v", err)
	}
	if err := m.store.Close(); err != nil {
		t.Error(err)
	}
}
