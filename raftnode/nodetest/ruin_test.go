package nodetest

import (
	"strings"
	"testing"
	"time"

	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

// TestLostDisk gives a node an empty disk: it refuses and stays down, the others go on.
func TestLostDisk(t *testing.T) {
	inCluster(t, Options{Seed: 1}, func(c *Cluster) {
		write(t, c, "before")
		c.loseDisk(2)
		c.Run(5 * time.Second)
		c.Start(2)
		write(t, c, "after")
		if p := c.processes[2]; !p.out || p.life != nil || c.events[Refused] != 1 {
			t.Errorf("out %t, life %v, refused %d times", p.out, p.life, c.events[Refused])
		}
		if v := c.Violations(); len(v) > 0 {
			t.Error(v)
		}
		c.loseDisk(1)
		if !c.Up(1) || c.processes[1].ruin != sound {
			t.Error("a majority is ruined")
		}
	})
}

// TestFlippedBits turns bits in the log of a node that takes no part afterwards but by what it has: it has the damaged replicas rebuilt, or does
// not need the bit.
func TestFlippedBits(t *testing.T) {
	rebuilt := uint64(0)
	for seed := uint64(1); seed <= 6; seed++ {
		inCluster(t, Options{Seed: seed, SegmentBytes: 16 << 10}, func(c *Cluster) {
			for range 20 {
				write(t, c, strings.Repeat("x", 3000))
			}
			c.flipBit(2)
			c.Start(2)
			c.RunUntil(20*time.Second, c.processes[2].rebuilt)
			write(t, c, "after")
			if !c.processes[2].rebuilt() {
				t.Errorf("seed %d: not rebuilt", seed)
			}
			c.Stop(2)
			rebuilt += c.events[Rebuilt]
			if v := c.Violations(); len(v) > 0 {
				t.Errorf("seed %d: %v", seed, v)
			}
		})
	}
	if rebuilt == 0 {
		t.Error("no node has noticed a flipped bit")
	}
}

// TestLostDirs takes log and state of a node away: its replicas are rebuilt, under other ids, and are what those of the others are.
func TestLostDirs(t *testing.T) {
	for _, dir := range []string{"log", "state"} {
		inCluster(t, Options{Seed: 1, Shards: 2}, func(c *Cluster) {
			for range 5 {
				write(t, c, strings.Repeat("x", 3000))
			}
			c.loseDir(2, dir)
			c.Start(2)
			if !c.RunUntil(20*time.Second, c.processes[2].rebuilt) {
				t.Errorf("%s: not rebuilt", dir)
			}
			write(t, c, "after")
			c.Run(2 * time.Second)
			disks := make(map[placement.NodeID]*simfs.FS)
			for i, p := range c.processes {
				c.Stop(i)
				disks[p.id] = p.disk
			}
			if n := c.events[Rebuilt]; n != 3 {
				t.Errorf("%s: %d replicas are rebuilt, want those of the meta shard and of two others", dir, n)
			}
			if n, err := CheckReplicas(disks); err != nil || n < 6 {
				t.Errorf("%s: %d pairs of states compared, %v", dir, n, err)
			}
			if v := c.Violations(); len(v) > 0 {
				t.Errorf("%s: %v", dir, v)
			}
		})
	}
}

// TestMemberOnAnEmptiedDiskIsFound lets a node go on as if its disk were still there.
func TestMemberOnAnEmptiedDiskIsFound(t *testing.T) {
	inCluster(t, Options{Seed: 1}, func(c *Cluster) {
		c.processes[0].ruin = emptied
		c.Run(5 * time.Second)
		if v := c.Violations(); len(v) == 0 || !strings.Contains(v[0], "n1, shard") || !strings.Contains(v[0], "has lost its disk and says") {
			t.Errorf("violations %q", v)
		}
	})
}
