package nodetest

import (
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/raftkv/raftkv/raftnode/simfs"
)

// inCluster runs a test on a formed cluster, in a bubble.
func inCluster(t *testing.T, o Options, test func(*Cluster)) {
	t.Helper()
	cryptotest.SetGlobalRandom(t, 1)
	synctest.Test(t, func(t *testing.T) {
		c := New(o)
		defer c.Close()
		if !c.Formed(20 * time.Second) {
			t.Fatal("the cluster does not form")
		}
		test(c)
	})
}

// wantViolation says what a run must have found.
func wantViolation(t *testing.T, c *Cluster, part string) {
	t.Helper()
	if v := c.Violations(); len(v) != 1 || !strings.Contains(v[0], part) {
		t.Errorf("violations %q, want one with %q", v, part)
	}
}

// TestSurvivingADiskErrorIsFound gives a node an error of its disk that it does not notice.
func TestSurvivingADiskErrorIsFound(t *testing.T) {
	inCluster(t, Options{Seed: 1}, func(c *Cluster) {
		l := c.processes[0].life
		l.trap.failed, l.trap.during = true, simfs.Op{Kind: simfs.OpSync, Path: "/data/node/log/x"}
		c.Run(time.Second)
		if v := c.Violations(); len(v) > 0 {
			t.Errorf("too early: %q", v)
		}
		c.Run(2 * time.Second)
		wantViolation(t, c, "n1 lives on after sync of /data/node/log/x has failed (R6)")
	})
}

// TestTrapsAreCountedByTheirOwnName sets a trap in the place of one for installs.
func TestTrapsAreCountedByTheirOwnName(t *testing.T) {
	inCluster(t, Options{Seed: 1}, func(c *Cluster) {
		c.trap(2, CrashInInstall, InLog, 0, false, simfs.KeepAll)
		c.Trap(2, InLog, 0, true, simfs.KeepAll)
		write(t, c, "x")
		c.Run(time.Second)
		if c.events[CrashInInstall] != 0 || c.events[CrashInLogSync] != 1 {
			t.Errorf("%d crashes in an install and %d in an fsync of the log, want 0 and 1", c.events[CrashInInstall], c.events[CrashInLogSync])
		}
	})
}

// TestOpenFilesAreFound opens a file behind the back of a node.
func TestOpenFilesAreFound(t *testing.T) {
	inCluster(t, Options{Seed: 1}, func(c *Cluster) {
		h, err := c.processes[0].disk.OpenDir(dataDir)
		if err != nil {
			t.Fatal(err)
		}
		c.Stop(0)
		c.Run(time.Second)
		wantViolation(t, c, "n1 is closed and leaves files open: [/data/node]")
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
}
