// Command mutants shows that the tests find every planted bug: it builds the suites once with the tag planted, runs for each bug those that
// must find it, and then all of them without a bug.
//
//	go run ./raftnode/planted/mutants [bug ...]
package main

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/raftkv/raftkv/raftnode/planted"
)

// atOnce is how many suites run at the same time: a core for each.
const atOnce = 2

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(names []string) error {
	chosen, err := choose(names)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is in the temporary directory
	began := time.Now()
	b := &bench{dir: dir}
	if err := b.build(chosen); err != nil {
		return err
	}
	fmt.Printf("built in %s\n", since(began))
	survivors := b.trials(chosen)
	control := b.control(chosen)
	fmt.Printf("%d of %d planted bugs killed in %s\n", len(chosen)-len(survivors), len(chosen), since(began))
	switch {
	case control != nil:
		return fmt.Errorf("without a bug: %w", control)
	case len(survivors) > 0:
		return fmt.Errorf("the tests do not find %v", survivors)
	}
	return nil
}

// choose returns the trials of the bugs that are named, all if none is.
func choose(names []string) ([]trial, error) {
	if len(names) == 0 {
		return trials, nil
	}
	var out []trial
	for _, name := range names {
		i := slices.IndexFunc(trials, func(t trial) bool { return t.bug == planted.Bug(name) })
		if i < 0 {
			return nil, fmt.Errorf("there is no planted bug %q; see raftnode/planted/bugs.go", name)
		}
		out = append(out, trials[i])
	}
	return out, nil
}

// bench is where the suites are built and run.
type bench struct {
	dir string
	// mu guards seeds and standard output. It is a leaf.
	mu sync.Mutex
	// seeds is the highest seed that a bug was killed by.
	seeds int
}

func (b *bench) binary(pkg string) string { return filepath.Join(b.dir, filepath.Base(pkg)+".test") }

// build builds the suites of the packages that the trials need.
func (b *bench) build(chosen []trial) error {
	pkgs := make(map[string]bool)
	for _, t := range chosen {
		if t.seeds > 0 {
			pkgs[simulation] = true
		}
		for _, s := range t.suites {
			pkgs[s.pkg] = true
		}
	}
	for pkg := range pkgs {
		if out, err := exec.Command("go", "test", "-tags", "planted", "-c", "-o", b.binary(pkg), "./"+pkg).CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	return nil
}

// trials lets every suite of every bug run, and returns the bugs that one of them has not found.
func (b *bench) trials(chosen []trial) (survivors []planted.Bug) {
	fmt.Printf("%-26s %-5s %-8s %s\n", "bug", "rule", "time", "killed by")
	b.each(len(chosen), func(i int) {
		t := chosen[i]
		began := time.Now()
		var lines []string
		killed := true
		report := func(how string, found bool) {
			if !found {
				how, killed = "SURVIVES "+how, false
			}
			lines = append(lines, how)
		}
		for _, s := range t.suites {
			report(b.kill(t.bug, s))
		}
		if t.seeds > 0 {
			how, seeds := b.simulate(t.bug, t.seeds)
			report(how, seeds > 0)
			b.mu.Lock()
			b.seeds = max(b.seeds, seeds)
			b.mu.Unlock()
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if !killed {
			survivors = append(survivors, t.bug)
		}
		for n, line := range lines {
			if n == 0 {
				fmt.Printf("%-26s %-5s %-8s %s\n", t.bug, t.rule, since(began), line)
			} else {
				fmt.Printf("%-41s %s\n", "", line)
			}
		}
	})
	slices.SortFunc(survivors, cmp.Compare)
	return survivors
}

// control runs all that has killed a bug without one: what fails there as well has killed nothing.
func (b *bench) control(chosen []trial) error {
	began := time.Now()
	var all []suite
	for _, t := range chosen {
		for _, s := range t.suites {
			if !slices.Contains(all, s) {
				all = append(all, s)
			}
		}
	}
	var failed error
	fail := func(how string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		failed = cmp.Or(failed, fmt.Errorf("%s", how))
	}
	chunks := (b.seeds + chunkSeeds - 1) / chunkSeeds
	b.each(len(all)+chunks, func(i int) {
		if i < len(all) {
			if how, found := b.kill("", all[i]); found {
				fail(how)
			}
			return
		}
		first := 1 + (i-len(all))*chunkSeeds
		if how, seed := b.chunk("", first, min(chunkSeeds, b.seeds+1-first)); seed > 0 {
			fail(how)
		}
	})
	fmt.Printf("control: %d suites and %d seeds without a bug in %s\n", len(all), b.seeds, since(began))
	return failed
}

// each calls f for 0 to n-1, some at a time.
func (b *bench) each(n int, f func(int)) {
	next := make(chan int)
	var wait sync.WaitGroup
	for range atOnce {
		wait.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wait.Wait()
}

func since(began time.Time) time.Duration { return time.Since(began).Round(100 * time.Millisecond) }
