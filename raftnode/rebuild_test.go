package raftnode_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/raftkv/raftkv/raftnode"
)

// damageFiles writes over a part of every file of a directory of a stopped node whose name has a suffix.
func (c *cluster) damageFiles(dir, suffix string, offset int64) {
	c.t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil || len(files) == 0 {
		c.t.Fatalf("nothing to damage in %s: %v", dir, err)
	}
	for _, name := range files {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			c.t.Fatal(err)
		}
		if info, err := f.Stat(); err == nil && info.Size() > offset+64 {
			if _, err := f.WriteAt([]byte(strings.Repeat("\xa5", 64)), offset); err != nil {
				c.t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			c.t.Fatal(err)
		}
	}
}

// rebuilt waits until the replicas of a node take part, under new ids, and nothing is in quarantine.
func (c *cluster) rebuilt(node int) {
	c.t.Helper()
	m := c.members[node]
	waitFor(c.t, "the replicas to be rebuilt", func() bool {
		return len(c.nodes[m.ID].Rebuilding()) == 0 && c.nodes[m.ID].Metrics().Rebuilds > 0 && len(c.nodes[m.ID].Status().NotReady) == 0
	})
	shards, _ := c.nodes[m.ID].Shards()
	for _, s := range shards {
		for _, r := range s.Replicas {
			if r.Learner || r.NodeID == m.ID && r.ID != 4 {
				c.t.Errorf("shard %d: replica %+v, want voters, and a new one on %s", s.ID, r, m.ID)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(c.dir, string(m.ID), "quarantine")); !errors.Is(err, os.ErrNotExist) {
		c.t.Errorf("the quarantine is not cleared: %v", err)
	}
}

// A node whose log or state is damaged or gone has its replicas rebuilt from the others, and serves meanwhile (R15).
func TestRebuild(t *testing.T) {
	for name, damage := range map[string]func(c *cluster, dir string){
		"log segments": func(c *cluster, dir string) { c.damageFiles(filepath.Join(dir, "log"), ".log", 0) },
		"log records":  func(c *cluster, dir string) { c.damageFiles(filepath.Join(dir, "log"), ".log", 8<<10) },
		"log lost":     func(c *cluster, dir string) { c.remove(filepath.Join(dir, "log")) },
		"state lost":   func(c *cluster, dir string) { c.remove(filepath.Join(dir, "state")) },
		"manifest":     func(c *cluster, dir string) { c.damageFiles(filepath.Join(dir, "state"), "MANIFEST-*", 0) },
		"tables lost":  func(c *cluster, dir string) { c.removeAll(filepath.Join(dir, "state"), "*.sst") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 3, func(o *raftnode.Options) { o.Shards = 2 })
			for i := range 50 {
				if _, err := c.put("n1", fmt.Sprintf("key-%d", i), strings.Repeat("x", 500)); err != nil {
					t.Fatal(err)
				}
			}
			c.stop("n3")
			damage(c, filepath.Join(c.dir, "n3"))
			c.start("n3", nil)
			c.formed("n3")
			if _, err := c.put("n3", "during", "1"); err != nil {
				t.Errorf("a write through the node: %v", err)
			}
			c.rebuilt(2)
			for i := range 50 {
				if v, err := c.get("n3", fmt.Sprintf("key-%d", i)); err != nil || len(v) != 500 {
					t.Fatalf("key %d through the rebuilt node: %d bytes, %v", i, len(v), err)
				}
			}
			c.stop("n1") // The new replicas are needed for a majority now.
			if _, err := c.put("n3", "after", "1"); err != nil {
				t.Errorf("a write that needs the rebuilt node: %v", err)
			}
			c.stop("n3")
			c.start("n3", nil)
			c.formed("n3")
			if v, err := c.get("n3", "after"); err != nil || v != "1" {
				t.Errorf("after a restart: %q, %v", v, err)
			}
		})
	}
}

func (c *cluster) removeAll(dir, pattern string) {
	c.t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) == 0 {
		c.t.Fatalf("nothing to remove in %s: %v", dir, err)
	}
	for _, name := range files {
		c.remove(name)
	}
}

func (c *cluster) remove(dir string) {
	c.t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		c.t.Fatal(err)
	}
}

// Damage that is met only when it is read stops the node; opened again it rebuilds.
func TestRebuildWhatIsFoundByReading(t *testing.T) {
	c := newCluster(t, 3, small)
	for i := range 200 {
		if _, err := c.put("n1", fmt.Sprintf("key-%d", i), strings.Repeat("x", 500)); err != nil {
			t.Fatal(err)
		}
	}
	c.stop("n3")
	for offset := range int64(20) {
		c.damageFiles(filepath.Join(c.dir, "n3", "state"), ".sst", offset*500)
	}
	n := c.start("n3", nil)
	if n.Formed(t.Context()) == nil { // It may meet the damage before.
		if _, err := c.get("n3", "key-7"); err == nil {
			t.Error("damaged state is read")
		}
	}
	<-n.Done()
	if err := n.Close(); err == nil {
		t.Fatal("the node does not say why it has stopped")
	}
	c.start("n3", nil)
	c.formed("n3")
	c.rebuilt(2)
	if v, err := c.get("n3", "key-7"); err != nil || len(v) != 500 {
		t.Errorf("key-7: %d bytes, %v", len(v), err)
	}
}

// A program's own machine is rebuilt as well.
func TestRebuildOwnMachine(t *testing.T) {
	c := newCluster(t, 3, withJournal)
	for i := range 100 {
		if _, err := c.nodes["n1"].Propose(t.Context(), raftnode.DataShard, fmt.Appendf(nil, "command %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	c.stop("n3")
	c.damageFiles(filepath.Join(c.dir, "n3", "state"), "shard-*", 10)
	c.start("n3", nil)
	c.formed("n3")
	c.rebuilt(2)
	err := c.nodes["n3"].Read(t.Context(), raftnode.DataShard, func(m raftnode.StateMachine) error {
		if lines := strings.Count(string(m.(*journal).lines), "\n"); lines != 100 {
			return fmt.Errorf("%d commands, want 100", lines)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Without a majority of others there is nothing to rebuild from: the node refuses, and says what to do.
func TestNoRebuildAlone(t *testing.T) {
	c := newCluster(t, 1, nil)
	if _, err := c.put("n1", "a", "1"); err != nil {
		t.Fatal(err)
	}
	c.stop("n1")
	c.damageFiles(filepath.Join(c.dir, "n1", "log"), ".log", 0)
	n := c.start("n1", nil)
	<-n.Done()
	if err := n.Close(); err == nil || !strings.Contains(err.Error(), "too few other replicas") {
		t.Errorf("the node says %v", err)
	}
	delete(c.nodes, "n1")
	if _, err := os.Stat(filepath.Join(c.dir, "n1", "log")); err != nil {
		t.Errorf("what is damaged was touched: %v", err)
	}
}
