package nodetest

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var processesFlag = flag.Int("processes", 0, "run the seeds in this many processes, sum up, and do nothing else")

// TestMain runs the tests or, with -processes, only seeds of the simulation (make sim).
func TestMain(m *testing.M) {
	flag.Parse()
	if *processesFlag == 0 {
		os.Exit(m.Run())
	}
	s := &sim{done: make(map[uint64]*seedOutcome)}
	if err := s.run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// repeat is the command that shows a seed.
func repeat(seed uint64) string {
	return fmt.Sprintf("go test ./raftnode/nodetest -run 'TestSimulation$' -seed=%d", seed)
}

const (
	// simChunk is how many seeds a process runs: what Pebble keeps of closed stores goes with it.
	simChunk = 10
	// simRepeated: one seed of so many runs twice.
	simRepeated = 100
	// simEvents is the number of seeds over which every event must have been seen.
	simEvents = 200
)

// sim runs seeds in several processes, because the random numbers of raft are those of a whole process.
type sim struct {
	// mu guards the fields below. It is a leaf.
	mu       sync.Mutex
	done     map[uint64]*seedOutcome
	failures int
}

func (s *sim) run() error {
	dir, err := os.MkdirTemp("", "sim")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is in the temporary directory
	first, end := *firstFlag, *firstFlag+uint64(*seedsFlag)
	var chunks [][2]uint64
	for at := first; at < end; at += simChunk {
		chunks = append(chunks, [2]uint64{at, min(simChunk, end-at)})
	}
	// Those that run twice come last, when what they must repeat is known.
	s.each(dir, chunks, func(o *seedOutcome) { s.done[o.Seed] = o })
	var again [][2]uint64
	for at := first; at < end; at += simRepeated {
		again = append(again, [2]uint64{at, 1})
	}
	repeated := 0
	s.each(dir, again, func(o *seedOutcome) {
		repeated++
		if was := s.done[o.Seed]; was != nil && was.Trace != o.Trace {
			s.fail(o.Seed, fmt.Sprintf("it ran in two ways: traces %016x and %016x", was.Trace, o.Trace))
		}
	})
	return s.sum(first, end, repeated)
}

// each runs chunks of seeds in as many processes as allowed.
func (s *sim) each(dir string, chunks [][2]uint64, take func(*seedOutcome)) {
	var wait sync.WaitGroup
	next := make(chan [2]uint64)
	for i := range *processesFlag {
		wait.Go(func() {
			for c := range next {
				s.chunk(filepath.Join(dir, fmt.Sprint(i)), c[0], c[1], take)
			}
		})
	}
	for _, c := range chunks {
		next <- c
	}
	close(next)
	wait.Wait()
}

// chunk runs some seeds in a process of their own. If that breaks off, the seed at which it did has failed, and it goes on behind.
func (s *sim) chunk(path string, first, n uint64, take func(*seedOutcome)) {
	for end := first + n; first < end; first++ {
		os.Remove(path) //nolint:errcheck // it need not be there
		c := exec.Command(os.Args[0], "-test.run=^TestSimulation$", fmt.Sprintf("-first=%d", first), fmt.Sprintf("-seeds=%d", end-first), "-outcomes="+path, "-test.timeout=10m")
		output, err := c.CombinedOutput()
		lines, _ := os.ReadFile(path) // without it no seed has come to an end
		s.mu.Lock()
		for line := range bytes.Lines(lines) {
			o := &seedOutcome{}
			if json.Unmarshal(line, o) != nil {
				break
			}
			first = o.Seed + 1
			take(o)
			if o.Failure != "" {
				s.fail(o.Seed, o.Failure)
			}
		}
		if err != nil && first < end {
			s.fail(first, fmt.Sprintf("%v\n%s", err, output[max(0, len(output)-8<<10):]))
		}
		s.mu.Unlock()
		if err == nil {
			return
		}
	}
}

// fail tells of a failed seed. mu is held.
func (s *sim) fail(seed uint64, what string) {
	s.failures++
	fmt.Printf("FAIL seed %d: %s\nrepeat with: %s\n\n", seed, what, repeat(seed))
}

// sum prints the totals and says whether all is well.
func (s *sim) sum(first, end uint64, repeated int) error {
	var all totals
	for seed := first; seed < end; seed++ {
		if o := s.done[seed]; o != nil {
			all.add(o)
		}
	}
	fmt.Print(all.String())
	fmt.Printf("%d seeds ran twice\n", repeated)
	if s.failures > 0 {
		return fmt.Errorf("%d failures", s.failures)
	}
	if never := all.neverSeen(); end-first >= simEvents && len(never) > 0 {
		return fmt.Errorf("never seen: %v. The simulation does not show what it should", never)
	}
	fmt.Println("no failures")
	return nil
}
