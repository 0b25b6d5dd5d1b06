//go:build failpoint

package main

import (
	"fmt"
	"os"
	"path/filepath"
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
		{killDamaged, 1, []failpoint.Point{
			failpoint.DamageNoted, failpoint.DamageAside, failpoint.ReplicaReset, failpoint.ReplicaForgotten, failpoint.ReplicaRenewed,
			failpoint.QuarantineCleared,
		}},
		{killDamaged, 2, []failpoint.Point{failpoint.ReplicaReset, failpoint.ReplicaRenewed}}, // the other shard has begun again
		// A shard's first change is the removal of the damaged replica, the second is its successor, a learner, the third makes that a voter. Two
		// shards change at a time.
		{killItsLeader, 1, []failpoint.Point{failpoint.MembershipChanged}},
		{killItsLeader, 2, []failpoint.Point{failpoint.MembershipChanged}},
		{killItsLeader, 3, []failpoint.Point{failpoint.MembershipChanged}},
		{killItsLeader, 4, []failpoint.Point{failpoint.MembershipChanged}},
		{killItsLeader, 5, []failpoint.Point{failpoint.MembershipChanged}},
	} {
		for _, point := range f.points {
			done[point] = true
			t.Run(fmt.Sprintf("%s@%d", point, f.n), func(t *testing.T) { f.how(t, point, f.n) })
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

// bereft is a cluster of three under load whose last node is down.
func bereft(t *testing.T, arm func(*processes)) (*processes, *writers) {
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
	return c, w
}

// lagging is a cluster of three whose last node is down for so long that it needs a snapshot.
func lagging(t *testing.T, arm func(*processes)) (*processes, *writers) {
	c, w := bereft(t, arm)
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

// damaged is a cluster of three whose last node is down, and whose log cannot be read.
func damaged(t *testing.T, arm func(*processes)) (*processes, *writers) {
	c, w := bereft(t, arm)
	p := c.nodes[2]
	segments, err := filepath.Glob(filepath.Join(c.dir, p.id, "log", "*.log"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("there is no log to damage: %v", err)
	}
	for _, name := range segments {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("damaged!"), 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return c, w
}

// rebuilt waits until the last node has new replicas, which are voters, and lets the cluster need them.
func (c *processes) rebuilt(w *writers) {
	c.t.Helper()
	w.progress(50)
	deadline, look := time.NewTimer(30*time.Second), time.NewTicker(20*time.Millisecond)
	defer deadline.Stop()
	defer look.Stop()
	for !c.whole() {
		select {
		case <-look.C:
		case <-deadline.C:
			c.t.Fatalf("%s is not rebuilt: %+v", c.nodes[2].id, c.shards(c.nodes[2]))
		}
	}
	c.kill(c.nodes[0])
	w.progress(50)
	c.restart(c.nodes[0])
	w.finish()
}

// whole says whether all nodes see three voters in each shard, that of the last node being a new one.
func (c *processes) whole() bool {
	for _, p := range c.nodes {
		shards := c.shards(p)
		for _, s := range shards {
			for _, r := range s.Replicas {
				if len(s.Replicas) != 3 || r.Role == "ROLE_LEARNER" || r.NodeID == c.nodes[2].id && r.ID < 4 {
					return false
				}
			}
		}
		if len(shards) != 2 {
			return false
		}
	}
	return true
}

// killDamaged ends a node while it has its replicas rebuilt.
func killDamaged(t *testing.T, at failpoint.Point, n int) {
	c, w := damaged(t, func(*processes) {})
	p := c.nodes[2]
	p.arm(at, n)
	c.start(p)
	c.killed(p)
	w.progress(50)
	c.start(p)
	c.rebuilt(w)
}

// killItsLeader ends the majority while it changes the membership of a damaged node's shards.
func killItsLeader(t *testing.T, at failpoint.Point, n int) {
	c, w := damaged(t, func(c *processes) {
		for _, p := range c.nodes[:2] {
			p.arm(at, n)
		}
	})
	c.start(c.nodes[2])
	c.killed(c.nodes[:2]...)
	for _, p := range c.nodes[:2] {
		c.start(p)
	}
	c.rebuilt(w)
}
