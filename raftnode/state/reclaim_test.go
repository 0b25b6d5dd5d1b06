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

// flushed flushes what is committed.
func (m *machine) flushed() {
	m.t.Helper()
	done, err := m.store.Flush()
	if err != nil {
		m.t.Fatal(err)
	}
	<-done
}

// fillUntil puts keys with values that cannot be compressed until the disk has so little room left, and returns how many there are.
func (m *machine) fillUntil(fs *simfs.FS, left uint64) int {
	value := make([]byte, fillerBytes)
	r := rand.NewChaCha8([32]byte{})
	for i := 0; ; i++ {
		if free(m.t.(*testing.T), fs) < left {
			return i
		}
		_, _ = r.Read(value)
		m.commit(putCommand(fmt.Sprintf("key-%d", i), string(value)))
		if i%8 == 0 {
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
	keys := m.fillUntil(fs, fullAt)
	for i := range keys {
		m.commit(writeCommand(deleteOp(fmt.Sprintf("key-%d", i))))
	}
	m.commit(trimCommand(m.shard.Position().Revision, 1<<20))
	m.flushed()
	if err := m.store.Reclaim(t.Context(), func() bool { return false }); err != nil {
		t.Fatal(err)
	}
	// Nothing is stored but tombstones. Pebble removes files beside us, one after the other.
	for began := time.Now(); free(t, fs) < smallDisk-1<<20; runtime.Gosched() {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("%d of %d bytes are free", free(t, fs), smallDisk)
		}
	}
	checkDigests(t, m.store, testShard)
}

// Reclaim ends once there is enough room, or its caller has none any more.
func TestReclaimEnds(t *testing.T) {
	fs := simfs.New(simfs.Options{QuotaBytes: smallDisk})
	m := newServing(t, testOptions(fs))
	m.fillUntil(fs, fullAt)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.store.Reclaim(ctx, func() bool { return true }); err != nil {
		t.Errorf("something was compacted though there was enough: %v", err)
	}
	if err := m.store.Reclaim(ctx, func() bool { return false }); !errors.Is(err, context.Canceled) {
		t.Errorf("reclaim: %v", err)
	}
}

// A compaction that the disk has no room for ends without harm: it leaves what it has to, what it wrote is gone, the store goes on, and once there is
// room it is done.
func TestCompactionsLeaveRoom(t *testing.T) {
	for name, leave := range map[string]uint64{"some is left": 1 << 20, "all is taken": 0} {
		t.Run(name, func(t *testing.T) {
			fs := simfs.New(simfs.Options{QuotaBytes: smallDisk})
			o := testOptions(fs)
			o.CompactionsLeave = leave
			m := newServing(t, o)
			keys := m.fillUntil(fs, 4<<20)
			m.commit(writeCommand(deleteOp("key-0")))
			m.flushed()
			fs.SetQuota(smallDisk - 2<<20)
			room, least := free(t, fs), atomic.Uint64{}
			least.Store(room)
			fs.SetFaults(func(op simfs.Op) simfs.Fault {
				if op.Kind == simfs.OpWrite {
					least.Store(min(least.Load(), free(t, fs)))
				}
				return simfs.NoFault
			})
			done := m.compacting()
			for m.store.db.Metrics().Compact.FailedCount == 0 { // Ours, or one of Pebble's own, and then ours waits.
				runtime.Gosched()
			}
			fs.SetFaults(nil)
			if least.Load() < leave {
				t.Errorf("%d bytes were left; want %d", least.Load(), leave)
			}
			for free(t, fs) < room-bytesPerSync { // What it wrote is removed beside us.
				runtime.Gosched()
			}
			fs.SetQuota(0)
			m.commit(putCommand("another", "value"))
			m.flushed()
			if err := errors.Join(m.resuming(done), m.resuming(m.compacting())); err != nil || m.store.db.Metrics().Levels[0].TablesCount != 0 {
				t.Errorf("not compacted where there is room: %v", err)
			}
			checkDigests(t, m.store, testShard)
			for i := range keys {
				r, err := viewOf(t, m.store).Get(testShard, fmt.Sprintf("key-%d", i))
				if err != nil || (len(r.GetValue()) == fillerBytes) != (i > 0) {
					t.Errorf("key-%d: %d bytes, %v", i, len(r.GetValue()), err)
				}
			}
		})
	}
}

// compacting compacts everything; what it sends is the outcome.
func (m *machine) compacting() <-chan error {
	done := make(chan error, 1)
	go func() {
		done <- m.store.compact(context.Background(), []byte{0}, []byte{255}, func() bool { return false })
	}()
	return done
}

// resuming waits for a compaction as the owner of a store does, who lets it be tried again now and then.
func (m *machine) resuming(done <-chan error) error {
	for {
		select {
		case err := <-done:
			return err
		default:
			m.store.ResumeCompactions()
			runtime.Gosched()
		}
	}
}

// A store closes though its compactions wait for room.
func TestCloseBesideWaitingCompactions(t *testing.T) {
	o := testOptions(newDisk())
	o.CompactionsLeave = 1
	m := newServing(t, o)
	m.store.room.shut(errNoRoom)
	m.flushed()
	done := m.compacting()
	for m.store.db.Metrics().Compact.NumInProgress == 0 {
		runtime.Gosched()
	}
	if err := m.store.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Log(err) // The store may be closed before the last step.
	}
}
