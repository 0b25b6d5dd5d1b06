package simfs

import (
	"bytes"
	"fmt"
	"maps"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
)

// A Pebble whose disk fails ends the process, by design. So these tests take the image of a crash in the middle of an
// operation, let the database live on and close it in good order.

// crashPoint takes an image of a disk just before its n-th change, and notes what had been acknowledged.
type crashPoint struct {
	disk *FS
	at   CrashOptions
	n    int

	mu    sync.Mutex // guards the rest
	ops   int
	acked map[string][]byte
	image *FS
	known map[string][]byte // acked when image was taken
}

func (c *crashPoint) fault(op Op) Fault {
	switch op.Kind {
	case OpRead, OpStat, OpOpen, OpList:
		return NoFault
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ops++; c.ops == c.n {
		c.known, c.image = maps.Clone(c.acked), c.disk.Image(c.at)
	}
	return NoFault
}

func (c *crashPoint) ack(key string, value []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked[key] = value
}

type quiet struct{}

func (quiet) Infof(string, ...any)           {}
func (quiet) Errorf(string, ...any)          {}
func (quiet) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }

func openPebble(disk *FS) (*pebble.DB, error) {
	return pebble.Open("db", &pebble.Options{
		FS: disk, Logger: quiet{}, FormatMajorVersion: pebble.FormatNewest,
		MemTableSize: 64 << 10, L0CompactionThreshold: 2, // much flushing and compacting
	})
}

const rounds = 300

func key(round int) string { return fmt.Sprintf("key%03d", round%97) }
func value(round int) []byte {
	return bytes.Repeat([]byte{byte(round), byte(round >> 8)}, 100+round%400)
}

// load opens a database, writes synced rounds and closes it.
func load(disk *FS, acked func(key string, value []byte)) error {
	db, err := openPebble(disk)
	if err != nil {
		return err
	}
	for i := range rounds {
		if err := db.Set([]byte(key(i)), value(i), pebble.Sync); err != nil {
			return err
		}
		acked(key(i), value(i))
		if i%60 == 59 {
			if _, err := db.AsyncFlush(); err != nil {
				return err
			}
		}
	}
	return db.Close()
}

// check opens a disk and looks for every acknowledged key. One write may have been in flight and be there as well.
func check(disk *FS, acked map[string][]byte) error {
	db, err := openPebble(disk)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	differ := 0
	for key, want := range acked {
		got, closer, err := db.Get([]byte(key))
		if err != nil {
			return fmt.Errorf("acknowledged %s: %w", key, err)
		}
		if !bytes.Equal(got, want) {
			differ++
		}
		if err := closer.Close(); err != nil {
			return err
		}
	}
	if differ > 1 {
		return fmt.Errorf("%d acknowledged keys differ", differ)
	}
	return db.Close()
}

// TestPebbleKeepsSyncedWrites takes the power away at many moments: every one of the first, when the database is made,
// and then through flushes, compactions and recycled logs.
func TestPebbleKeepsSyncedWrites(t *testing.T) {
	tests := map[string]struct {
		keep  Survival
		first int
	}{
		"synced":  {KeepSynced, 1},
		"ordered": {KeepOrdered, 1},
		"all":     {KeepAll, 1},
		// Pebble 2.1.7 makes a new marker before it syncs the name of the manifest that the marker points to, so while
		// a database is made it is not safe on a disk where new names appear in any order.
		"some": {KeepSome, 15},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for n := tt.first; n < 2*rounds; n += 1 + n/15 {
				disk := New(Options{Seed: uint64(n)})
				c := &crashPoint{disk: disk, n: n, at: CrashOptions{Seed: uint64(n), Keep: tt.keep}, acked: map[string][]byte{}}
				disk.SetFaults(c.fault)
				if err := load(disk, c.ack); err != nil {
					t.Fatalf("crash point %d: %v", n, err)
				}
				if c.image == nil {
					t.Fatalf("the load has fewer than %d operations", n)
				}
				if err := check(c.image, c.known); err != nil {
					t.Fatalf("crash point %d: %v", n, err)
				}
			}
		})
	}
}

// TestPebbleCrashLosesNothingSynced is the plain case: Crash with the database open.
func TestPebbleCrashLosesNothingSynced(t *testing.T) {
	for _, keep := range []Survival{KeepSynced, KeepSome, KeepOrdered, KeepAll} {
		disk := New(Options{Seed: 7})
		db, err := openPebble(disk)
		if err != nil {
			t.Fatal(err)
		}
		acked := map[string][]byte{}
		for i := range rounds {
			if err := db.Set([]byte(key(i)), value(i), pebble.Sync); err != nil {
				t.Fatal(err)
			}
			acked[key(i)] = value(i)
		}
		image := disk.Image(CrashOptions{Seed: 1, Keep: keep})
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		after := disk.Crash(CrashOptions{Seed: 2, Keep: keep}) // closed, and then the power goes
		for what, left := range map[string]*FS{"open": image, "closed": after} {
			if err := check(left, acked); err != nil {
				t.Errorf("%s, keep %d: %v", what, keep, err)
			}
		}
	}
}

// TestPebbleCheckpoint uses hard links, recursive removal and the rename of a directory.
func TestPebbleCheckpoint(t *testing.T) {
	disk := New(Options{Seed: 3})
	db, err := openPebble(disk)
	if err != nil {
		t.Fatal(err)
	}
	acked := map[string][]byte{}
	for i := range rounds {
		if err := db.Set([]byte(key(i)), value(i), pebble.Sync); err != nil {
			t.Fatal(err)
		}
		acked[key(i)] = value(i)
	}
	if err := db.Checkpoint("db-copy", pebble.WithFlushedWAL()); err != nil { // hard links
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := disk.RemoveAll("db"); err != nil {
		t.Fatal(err)
	}
	if err := disk.Rename("db-copy", "db"); err != nil {
		t.Fatal(err)
	}
	if err := check(disk, acked); err != nil {
		t.Fatal(err)
	}
}
