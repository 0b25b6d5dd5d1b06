package nodetest

import (
	"fmt"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

// TestFailoverOfFive kills leaders whose four followers are far from each other. They take turns in asking for votes: where all do at once, they
// split the votes, and it takes another election, or several.
func TestFailoverOfFive(t *testing.T) {
	elections := 0
	const seeds = 20
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, seed)
			synctest.Test(t, func(t *testing.T) {
				c := New(Options{Seed: seed + 1, Nodes: 5})
				defer c.Close()
				if !c.Formed(20*time.Second) || !c.RunUntil(10*time.Second, func() bool { return c.Leader(1) >= 0 }) {
					t.Fatal("no leader")
				}
				c.Run(2 * time.Second)
				c.SetNoise(Noise{Delay: 50 * time.Millisecond})
				killed, before := c.Leader(1), termOf(c, 1)
				c.Crash(killed, simfs.KeepAll)
				if !c.RunUntil(2*c.options.election(), func() bool { l := c.Leader(1); return l >= 0 && l != killed }) {
					t.Error("nobody leads within two election timeouts")
				}
				elections += int(termOf(c, 1) - before)
				for _, v := range c.Violations() {
					t.Error(v)
				}
			})
		})
	}
	if elections > seeds*5/4 {
		t.Errorf("%d elections for %d leaders", elections, seeds)
	}
	t.Logf("%d elections for %d leaders", elections, seeds)
}

// termOf is the highest term in which somebody has led a shard.
func termOf(c *Cluster, shard placement.ShardID) uint64 {
	highest := uint64(0)
	for at := range c.wire.leaders {
		if at.shard == uint32(shard) {
			highest = max(highest, at.term)
		}
	}
	return highest
}
