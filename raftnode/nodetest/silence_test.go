package nodetest

import (
	"fmt"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode"
	peers "github.com/raftkv/raftkv/raftnode/transport"
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

// TestLongMessage lets the leader send a value that takes most of an election timeout on the way, with its heartbeats behind it: the
// followers hear that it is sending. On a link that does not carry a piece in time it counts as silent.
func TestLongMessage(t *testing.T) {
	const value = 1 << 20
	for _, link := range []struct {
		name  string
		takes func(election time.Duration) time.Duration
		leads bool
	}{
		{"slow", func(election time.Duration) time.Duration { return election * 8 / 10 }, true},
		{"trickle", func(election time.Duration) time.Duration { return election * value / peers.PieceBytes }, false},
	} {
		t.Run(link.name, func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, 1)
			synctest.Test(t, func(t *testing.T) {
				c := New(Options{Seed: 1})
				defer c.Close()
				if !c.Formed(20*time.Second) || !c.RunUntil(10*time.Second, func() bool { return c.Leader(1) >= 0 }) {
					t.Fatal("no leader")
				}
				c.Run(2 * time.Second)
				leader, terms := c.Leader(1), len(c.wire.leaders)
				c.network.rate = int(value * time.Second / link.takes(c.options.election()))
				p, answered := c.processes[leader], false
				command := &storev1.Command{Body: &storev1.Command_Write{Write: &storev1.Write{Operations: []*storev1.Operation{{
					Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: "k", Value: make([]byte, value),
				}}}}}
				c.scheduler.add(0, &event{name: "request", process: p, run: func() {
					p.life.node.Submit(&raftnode.Request{
						AutoShard: true, Command: command, Deadline: p.life.runtime.Now().Add(time.Minute),
						Done: func(res raftnode.Result) { answered = res.Err == nil },
					})
				}})
				c.Run(3 * c.options.election())
				if stays := answered && len(c.wire.leaders) == terms; stays != link.leads {
					t.Errorf("answered: %t, %d terms instead of %d", answered, len(c.wire.leaders), terms)
				}
				for _, v := range c.Violations() {
					t.Error(v)
				}
			})
		})
	}
}
