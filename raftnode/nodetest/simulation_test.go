package nodetest

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
)

var (
	seedFlag     = flag.Uint64("seed", 0, "run this seed only, and show what happens")
	firstFlag    = flag.Uint64("first", 1, "the first seed")
	seedsFlag    = flag.Int("seeds", seedsDefault, "how many seeds to run")
	outcomesFlag = flag.String("outcomes", "", "append what each seed came to to this file")
	eventsFlag   = flag.String("events", "", "with -seed: write every event of the run to this file")
)

// simulate runs one seed in a bubble of its own.
func simulate(t *testing.T, o Options, trace io.Writer) *Report {
	t.Helper()
	// Raft draws election timeouts from crypto/rand.
	cryptotest.SetGlobalRandom(t, o.Seed)
	var r *Report
	synctest.Test(t, func(*testing.T) { r = Simulate(o, trace) })
	return r
}

// TestSimulation runs clusters under faults, each from its seed, and checks all that is promised.
func TestSimulation(t *testing.T) {
	if *seedFlag != 0 {
		showSeed(t)
		return
	}
	var all totals
	for i := range *seedsFlag {
		seed := *firstFlag + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			r := simulate(t, Options{Seed: seed}, nil)
			t.Logf("%s\n%d events, %d operations, %s of virtual time, trace %016x", r.Line, r.Steps, len(r.History.Operations), r.Time, r.Trace)
			err := r.Check()
			if err != nil {
				t.Errorf("%v\nrepeat with: %s", err, repeat(seed))
			}
			one := outcomeOf(seed, r, err)
			all.add(one)
			if err := one.append(*outcomesFlag); err != nil {
				t.Error(err)
			}
		})
	}
	t.Log(all.String())
	if never := all.neverSeen(); len(never) > 0 && *seedsFlag >= seedsDefault && !raceEnabled {
		t.Errorf("never seen: %v. The simulation does not show what it should.", never)
	}
}

// showSeed runs the seed of the command line and shows what the nodes say.
func showSeed(t *testing.T) {
	var trace io.Writer
	if *eventsFlag != "" {
		f, err := os.Create(*eventsFlag)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		trace = f
	}
	r := simulate(t, Options{Seed: *seedFlag, Log: slog.NewTextHandler(os.Stderr, nil)}, trace)
	t.Log(r.Line)
	if err := r.Check(); err != nil {
		t.Error(err)
	}
}

// TestSimulationRepeats runs seeds twice: if what they do is not the same, no failure can be repeated.
func TestSimulationRepeats(t *testing.T) {
	for seed := uint64(9001); seed <= 9003; seed++ {
		var traces [2]uint64
		for i := range traces {
			t.Run(fmt.Sprintf("seed=%d run=%d", seed, i+1), func(t *testing.T) {
				traces[i] = simulate(t, Options{Seed: seed}, nil).Trace
			})
		}
		if traces[0] != traces[1] {
			t.Errorf("seed %d ran in two ways: traces %016x and %016x", seed, traces[0], traces[1])
		}
	}
}

// TestSimulationFindsMissingFsync runs nodes that do not fsync: acknowledged writes and votes are lost, and the checkers must find it.
func TestSimulationFindsMissingFsync(t *testing.T) {
	const within = 10
	for seed := uint64(1); seed <= within; seed++ {
		found := false
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			err := simulate(t, Options{Seed: seed, NoSync: true}, nil).Check()
			found = err != nil
			t.Log(err)
		})
		if found {
			return
		}
	}
	t.Errorf("nodes that do not fsync pass %d seeds", within)
}
