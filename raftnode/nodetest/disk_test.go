package nodetest

import (
	"errors"
	"fmt"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// inLedCluster runs a test on a cluster of three whose shard 1 has a leader, and takes no violation.
func inLedCluster(t *testing.T, seed uint64, test func(c *Cluster, leader int)) {
	t.Helper()
	cryptotest.SetGlobalRandom(t, seed)
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{Seed: seed})
		defer c.Close()
		if !c.Formed(20*time.Second) || !c.RunUntil(10*time.Second, func() bool { return c.Leader(1) >= 0 }) {
			t.Fatal("no leader")
		}
		c.Run(2 * time.Second)
		test(c, c.Leader(1))
		for _, v := range c.Violations() {
			t.Error(v)
		}
	})
}

// writer writes one key after another through a node, and remembers when what was acknowledged.
type writer struct {
	c       *Cluster
	node    int
	stopped bool
	acked   []string
	times   []time.Duration
	refused []error
	unknown []error
}

func (w *writer) next() {
	s, p := w.c.scheduler, w.c.processes[w.node]
	key := fmt.Sprintf("w%d-%d-%d", w.node, len(w.acked), s.now)
	op := &storev1.Operation{Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: key, Value: []byte(key)}
	s.add(10*time.Millisecond, &event{name: "write", process: p, boot: p.life.number, run: func() {
		p.life.node.Submit(&raftnode.Request{
			AutoShard: true, Deadline: p.life.runtime.Now().Add(w.c.options.election()),
			Command: &storev1.Command{Body: &storev1.Command_Write{Write: &storev1.Write{Operations: []*storev1.Operation{op}}}},
			Done: func(res raftnode.Result) {
				s.after(0, "wrote", func() {
					unknown := (*raftnode.UnknownOutcomeError)(nil)
					switch {
					case res.Err == nil:
						w.acked, w.times = append(w.acked, key), append(w.times, s.now)
					case errors.As(res.Err, &unknown):
						w.unknown = append(w.unknown, res.Err)
					default:
						w.refused = append(w.refused, res.Err)
					}
					if !w.stopped && p.life != nil && !p.life.leaving {
						w.next()
					}
				})
			},
		})
	}})
}

// longestGap is the longest time without an acknowledgement since a moment.
func (w *writer) longestGap(since, until time.Duration) time.Duration {
	longest := time.Duration(0)
	for _, at := range append(w.times, until) {
		if at > since {
			longest, since = max(longest, at-since), at
		}
	}
	return longest
}

// verify reads everything that was acknowledged, through one node.
func (w *writer) verify(t *testing.T, through int) {
	t.Helper()
	missing, waiting := 0, len(w.acked)
	p := w.c.processes[through]
	for _, key := range w.acked {
		p.life.node.Submit(&raftnode.Request{AutoShard: true, Read: &peerv1.ReadRequest{Keys: []string{key}}, Done: func(res raftnode.Result) {
			waiting--
			if res.Err != nil || string(res.Read.GetRecords()[0].GetRecord().GetValue()) != key {
				missing++
			}
		}})
	}
	if !w.c.RunUntil(10*w.c.options.election(), func() bool { return waiting == 0 }) || missing > 0 {
		t.Errorf("of %d acknowledged writes %d are lost and %d reads not answered", len(w.acked), missing, waiting)
	}
}

// TestStalledLeader lets nothing come back from a disk of a leader, which goes on speaking: the others take writes within a few election timeouts,
// and go on doing so.
func TestStalledLeader(t *testing.T) {
	for name, stall := range map[string]func(*Cluster, int, bool){"log": (*Cluster).stallLog, "state": (*Cluster).stallState} {
		for seed := uint64(1); seed <= 8; seed++ {
			t.Run(fmt.Sprintf("%s, seed %d", name, seed), func(t *testing.T) {
				inLedCluster(t, seed, func(c *Cluster, leader int) {
					w := &writer{c: c, node: (leader + 1) % 3}
					w.next()
					c.Run(time.Second)
					began := c.Now()
					stall(c, leader, true)
					c.Run(10 * c.options.election())
					if gap := w.longestGap(began, c.Now()); gap > 4*c.options.election() {
						t.Errorf("no write was acknowledged for %s", gap)
					}
					stall(c, leader, false)
					c.Run(3 * c.options.election())
					w.stopped = true
					c.Run(2 * c.options.election())
					w.verify(t, leader)
				})
			})
		}
	}
}

// TestStallOfAll lets nothing come back from any disk: nobody gives up a lead for that, because nobody could do better.
func TestStallOfAll(t *testing.T) {
	inLedCluster(t, 1, func(c *Cluster, leader int) {
		w := &writer{c: c, node: leader}
		w.next()
		for i := range c.processes {
			c.stallLog(i, true)
		}
		c.Run(10 * c.options.election())
		for i, p := range c.processes {
			if p.life.node.Metrics().Yields > 0 && i != leader {
				t.Errorf("node %d has given up a lead", i)
			}
			c.stallLog(i, false)
		}
		w.stopped = true
		c.Run(5 * c.options.election())
		if len(w.acked) == 0 && len(w.unknown) == 0 {
			t.Error("nothing was written")
		}
	})
}

// TestLeaderStopsUnderLoad stops a leader in good order while writers write through every node: they miss it for less than an election timeout,
// and no outcome is unknown.
func TestLeaderStopsUnderLoad(t *testing.T) {
	for seed := uint64(1); seed <= 12; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			inLedCluster(t, seed, func(c *Cluster, leader int) {
				var ws []*writer
				for i := range 9 {
					w := &writer{c: c, node: i % 3}
					ws = append(ws, w)
					w.next()
				}
				c.Run(time.Second)
				began, term := c.Now(), c.term(1)
				c.leave(leader)
				if took := c.Now() - began; took >= c.options.election() {
					t.Errorf("it took %s to stop", took)
				}
				c.Run(3 * c.options.election())
				if got := c.term(1); got != term+1 {
					t.Errorf("term %d after %d: want one, by the transfer", got, term)
				}
				for _, w := range ws {
					w.stopped = true
					if gap := w.longestGap(began, c.Now()); w.node != leader && gap >= c.options.election() {
						t.Errorf("a writer through node %d waited for %s", w.node, gap)
					}
					for _, err := range append(w.unknown, w.refused...) {
						if w.node != leader || !errors.Is(err, raftnode.ErrStopped) {
							t.Errorf("a write through node %d: %v", w.node, err)
						}
					}
				}
				c.Run(2 * c.options.election())
				for _, w := range ws {
					w.verify(t, (leader+1)%3)
				}
			})
		})
	}
}

// term is the highest term in which a shard had a leader.
func (c *Cluster) term(shard placement.ShardID) uint64 {
	highest := uint64(0)
	for at := range c.wire.leaders {
		if placement.ShardID(at.shard) == shard {
			highest = max(highest, at.term)
		}
	}
	return highest
}
