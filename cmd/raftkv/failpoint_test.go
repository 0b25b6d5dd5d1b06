//go:build failpoint

package main

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/raftkv/raftkv/raftnode/failpoint"
)

// The tests of this binary run nodes that have failpoints.
func init() { buildTags = "failpoint" }

// arm lets a node end at the n-th time that it comes to a point, from its next start on.
func (p *process) arm(at failpoint.Point, n int) {
	p.env = []string{fmt.Sprintf("RAFTKV_FAILPOINTS=%s=kill@%d", at, n)}
}

// killed waits until one of some nodes has ended at its failpoint. The others end with it, and none comes to one again.
func (c *processes) killed(nodes ...*process) {
	c.t.Helper()
	type end struct {
		p   *process
		err error
	}
	ended := make(chan end, len(nodes))
	for _, p := range nodes {
		go func() { ended <- end{p, p.cmd.Wait()} }() // Ends with the process, which the test ends at the latest.
	}
	timeout := time.NewTimer(time.Minute)
	defer timeout.Stop()
	var first end
	select {
	case first = <-ended:
	case <-timeout.C:
		c.t.Fatal("no node comes to its failpoint")
	}
	if s, ok := first.p.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !s.Signaled() || s.Signal() != syscall.SIGKILL {
		c.t.Fatalf("%s has not been killed: %v", first.p.id, first.err)
	}
	for _, p := range nodes {
		_ = p.cmd.Process.Kill() // It may have ended by itself; Wait tells.
	}
	for range nodes[1:] {
		<-ended
	}
	for _, p := range nodes {
		p.cmd, p.env = nil, nil
	}
}

// restart starts nodes again, which are down or go down first.
func (c *processes) restart(nodes ...*process) {
	c.t.Helper()
	for _, p := range nodes {
		c.kill(p)
		c.start(p)
	}
	for _, p := range c.nodes {
		c.ready(p)
	}
}

// TestFailpoints ends a node at every failpoint, starts it again, and looks for all that was acknowledged before, at that moment and after.
func TestFailpoints(t *testing.T) {
	done := make(map[failpoint.Point]bool)
	for _, f := range []struct {
		how    func(*testing.T, failpoint.Point, int)
		n      int
		points []failpoint.Point
	}{
		{killUnderLoad, 300, []failpoint.Point{
			failpoint.LogBeforeWrite, failpoint.LogAfterWrite, failpoint.LogBeforeSync, failpoint.LogAfterSync, failpoint.HardState,
			failpoint.ApplyBeforeCommit, failpoint.ApplyAfterCommit, failpoint.BeforeReply,
		}},
		{killUnderLoad, 3, []failpoint.Point{failpoint.LogTruncation}},
		{killAtRestart, 1, []failpoint.Point{failpoint.SegmentNamed}},
		{killAtFirstStart, 1, []failpoint.Point{failpoint.FormationAdopted, failpoint.FirstState}},
		{killAtFirstStart, 2, []failpoint.Point{failpoint.IdentityWritten, failpoint.IdentityNamed}}, // the formation; the first is the incarnation
		{killReceiver, 1, []failpoint.Point{
			failpoint.SnapshotStaged, failpoint.SnapshotIntended, failpoint.SnapshotIngested, failpoint.SnapshotInstalled,
		}},
		{killSender, 1, []failpoint.Point{failpoint.SnapshotSending}},
	} {
		for _, point := range f.points {
			done[point] = true
			t.Run(string(point), func(t *testing.T) { f.how(t, point, f.n) })
		}
	}
	for _, p := range failpoint.Points {
		if !done[p] {
			t.Errorf("nothing is killed at %s", p)
		}
	}
}

// killUnderLoad ends a node that is alone, so that nothing but its own disk can have what it has acknowledged.
func killUnderLoad(t *testing.T, at failpoint.Point, n int) {
	c := newProcesses(t, t.TempDir(), 1)
	p := c.nodes[0]
	p.arm(at, n)
	c.start(p)
	c.ready(p)
	w := startWriters(c, 8)
	c.killed(p)
	if w.count() == 0 {
		t.Error("nothing was acknowledged before: the test shows little")
	}
	c.restart(p)
	w.progress(50)
	w.finish()
}

func killAtRestart(t *testing.T, at failpoint.Point, n int) {
	c := startProcesses(t, 1)
	p := c.nodes[0]
	w := startWriters(c, 8)
	w.progress(200)
	c.kill(p)
	p.arm(at, n)
	c.start(p)
	c.killed(p)
	c.restart(p)
	w.progress(50)
	w.finish()
}

// killAtFirstStart ends one of three nodes while they form a cluster.
func killAtFirstStart(t *testing.T, at failpoint.Point, n int) {
	c := newProcesses(t, t.TempDir(), 3)
	p := c.nodes[1]
	p.arm(at, n)
	for _, p := range c.nodes {
		c.start(p)
	}
	c.killed(p)
	c.restart(p)
	w := startWriters(c, 8)
	w.progress(100)
	w.finish()
}

// lagging is a cluster of three whose last node is down for so long that it needs a snapshot.
func lagging(t *testing.T, arm func(*processes)) (*processes, *writers) {
	c := newProcesses(t, t.TempDir(), 3)
	arm(c)
	for _, p := range c.nodes {
		c.start(p)
	}
	for _, p := range c.nodes {
		c.ready(p)
	}
	w := startWriters(c, 8)
	w.progress(100)
	c.kill(c.nodes[2])
	lacks := c.shard(c.nodes[0]).LastLogIndex + 1 // if not an earlier entry
	for _, p := range c.nodes[:2] {
		for c.shard(p).FirstLogIndex <= lacks {
			w.progress(50) // How many writes share an entry, the machine decides.
		}
	}
	return c, w
}

func killReceiver(t *testing.T, at failpoint.Point, n int) {
	c, w := lagging(t, func(*processes) {})
	p := c.nodes[2]
	p.arm(at, n)
	c.start(p)
	c.killed(p)
	w.progress(50)
	c.restart(p)
	w.progress(50)
	w.finish()
}

func killSender(t *testing.T, at failpoint.Point, n int) {
	c, w := lagging(t, func(c *processes) {
		for _, p := range c.nodes[:2] {
			p.arm(at, n)
		}
	})
	c.start(c.nodes[2])
	c.killed(c.nodes[:2]...)
	c.restart(c.nodes[:2]...)
	w.progress(50)
	w.finish()
}
