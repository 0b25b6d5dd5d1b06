package logstore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"github.com/raftkv/raftkv/raftnode/simfs"
)

// step is one append of a script and what the log is afterwards.
type step struct {
	updates []Update
	sync    bool
	after   model
}

// script makes appends that are the same for the same seed.
func script(seed uint64, n int) []step {
	random := rand.New(rand.NewPCG(seed, 0))
	g := &scenario{below: random.IntN, bigData: true}
	m := model{}
	steps := make([]step, n)
	for i := range steps {
		us := g.updates(m)
		m = m.with(us)
		steps[i] = step{updates: us, sync: random.IntN(3) > 0, after: m}
	}
	return steps
}

// outcome is how far a script came.
type outcome struct {
	// acked and tried count steps: those that a synced append has acknowledged, and those that were begun.
	acked, tried int
	err          error
}

// errKilled is what a fault function panics with to end the process that does the operation, and nothing else.
var errKilled = errors.New("killed")

// unlessKilled is deferred around what a process does.
func unlessKilled(err *error) {
	if p := recover(); p == errKilled {
		*err = errKilled
	} else if p != nil {
		panic(p)
	}
}

// play runs a script until something fails.
func play(fs *simfs.FS, steps []step) (out outcome) {
	defer unlessKilled(&out.err)
	o := small
	o.FS = fs
	l, err := Open("/log", o)
	if err != nil {
		return outcome{err: err}
	}
	for i, s := range steps {
		out.tried = i + 1
		if out.err = l.Append(s.updates, s.sync); out.err != nil {
			break
		}
		if s.sync {
			out.acked = i + 1
		}
	}
	if err := l.Close(); out.err == nil {
		if out.err = err; err == nil {
			out.acked = out.tried
		}
	}
	return out
}

// recovered opens what a crash left and returns how many steps are there: no fewer than acknowledged, no more than tried, and
// exactly those.
func recovered(fs *simfs.FS, steps []step, out outcome) (*Log, int, error) {
	o := small
	o.FS = fs
	l, err := Open("/log", o)
	if err != nil {
		return nil, 0, err
	}
	if d := l.Damaged(); len(d) > 0 {
		return nil, 0, fmt.Errorf("a crash is taken for damage: %w", d[0])
	}
	var why error
	for n := out.tried; n >= out.acked; n-- {
		err := after(steps, n).diff(l)
		if err == nil {
			return l, n, nil
		}
		if why == nil || errors.Is(err, simfs.ErrCrashed) {
			why = err
		}
	}
	return nil, 0, fmt.Errorf("not what %d to %d steps leave: %w", out.acked, out.tried, why)
}

func after(steps []step, n int) model {
	if n == 0 {
		return model{}
	}
	return steps[n-1].after
}

// crashAt makes the disk lose power at the operation with this number, counted from 0, and counts operations.
func crashAt(fs *simfs.FS, at int, fault simfs.Fault) *int {
	n := 0
	fs.SetFaults(func(simfs.Op) simfs.Fault {
		if n++; n-1 == at {
			return fault
		}
		return simfs.NoFault
	})
	return &n
}

// TestCrashEverywhere loses power before and after every operation on the file system, with several outcomes each, and once more
// during recovery.
func TestCrashEverywhere(t *testing.T) {
	const appends, seeds = 50, 4
	for _, scriptSeed := range []uint64{1, 2} {
		steps := script(scriptSeed, appends)
		fs := simfs.New(simfs.Options{Seed: scriptSeed})
		n := crashAt(fs, -1, simfs.NoFault)
		if out := play(fs, steps); out.err != nil {
			t.Fatal(out.err)
		}
		operations := *n
		if operations < 4*appends {
			t.Fatalf("only %d operations: the script does not rotate", operations)
		}
		for at := range operations {
			for _, fault := range []simfs.Fault{simfs.CrashBefore, simfs.CrashAfter} {
				fs := simfs.New(simfs.Options{Seed: scriptSeed})
				crashAt(fs, at, fault)
				out := play(fs, steps)
				if !errors.Is(out.err, simfs.ErrCrashed) {
					t.Fatalf("operation %d of %d: %v", at, operations, out.err)
				}
				for seed := range uint64(seeds) {
					crash := simfs.CrashOptions{Seed: seed, Keep: simfs.Survival(seed) % (simfs.KeepAll + 1)}
					if err := survive(fs.Crash(crash), steps, out, at); err != nil {
						t.Fatalf("script %d, operation %d of %d (fault %d), %+v: %v", scriptSeed, at, operations, fault, crash, err)
					}
				}
			}
		}
	}
}

// survive crashes once more at some operation of the recovery, then recovers, goes on and recovers again.
func survive(fs *simfs.FS, steps []step, out outcome, at int) error {
	crashAt(fs, at%37, simfs.CrashBefore)
	_, n, err := recovered(fs, steps, out)
	switch {
	case err == nil:
		// Recovery was shorter than that. What it showed must stay, whatever was synced before it.
		out.acked, out.tried = n, n
		fs.SetFaults(nil)
		fs = fs.Crash(simfs.CrashOptions{Keep: simfs.KeepSynced})
	case errors.Is(err, simfs.ErrCrashed):
		fs = fs.Crash(simfs.CrashOptions{Seed: uint64(at), Keep: simfs.KeepSome})
	default:
		return err
	}
	l, n, err := recovered(fs, steps, out)
	if err != nil {
		return fmt.Errorf("the second time: %w", err)
	}
	for _, s := range steps[n:min(n+4, len(steps))] {
		if err := l.Append(s.updates, true); err != nil {
			return err
		}
		n++
	}
	_, _, err = recovered(fs.Crash(simfs.CrashOptions{Keep: simfs.KeepSynced}), steps, outcome{acked: n, tried: n})
	return err
}

// TestKillEverywhere ends the process, and nothing else, before every operation, and takes the power away during the recovery: what
// a recovery found in memory it must not take for durable.
func TestKillEverywhere(t *testing.T) {
	steps := script(1, 50)
	seen := map[bool]int{}
	for at, done := 0, false; !done; at++ {
		for power := at % 5; power < 45; power += 5 {
			fs := simfs.New(simfs.Options{Seed: uint64(at)})
			n := 0
			fs.SetFaults(func(simfs.Op) simfs.Fault {
				if n++; n-1 == at {
					panic(errKilled)
				}
				return simfs.NoFault
			})
			out := play(fs, steps)
			if done = out.err == nil; done {
				break
			}
			crashAt(fs, power, simfs.CrashBefore)
			_, n, err := recovered(fs, steps, out)
			if err == nil {
				out.acked, out.tried = n, n
			} else if !errors.Is(err, simfs.ErrCrashed) {
				t.Fatalf("killed at operation %d: %v", at, err)
			}
			seen[err == nil]++
			if _, _, err := recovered(fs.Crash(simfs.CrashOptions{Seed: uint64(power), Keep: simfs.KeepSome}), steps, out); err != nil {
				t.Fatalf("killed at operation %d, power lost at operation %d of the recovery: %v", at, power, err)
			}
		}
	}
	if seen[true] == 0 || seen[false] == 0 {
		t.Errorf("recoveries that came to an end and that did not: %v", seen)
	}
}

// TestUnsyncedAppendsSurviveAsPrefix leaves many appends to the disk's mercy. Some later one may be there while an earlier is not.
func TestUnsyncedAppendsSurviveAsPrefix(t *testing.T) {
	steps := make([]step, 12)
	m := model{}
	for i := range steps {
		us := []Update{{Shard: 1, Entries: entries(uint64(3*i+1), 3, 1)}}
		m = m.with(us)
		steps[i] = step{updates: us, after: m}
	}
	seen := map[int]bool{}
	for seed := range uint64(300) {
		fs := simfs.New(simfs.Options{Seed: seed})
		l := open(t, fs, Options{SegmentBytes: 1 << 20})
		for i, s := range steps {
			if err := l.Append(s.updates, i == 3); err != nil {
				t.Fatal(err)
			}
		}
		_, n, err := recovered(fs.Crash(simfs.CrashOptions{Seed: seed, Keep: simfs.KeepSome}), steps, outcome{acked: 4, tried: 12})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		seen[n] = true
	}
	if len(seen) < 5 {
		t.Errorf("only these numbers of appends survived: %v", seen)
	}
}

// TestFailedSyncIsFinal fails every sync in turn, and every reservation of space: the append fails and all later ones do, and neither a power loss nor a restart and
// a power loss after that loses what was acknowledged, or was there after the restart (R6).
func TestFailedSyncIsFinal(t *testing.T) {
	steps := script(4, 40)
	for _, kind := range []simfs.OpKind{simfs.OpSync, simfs.OpDirSync, simfs.OpPreallocate} {
		for at := 0; ; at++ {
			fs := simfs.New(simfs.Options{})
			syncs := 0
			fs.SetFaults(func(op simfs.Op) simfs.Fault {
				if op.Kind == kind {
					if syncs++; syncs-1 == at {
						return simfs.EIO
					}
				}
				return simfs.NoFault
			})
			out := play(fs, steps)
			if syncs <= at {
				break
			}
			if !errors.Is(out.err, syscall.EIO) || out.tried > 0 && out.tried < len(steps) && !errors.Is(out.err, ErrFailed) {
				t.Fatalf("%v %d: %v", kind, at, out.err)
			}
			if _, _, err := recovered(fs.Image(simfs.CrashOptions{Keep: simfs.KeepSynced}), steps, out); err != nil {
				t.Fatalf("%v %d, then a power loss: %v", kind, at, err)
			}
			if kind == simfs.OpDirSync {
				continue // what a file system forgets of its own structure no restart can know
			}
			_, n, err := recovered(fs, steps, out)
			if err != nil {
				t.Fatalf("%v %d, then a restart: %v", kind, at, err)
			}
			out.acked, out.tried = n, n
			if _, _, err = recovered(fs.Crash(simfs.CrashOptions{Keep: simfs.KeepSynced}), steps, out); err != nil {
				t.Fatalf("%v %d, then a restart and a power loss: %v", kind, at, err)
			}
		}
	}
}

// TestFullDisk runs out of space and goes on when there is some again.
func TestFullDisk(t *testing.T) {
	steps := script(5, 80)
	fs := simfs.New(simfs.Options{QuotaBytes: 96 << 10})
	out := play(fs, steps)
	if !errors.Is(out.err, syscall.ENOSPC) {
		t.Fatalf("got %v", out.err)
	}
	fs.SetQuota(0)
	if _, _, err := recovered(fs, steps, out); err != nil {
		t.Fatal(err)
	}
}

// TestNoSync loses no more than the appends, and never the log, when nothing is synced.
func TestNoSync(t *testing.T) {
	steps := script(6, 40)
	for seed := range uint64(50) {
		fs := simfs.New(simfs.Options{Seed: seed})
		o := small
		o.NoSync = true
		l := open(t, fs, o)
		syncs := fs.Stats().FileSyncs
		for _, s := range steps {
			if err := l.Append(s.updates, true); err != nil {
				t.Fatal(err)
			}
		}
		if n, m := fs.Stats().FileSyncs-syncs, l.Metrics(); n > 2*m.Rotations {
			t.Fatalf("%d syncs for %d rotations", n, m.Rotations)
		}
		if _, _, err := recovered(fs.Crash(simfs.CrashOptions{Seed: seed, Keep: simfs.KeepSome}), steps, outcome{tried: len(steps)}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOneWriteOneSync counts what an append costs.
func TestOneWriteOneSync(t *testing.T) {
	fs := simfs.New(simfs.Options{})
	var observed []SyncStats
	l := open(t, fs, Options{Observe: func(s SyncStats) { observed = append(observed, s) }})
	before := fs.Stats()
	mustAppend(t, l,
		Update{Shard: 1, HardState: hard(1, 1, 0), Entries: entries(1, 100, 1)},
		Update{Shard: 2, Entries: entries(1, 100, 1), Truncate: 50},
		Update{Shard: 3, Intent: &Intent{Index: 4}})
	got := fs.Stats()
	if w, s := got.Writes-before.Writes, got.FileSyncs-before.FileSyncs; w != 1 || s != 1 || got.DirSyncs != before.DirSyncs {
		t.Errorf("%d writes and %d syncs", w, s)
	}
	if len(observed) != 1 || observed[0].Records != 203 || observed[0].Bytes != int(got.BytesWritten-before.BytesWritten) {
		t.Errorf("observed %+v", observed)
	}
	before = fs.Stats()
	if err := l.Append([]Update{{Shard: 1, HardState: hard(1, 1, 90)}}, false); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, Update{Shard: 1, Entries: entries(101, 110, 1)})
	if got := fs.Stats(); len(observed) != 2 || observed[1].Bytes != int(got.BytesWritten-before.BytesWritten) {
		t.Errorf("observed %+v, %d bytes were written since", observed, got.BytesWritten-before.BytesWritten)
	}
	if !slices.Equal(l.Shards(), shardsOf(1, 2, 3)) {
		t.Error(l.Shards())
	}
}
