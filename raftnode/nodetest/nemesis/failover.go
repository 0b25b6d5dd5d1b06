package main

import (
	"context"
	"fmt"
	"time"

	"github.com/raftkv/raftkv/raftnode/nodetest"
	"github.com/raftkv/raftkv/raftnode/placement"
)

const (
	// pulseEvery is how often a write to each shard begins, whatever has come of those before: so a gap is one of the cluster, not of
	// clients that wait. pulsesMax bounds those under way.
	pulseEvery = 10 * time.Millisecond
	pulsesMax  = 1000
	// steadyFor is how long all is well before each kill, deadFor how long the killed node stays away.
	steadyFor = 1500 * time.Millisecond
	deadFor   = 3 * time.Second
	// leaderWithin is how soon somebody must lead.
	leaderWithin = 15 * time.Second
	// gapGoal is what the 99th percentile of the gaps must not pass.
	gapGoal = time.Second
)

// failover kills the leader of a shard, again and again, and measures the gaps between acknowledged writes.
func (c *cluster) failover(ctx context.Context, o *options, r *report) error {
	loading, stop := context.WithCancel(ctx)
	defer stop()
	for shard := range shards {
		c.load.pulses(loading, placement.ShardID(1+shard)) //nolint:gosec // small
	}
	for i := range o.kills {
		k, err := c.killLeader(ctx, 1+i%shards)
		if err != nil {
			return err
		}
		if ctx.Err() != nil || len(c.rec.broken()) > 0 {
			break
		}
		gap := c.rec.gap(*k)
		r.gaps = append(r.gaps, gap)
		fmt.Printf("kill %2d: %s, which led %v: %s\n", i+1, k.node, k.led, short(gap))
	}
	stop()
	c.finish(r, false)
	if p99 := percentile(r.gaps, 99); p99 > gapGoal {
		c.rec.violate("the longest gap between acknowledged writes is %s at p99, the goal is %s", short(p99), gapGoal)
	}
	return nil
}

// killLeader kills the node that leads a shard and starts it again.
func (c *cluster) killLeader(ctx context.Context, shard int) (*kill, error) {
	pause(ctx, steadyFor)
	p := newPatience(leaderWithin)
	defer p.end()
	n, led := c.leads(shard)
	for ; n == nil; n, led = c.leads(shard) {
		if p.ended() {
			c.rec.violate("nobody leads shard %d within %s", shard, leaderWithin)
			return &kill{}, nil
		}
		pause(ctx, 50*time.Millisecond)
	}
	k := &kill{at: c.rec.now(), node: n.id, led: led, alone: true}
	if err := n.kill(); err != nil {
		return nil, err
	}
	pause(ctx, deadFor)
	k.until = c.rec.now()
	c.end(n)
	if err := n.start(); err != nil {
		return nil, err
	}
	if err := c.live(liveWithin); err != nil {
		c.rec.violate("a node that was started again does not serve: %v", err)
	}
	return k, nil
}

// pulses begins writes to a shard at a steady rate, through one node after another.
func (l *load) pulses(ctx context.Context, shard placement.ShardID) {
	group := l.keys.one(shard)
	free := make(chan *client, pulsesMax)
	for i := range pulsesMax {
		free <- l.client(10_000*int(shard) + i)
	}
	l.wait.Go(func() {
		tick := time.NewTicker(pulseEvery)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			select {
			case c := <-free:
				l.wait.Go(func() {
					c.pulse(ctx, group, i%nodes)
					free <- c
				})
			default: // So many are under way that nobody would count them.
			}
		}
	})
}

// pulse is one write.
func (c *client) pulse(ctx context.Context, group, node int) {
	op := &nodetest.Operation{Client: c.number, Group: group}
	op.Kind = nodetest.Write
	op.Changes = []nodetest.Change{{Key: c.random.IntN(nodetest.GroupKeys), Value: c.load.values.next(100)}}
	c.write(ctx, &draft{op: op}, unnamed, func() int { return node })
}
