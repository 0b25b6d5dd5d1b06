package raftnode_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// small makes snapshots and truncations happen within a few hundred writes.
func small(o *raftnode.Options) {
	o.SnapshotEntries, o.MaxLogEntries, o.SegmentBytes = 20, 16, 64<<10
}

// A node that was away for longer than the log reaches is brought up by a snapshot, and what it then shows is complete.
func TestLaggingNodeCatchesUpBySnapshot(t *testing.T) {
	c := newCluster(t, 3, small)
	if _, err := c.put("n1", "before", "1"); err != nil {
		t.Fatal(err)
	}
	c.stop("n3")
	for i := range 600 {
		if _, err := c.put("n1", fmt.Sprintf("key-%d", i), strings.Repeat("v", 512)); err != nil {
			t.Fatalf("put %d: %v", i, err)
		}
	}
	waitFor(t, "the log of n1 to be truncated", func() bool {
		shards, _ := c.nodes["n1"].Shards()
		return shards[1].FirstLogIndex > 100
	})
	c.start("n3", nil)
	c.formed("n3")
	for _, key := range []string{"before", "key-0", "key-599"} {
		if _, err := c.get("n3", key); err != nil {
			t.Fatalf("get %s: %v", key, err)
		}
	}
	if got := c.nodes["n3"].Metrics().SnapshotsInstalled; got == 0 {
		t.Error("n3 caught up without a snapshot: the test shows nothing")
	}
	waitFor(t, "the staged snapshots to be removed", func() bool {
		left, err := os.ReadDir(filepath.Join(c.dir, "n3", "staging"))
		return errors.Is(err, os.ErrNotExist) || err == nil && len(left) == 0
	})
	// And it goes on from there after a restart.
	c.stop("n3")
	c.start("n3", nil)
	c.formed("n3")
	if _, err := c.get("n3", "key-599"); err != nil {
		t.Fatal(err)
	}
}

// The lead goes where it is sent, and nothing is lost on the way.
func TestTransferLeader(t *testing.T) {
	c := newCluster(t, 3, nil)
	for i, to := range []placement.NodeID{"n1", "n2", "n3", "n1"} {
		key := fmt.Sprintf("key-%d", i)
		if _, err := c.put("n2", key, "v"); err != nil {
			t.Fatal(err)
		}
		// A node that is held up for a moment counts as silent, and an election may be under way: both are refused, and asked again.
		waitFor(t, "the lead to go to "+string(to), func() bool {
			_, err := c.nodes["n3"].TransferLeader(t.Context(), 1, to)
			return err == nil
		})
		if got, err := c.get(to, key); err != nil || got != "v" {
			t.Fatalf("get %s: %q, %v", key, got, err)
		}
		waitFor(t, "n3 to know the leader", func() bool { return c.nodes["n3"].Locate(key).Leader == to })
	}
	var invalid *raftnode.InvalidError
	if _, err := c.nodes["n1"].TransferLeader(t.Context(), 1, "nobody"); !errors.As(err, &invalid) {
		t.Errorf("transfer to nobody: %v", err)
	}
}

// A lead that is handed to a node that is gone comes back within an election timeout, and what came of it is not called definite.
func TestTransferToALostNode(t *testing.T) {
	c := newCluster(t, 3, nil)
	if _, err := c.put("n1", "a", "1"); err != nil {
		t.Fatal(err)
	}
	leader := c.nodes["n1"].Locate("a").Leader
	lost := placement.NodeID("n3")
	if leader == lost {
		lost = "n2"
	}
	c.stop(lost)
	_, err := c.nodes[leader].TransferLeader(t.Context(), 1, lost)
	var unknown *raftnode.UnknownOutcomeError
	var invalid *raftnode.InvalidError
	if !errors.As(err, &unknown) && !errors.As(err, &invalid) {
		t.Fatalf("transfer to a lost node: %v", err)
	}
	if _, err := c.put(leader, "a", "2"); err != nil {
		t.Fatal(err)
	}
	// Once the leader has noticed, it does not try.
	waitFor(t, "the transfer to be refused at once", func() bool {
		_, err := c.nodes[leader].TransferLeader(t.Context(), 1, lost)
		return errors.As(err, &invalid)
	})
}

// A log over its bound keeps only what recovery needs, however few entries that cuts.
func TestLogBytesBound(t *testing.T) {
	c := newCluster(t, 1, func(o *raftnode.Options) {
		o.MaxLogBytes, o.SegmentBytes, o.SnapshotPeriod = 2<<20, 1<<20, 50*time.Millisecond
		o.MemTableBytes = 16 << 20 // room for all, also where flushes are slow
	})
	value := strings.Repeat("v", 200<<10)
	for i := range 40 {
		if _, err := c.put("n1", fmt.Sprintf("key-%d", i), value); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "the log to be truncated", func() bool {
		shards, _ := c.nodes["n1"].Shards()
		return shards[1].FirstLogIndex > 30
	})
	// Segments are given up when another one begins.
	waitFor(t, "the log to become short", func() bool {
		if _, err := c.put("n1", "more", value[:16<<10]); err != nil {
			t.Fatal(err)
		}
		return c.nodes["n1"].Status().LogBytes < 4<<20
	})
}

// A data directory is one node's: no second process, no other name, no other format.
func TestRefusals(t *testing.T) {
	c := newCluster(t, 1, nil)
	second := c.options("n1")
	second.Members = nil
	if _, err := raftnode.Open(second); !errors.Is(err, raftnode.ErrInUse) {
		t.Errorf("a second node on the directory: %v", err)
	}
	c.stop("n1")
	other := c.options("n2")
	other.Dir, other.Members = filepath.Join(c.dir, "n1"), nil
	if _, err := raftnode.Open(other); err == nil || !strings.Contains(err.Error(), "belongs to node n1") {
		t.Errorf("another node on the directory: %v", err)
	}
	for name, spoil := range map[string]func([]byte) []byte{
		"damaged":   func(b []byte) []byte { b[3] ^= 1; return b },
		"too short": func(b []byte) []byte { return b[:3] },
	} {
		path := filepath.Join(c.dir, "n1", "IDENTITY")
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, spoil(append([]byte(nil), good...)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := raftnode.Open(c.options("n1")); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("identity %s: %v", name, err)
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// An emptied disk under an old name is refused, by the node itself and by the others (R13).
func TestEmptiedDisk(t *testing.T) {
	c := newCluster(t, 3, nil)
	if _, err := c.put("n1", "a", "1"); err != nil {
		t.Fatal(err)
	}
	c.stop("n3")
	if err := os.RemoveAll(filepath.Join(c.dir, "n3")); err != nil {
		t.Fatal(err)
	}
	n := c.start("n3", nil)
	<-n.Done()
	if err := n.Err(); !errors.Is(err, raftnode.ErrFormedWithout) {
		t.Errorf("an emptied disk: %v", err)
	}
	if err := n.Close(); !errors.Is(err, raftnode.ErrFormedWithout) {
		t.Errorf("close: %v", err)
	}
	delete(c.nodes, "n3")
	if _, err := c.put("n1", "b", "2"); err != nil {
		t.Errorf("the others go on: %v", err)
	}
}

// A log that is gone was not never there: a replica that began anew would have forgotten its votes and what it has acknowledged (R14). It is
// rebuilt under another id.
func TestLostLog(t *testing.T) {
	for _, lost := range [][]string{{"log"}, {"log", "state"}} {
		c := newCluster(t, 3, nil)
		if _, err := c.put("n1", "a", "1"); err != nil {
			t.Fatal(err)
		}
		c.stop("n3")
		for _, dir := range lost {
			c.remove(filepath.Join(c.dir, "n3", dir))
		}
		c.start("n3", nil)
		c.formed("n3")
		c.rebuilt(2)
	}
}

// Without a majority, writes and reads fail with a definite or an unknown outcome in time, and work again by themselves.
func TestLostMajority(t *testing.T) {
	c := newCluster(t, 3, nil)
	if _, err := c.put("n1", "a", "1"); err != nil {
		t.Fatal(err)
	}
	c.stop("n2")
	c.stop("n3")
	if _, err := c.putWithin("n1", "a", "2", shortTimeout); err == nil {
		t.Error("a write was acknowledged without a majority")
	}
	if v, err := c.getWithin("n1", "a", shortTimeout); err == nil {
		t.Errorf("a read was answered without a majority: %q", v)
	}
	c.start("n2", nil)
	c.formed("n2")
	if _, err := c.put("n1", "a", "3"); err != nil {
		t.Fatal(err)
	}
	if v, err := c.get("n2", "a"); err != nil || v != "3" {
		t.Errorf("get: %q, %v", v, err)
	}
}
