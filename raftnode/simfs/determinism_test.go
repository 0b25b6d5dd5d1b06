package simfs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// scribble does the operations of one writer on names of its own, in a directory that all writers share. Nothing is
// synced there by others, so only the interleaving differs between runs.
func scribble(f *FS, writer int) error {
	rng := rand.New(rand.NewPCG(uint64(writer), 1))
	name := func(i int) string { return fmt.Sprintf("shared/w%d-%d", writer, i) }
	for i := range 30 {
		h, err := f.Create(name(i), vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		for range 1 + rng.IntN(5) {
			if _, err := h.WriteAt(bytes.Repeat([]byte{byte(rng.Uint32())}, 1+rng.IntN(9000)), int64(rng.IntN(20000))); err != nil {
				return err
			}
			if rng.IntN(4) == 0 {
				if err := h.Sync(); err != nil {
					return err
				}
			}
			runtime.Gosched()
		}
		if err := h.Close(); err != nil {
			return err
		}
		switch rng.IntN(5) {
		case 0:
			err = f.Remove(name(i))
		case 1:
			err = f.Rename(name(i), name(100+i))
		case 2:
			err = f.Link(name(i), name(200+i))
		case 3:
			err = f.MkdirAll(name(300+i)+"/sub", 0o755)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// TestSameSeedSameDisk runs eight writers, concurrently and one after the other: for one seed every run leaves the same
// disk, and for another seed another one. KeepOrdered keeps the order in which the writers came, so it repeats only with that.
func TestSameSeedSameDisk(t *testing.T) {
	run := func(seed uint64, concurrent bool) *FS {
		f := New(Options{Seed: seed})
		must(t, f.MkdirAll("shared", 0o755))
		syncDir(t, f, "/")
		var wg sync.WaitGroup
		for writer := range 8 {
			work := func() {
				if err := scribble(f, writer); err != nil {
					t.Error(err)
				}
			}
			if concurrent {
				wg.Go(work)
			} else {
				work()
			}
		}
		wg.Wait()
		return f
	}
	left := map[string]bool{}
	for seed := range uint64(12) {
		for _, keep := range []Survival{KeepSynced, KeepSome, KeepOrdered, KeepAll} {
			options := CrashOptions{Seed: seed * 3, Keep: keep}
			want := run(seed, false).Crash(options)
			for range 3 {
				if got := run(seed, keep != KeepOrdered).Crash(options); got.String() != want.String() {
					t.Fatalf("seed %d, keep %d: two runs leave different disks:\n%s\n%s", seed, keep, got, want)
				}
			}
			// And the next life: the same operations on the same disk, the same crash.
			again := func(f *FS) string {
				if err := scribble(f, 99); err != nil {
					t.Fatal(err)
				}
				return f.Crash(options).String()
			}
			if keep == KeepSome {
				a, b := again(want), again(run(seed, true).Crash(options))
				if a != b {
					t.Fatalf("seed %d: second crashes differ", seed)
				}
				left[a] = true
			}
		}
	}
	if len(left) < 11 {
		t.Errorf("12 seeds leave only %d different disks", len(left))
	}
}

// TestCrashAgain looks at one moment many times: the same seed gives the same disk, the dead one does not change, and
// lives that go on from one moment do not see each other.
func TestCrashAgain(t *testing.T) {
	f := New(Options{Seed: 1})
	saved(t, f, "a", "old")
	must(t, f.MkdirAll("shared", 0o755))
	syncDir(t, f, "/")
	if err := scribble(f, 1); err != nil {
		t.Fatal(err)
	}
	before := f.String()
	one := f.Crash(CrashOptions{Seed: 1, Keep: KeepSome})
	text := one.String()
	h, err := one.OpenReadWrite("a", vfs.WriteCategoryUnspecified)
	must(t, err)
	_, err = h.Write([]byte("new"))
	must(t, err)
	must(t, h.Sync())
	if f.String() != before {
		t.Error("a life after the crash changed the dead disk")
	}
	if got := f.Crash(CrashOptions{Seed: 1, Keep: KeepSome}).String(); got != text {
		t.Errorf("the same crash leaves another disk:\n%s\n%s", got, text)
	}
}
