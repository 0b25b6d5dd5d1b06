package nodetest

import (
	"fmt"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
)

// TestSilentLeader lets leaders fall silent while every connection seems to stand: another node leads within an election timeout, because
// the followers miss the heartbeats of the node.
func TestSilentLeader(t *testing.T) {
	faults := map[string]func(c *Cluster, leader int, others []int){
		"frozen":             func(c *Cluster, leader int, _ []int) { c.Pause(leader) },
		"one-way black hole": func(c *Cluster, leader int, others []int) { c.Mute(leader, others, false, time.Hour) },
	}
	for name, fault := range faults {
		for seed := range uint64(16) {
			t.Run(fmt.Sprintf("%s, seed %d", name, seed), func(t *testing.T) {
				cryptotest.SetGlobalRandom(t, seed)
				synctest.Test(t, func(t *testing.T) {
					c := New(Options{Seed: seed + 1})
					defer c.Close()
					if !c.Formed(20*time.Second) || !c.RunUntil(10*time.Second, func() bool { return c.Leader(1) >= 0 }) {
						t.Fatal("no leader")
					}
					c.Run(2 * time.Second)
					leader := c.Leader(1)
					var others []int
					for i := range c.processes {
						if i != leader {
							others = append(others, i)
						}
					}
					fault(c, leader, others)
					if !c.RunUntil(c.options.election(), func() bool { return leads(c, others) }) {
						t.Error("nobody leads within an election timeout")
					}
					for _, v := range c.Violations() {
						t.Error(v)
					}
				})
			})
		}
	}
}

// TestOneLostFollower lets a single follower hear nothing of its leader: the lead stays where it is, because the others still hear it.
func TestOneLostFollower(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1)
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{Seed: 1})
		defer c.Close()
		if !c.Formed(20*time.Second) || !c.RunUntil(10*time.Second, func() bool { return c.Leader(1) >= 0 }) {
			t.Fatal("no leader")
		}
		c.Run(2 * time.Second)
		leader, terms := c.Leader(1), len(c.wire.leaders)
		c.Mute(leader, []int{(leader + 1) % 3}, false, time.Hour)
		c.Run(10 * c.options.election())
		if got := c.Leader(1); got != leader || len(c.wire.leaders) != terms {
			t.Errorf("node %d leads instead of %d, %d terms instead of %d", got, leader, len(c.wire.leaders), terms)
		}
		c.Heal()
		c.Run(2 * c.options.election())
		if got := c.Leader(1); got != leader || len(c.wire.leaders) != terms {
			t.Errorf("after all is well: node %d leads instead of %d, %d terms instead of %d", got, leader, len(c.wire.leaders), terms)
		}
	})
}

// leads says whether one of some nodes takes itself for the leader of shard 1.
func leads(c *Cluster, nodes []int) bool {
	for _, i := range nodes {
		p := c.processes[i]
		for _, s := range p.life.node.Nodes() {
			for _, shard := range s.Leads {
				if shard == 1 && s.ID == p.id {
					return true
				}
			}
		}
	}
	return false
}
