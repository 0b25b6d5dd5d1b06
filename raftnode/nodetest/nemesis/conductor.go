package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/raftkv/raftkv/raftnode/placement"
)

const (
	// failWithin is how soon a process must end whose disk fails, once it is connected (R6).
	failWithin = 10 * time.Second
	// refuseWithin is how soon a node must refuse to serve on what is no longer its disk.
	refuseWithin = 20 * time.Second
)

// conductor carries a plan out.
type conductor struct {
	*cluster
	random *rand.Rand
	// counts are faults by kind, kills those of leaders, recoveries how long it took to be live again, failures how long a process
	// lived on after its disk had failed.
	counts     map[kind]int
	kills      []kill
	recoveries []time.Duration
	failures   []time.Duration
	// failing are the nodes whose disk has failed in this window, and since when.
	failing map[*node]time.Time
	// attacks are under way until the window ends.
	attacks *attacks
	// refusals says what a node with a ruined disk did.
	refusals []string
}

func newConductor(c *cluster, seed uint64) *conductor {
	return &conductor{
		cluster: c, random: rand.New(rand.NewPCG(seed, 2)), //nolint:gosec // not secret
		counts: make(map[kind]int), failing: make(map[*node]time.Time), attacks: newAttacks(),
	}
}

// step is a thing to do at a time of a window.
type step struct {
	at time.Duration
	do func() error
}

// play goes through a plan. It ends with the first violation, or with ctx; an error is one of this program or of the machine.
func (c *conductor) play(ctx context.Context, p *plan) error {
	for i, w := range p.windows {
		c.load.keys.renew()
		if err := c.window(ctx, w); err != nil {
			return fmt.Errorf("window %d: %w", i+1, err)
		}
		if ctx.Err() != nil || len(c.rec.broken()) > 0 {
			return nil
		}
	}
	return nil
}

// window carries a window out, heals, and has the cluster show that it works.
func (c *conductor) window(ctx context.Context, w window) error {
	began := time.Now()
	var steps []step
	for _, f := range w.faults {
		steps = append(steps, step{f.at, func() error { return c.begin(f, &steps, len(w.faults) == 1) }})
	}
	for len(steps) > 0 && ctx.Err() == nil {
		slices.SortStableFunc(steps, func(a, b step) int { return int(a.at - b.at) })
		next := steps[0]
		steps = steps[1:]
		pause(ctx, time.Until(began.Add(next.at)))
		if err := next.do(); err != nil {
			return err
		}
	}
	pause(ctx, time.Until(began.Add(w.length)))
	c.attacks.end()
	return c.recover()
}

// recover heals, and checks that what had to end has ended and what has to work works.
func (c *conductor) recover() error {
	if err := c.net.heal(); err != nil {
		return err
	}
	for _, n := range c.nodes {
		if err := n.resume(); err != nil {
			return err
		}
	}
	for n, since := range c.failing {
		c.failed(n, since)
	}
	clear(c.failing)
	c.judgeRuined()
	began := time.Now()
	if err := c.healAll(); err != nil {
		return err
	}
	for _, n := range c.nodes {
		if n.lost && n.doomed == string(bitRot) {
			if err := c.mend(n); err != nil {
				return err
			}
		}
	}
	if err := c.live(liveWithin); err != nil {
		c.rec.violate("healed nodes do not serve: %v", err)
		return nil
	}
	c.recoveries = append(c.recoveries, time.Since(began))
	for i := range c.kills {
		if c.kills[i].until == 0 {
			c.kills[i].until = c.rec.now()
		}
	}
	for _, n := range c.nodes {
		c.end(n)
		if !n.lost {
			n.doomed = ""
		}
	}
	return nil
}

// healAll heals. A process that has met a full disk may be about to end, and is started again then.
func (c *conductor) healAll() error {
	err := c.heal()
	if err == nil && slices.ContainsFunc(c.nodes[:], func(n *node) bool { return n.doomed == string(diskFull) }) {
		pause(context.Background(), electionTimeout)
		err = c.heal()
	}
	return err
}

// failed checks that a process whose disk has failed ends by itself.
func (c *conductor) failed(n *node, since time.Time) {
	if n.life.killed {
		return // It has lost its power in the meantime.
	}
	if !n.life.wait(failWithin) {
		c.rec.violate("%s lives on %s after its disk has failed", n.id, time.Since(since).Round(time.Millisecond))
		return
	}
	c.failures = append(c.failures, n.life.at.Sub(since))
}

// judgeRuined looks at what a node does with an empty disk. It must refuse, and stays down.
func (c *conductor) judgeRuined() {
	for _, n := range c.nodes {
		if n.doomed != string(emptyDisk) || n.down {
			continue
		}
		if !n.life.wait(refuseWithin) {
			c.rec.violate("%s does not refuse to serve on an empty disk", n.id)
			continue
		}
		n.down = true
		if n.life.killed {
			continue // It had no time to refuse.
		}
		c.end(n)
		said, err := n.words()
		if err != nil {
			c.rec.violate("%s: %v", n.id, err)
		}
		c.refusals = append(c.refusals, fmt.Sprintf("%s refuses after %s: %s", n.id, n.doomed, lastLine(said)))
	}
}

// begin begins a fault and adds the steps with which it goes on.
func (c *conductor) begin(f fault, steps *[]step, alone bool) error {
	later := func(do func() error) { *steps = append(*steps, step{f.end, do}) }
	switch f.kind {
	case partition:
		return c.partition(f, later)
	case powerAll:
		return c.powerAll(f, later)
	case killMany:
		return c.killMany(f, later)
	}
	n, led := c.target(f)
	if n == nil {
		return nil // Everything is in trouble already.
	}
	c.counts[f.kind]++
	switch f.kind {
	case killOne:
		if len(led) > 0 {
			c.kills = append(c.kills, kill{at: c.rec.now(), node: n.id, led: led, alone: alone})
		}
		later(func() error { return c.startAgain(n) })
		return n.kill()
	case stopOne:
		return c.stop(n, later)
	case pauseOne:
		later(n.resume)
		return n.pause()
	case slowLink:
		return c.net.slowDown(n.number)
	case attackOne:
		c.attacks.on(n.number, c.random.Uint64())
	case powerOne:
		later(func() error { return c.powerUp(n) })
		return n.losePower()
	case diskError:
		n.doomed = string(diskError)
		c.failing[n] = time.Now()
		return n.disk.cutPower()
	case diskFull:
		n.doomed = string(diskFull)
		later(func() error { return c.healNodeIfFull(n) })
		return n.disk.fill()
	case bitRot, emptyDisk:
		return c.ruin(n, f.kind)
	}
	return nil
}

// target is the node that a fault hits, and the shards that it leads if it was looked for as a leader.
func (c *conductor) target(f fault) (*node, []placement.ShardID) {
	if f.leader {
		if n, led := c.leads(f.shard); n != nil && n.doomed == "" {
			return n, led
		}
	}
	for _, i := range f.nodes {
		if n := c.nodes[i]; n.running() && n.doomed == "" && !n.disk.off && !n.lost {
			return n, nil
		}
	}
	return nil, nil
}

func (c *conductor) partition(f fault, later func(func() error)) error {
	order := slices.Clone(f.nodes)
	if f.leader {
		if n, _ := c.leads(f.shard); n != nil {
			at := slices.Index(order, n.number)
			order[0], order[at] = order[at], order[0]
		}
	}
	c.counts[f.kind]++
	var err error
	for _, pair := range cuts(f.shape, order) {
		err = errors.Join(err, c.net.cut(pair[0], pair[1]))
	}
	later(c.net.heal)
	return err
}

// powerAll is a loss of power of all nodes, disks first: nothing is synced any more when the first process ends.
func (c *conductor) powerAll(f fault, later func(func() error)) error {
	c.counts[f.kind]++
	var err error
	for _, n := range c.nodes {
		if !n.down {
			err = errors.Join(err, n.cutPower())
		}
	}
	for _, n := range c.nodes {
		if n.down {
			continue
		}
		err = errors.Join(err, n.kill())
		later(func() error { return c.powerUp(n) })
	}
	clear(c.failing)
	return err
}

func (c *conductor) killMany(f fault, later func(func() error)) error {
	c.counts[f.kind]++
	var err error
	for _, i := range f.nodes[:f.count] {
		n := c.nodes[i]
		if n.down || n.doomed != "" {
			continue
		}
		err = errors.Join(err, n.kill())
		later(func() error { return c.startAgain(n) })
	}
	return err
}

// startAgain starts a process that was ended, unless something else has happened to its node.
func (c *conductor) startAgain(n *node) error {
	if n.down || n.disk.off || !n.life.gone() {
		return nil
	}
	c.end(n)
	return n.start()
}

// powerUp starts a node that has lost its power.
func (c *conductor) powerUp(n *node) error {
	if n.down || !n.disk.off || !n.life.gone() {
		return nil
	}
	c.end(n)
	if !n.lost {
		n.doomed = ""
	}
	return errors.Join(n.disk.restart(), n.disk.free(), n.start())
}

// healNodeIfFull frees the disk of a node.
func (c *conductor) healNodeIfFull(n *node) error {
	if n.disk.off || n.down {
		return nil
	}
	return c.healNode(n)
}

// stop stops a node in good order.
func (c *conductor) stop(n *node, later func(func() error)) error {
	later(func() error {
		// It is another life if a fault has ended this one meanwhile and started the node again.
		if n.life.killed || !n.life.stopping || n.down || n.disk.off || n.doomed != "" {
			return nil
		}
		if err := n.resume(); err != nil {
			return err
		}
		if !n.life.wait(stopNodePatience) {
			c.rec.violate("%s does not stop within %s of SIGTERM", n.id, stopNodePatience)
			return n.kill()
		}
		return c.startAgain(n)
	})
	return n.term()
}

// ruin flips a bit on the disk of a node, or puts an empty one in its place, and starts it on that.
func (c *conductor) ruin(n *node, k kind) error {
	if err := n.term(); err != nil {
		return err
	}
	if !n.life.wait(stopNodePatience) {
		c.rec.violate("%s does not stop within %s of SIGTERM", n.id, stopNodePatience)
		return n.kill()
	}
	c.end(n)
	n.lost, n.doomed = true, string(k)
	if k == emptyDisk {
		return errors.Join(n.disk.empty(), n.start())
	}
	done, err := flip(n.dataDir(), c.random)
	if err != nil {
		return err
	}
	fmt.Printf("%7.2f s: flipped bits of %s: %s\n", c.rec.now().Seconds(), n.id, done)
	return n.start()
}
