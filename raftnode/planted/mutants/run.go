package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"

	"github.com/raftkv/raftkv/raftnode/planted"
)

const (
	simulation = "raftnode/nodetest"
	// chunkSeeds is how many seeds a process runs: what Pebble keeps of closed stores goes with it.
	chunkSeeds = 5
	// suiteTimeout bounds a suite and a chunk of seeds. A bug that makes one stand still is found by that.
	suiteTimeout = "600s"
)

// kill runs a suite under a bug and says which test has found it.
func (b *bench) kill(bug planted.Bug, s suite) (how string, found bool) {
	args := []string{"-test.run", "^(" + s.tests + ")$", "-test.failfast", "-test.timeout", suiteTimeout}
	out, err := b.exec(bug, s.pkg, args...)
	where := strings.TrimPrefix(s.pkg, "raftnode/") + " " + s.tests
	if err == nil {
		return where, false
	}
	return where + ": " + brief(out), true
}

// simulate runs seeds of the simulation under a bug until one finds it, and says how many that took; 0 if none does.
func (b *bench) simulate(bug planted.Bug, most int) (how string, seeds int) {
	for first := 1; first <= most; first += chunkSeeds {
		if how, seed := b.chunk(bug, first, min(chunkSeeds, most+1-first)); seed > 0 {
			return how, seed
		}
	}
	return fmt.Sprintf("%d seeds", most), 0
}

// chunk runs some seeds in one process, and returns the first that fails; 0 if none does.
func (b *bench) chunk(bug planted.Bug, first, n int) (how string, seed int) {
	f, err := os.CreateTemp(b.dir, "outcomes")
	if err != nil {
		return err.Error(), first
	}
	defer f.Close() //nolint:errcheck // it is in the temporary directory, and only read here
	out, err := b.exec(bug, simulation, "-test.run", "^TestSimulation$", "-test.failfast", "-test.timeout", suiteTimeout,
		fmt.Sprintf("-first=%d", first), fmt.Sprintf("-seeds=%d", n), "-outcomes="+f.Name())
	if err == nil {
		return "", 0
	}
	seed = first // If the process has broken off, the next seed has done it.
	for d := json.NewDecoder(f); d.More(); seed++ {
		var o struct{ Failure string }
		if err := d.Decode(&o); err != nil {
			return err.Error(), seed
		}
		if o.Failure != "" {
			return fmt.Sprintf("seed %d: %s", seed, firstLine(o.Failure)), seed
		}
	}
	return fmt.Sprintf("seed %d: %s", seed, brief(out)), seed
}

// exec runs a suite where its package is, as go test does.
func (b *bench) exec(bug planted.Bug, pkg string, args ...string) ([]byte, error) {
	c := exec.Command(b.binary(pkg), args...)
	c.Dir = pkg
	c.Env = append(os.Environ(), "RAFTKV_BUG="+string(bug))
	return c.CombinedOutput()
}

// telling are the lines of a test's output that say what has failed: the end of the process, or the last complaint.
var telling = []*regexp.Regexp{
	regexp.MustCompile(`(?m)^(?:panic|fatal error): .*$`),
	regexp.MustCompile(`(?m)^ +\w+_test\.go:\d+: .*$`),
	regexp.MustCompile(`(?m)^ *--- FAIL: .*$`),
}

// brief is what a suite has to say about its failure, in a line.
func brief(out []byte) string {
	for _, r := range telling {
		if lines := r.FindAll(out, -1); len(lines) > 0 {
			return firstLine(string(lines[len(lines)-1]))
		}
	}
	return firstLine(string(bytes.TrimSpace(out)))
}

const lineMax = 150

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	if len(line) > lineMax {
		line = line[:lineMax] + "…"
	}
	return line
}
