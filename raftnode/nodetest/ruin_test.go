package nodetest

import (
	"strings"
	"testing"
	"time"
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

// TestFlippedBits turns bits in the log of a node that takes no part afterwards but by what it has: it refuses, or serves as the others do.
func TestFlippedBits(t *testing.T) {
	refused := 0
	for seed := uint64(1); seed <= 6; seed++ {
		inCluster(t, Options{Seed: seed, SegmentBytes: 16 << 10}, func(c *Cluster) {
			for range 20 {
				write(t, c, strings.Repeat("x", 3000))
			}
			c.flipBit(2)
			c.Start(2)
			c.Run(5 * time.Second)
			write(t, c, "after")
			refused += int(c.events[Refused])
			if v := c.Violations(); len(v) > 0 {
				t.Errorf("seed %d: %v", seed, v)
			}
		})
	}
	if refused == 0 {
		t.Error("no node has noticed a flipped bit")
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
