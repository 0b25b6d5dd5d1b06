package nodetest

import (
	"fmt"
	"time"

	"github.com/raftkv/raftkv/raftnode/simfs"
)

// Partition lets packets pass only within the groups of processes; one that is in no group is alone. cut says when connections across
// notice: 0 at once, as if they were reset.
func (c *Cluster) Partition(cut time.Duration, groups ...[]int) {
	group := make([]int, len(c.processes))
	for i := range group {
		group[i] = -1 - i
	}
	for g, members := range groups {
		for _, i := range members {
			group[i] = g
		}
	}
	c.log("partition", "groups", groups)
	for _, a := range c.processes {
		for _, b := range c.processes {
			if group[a.index] != group[b.index] {
				c.network.block(a, b)
				c.network.breakLink(c.network.link(a, b), cut, errNoAnswer)
			}
		}
	}
}

// Mute lets no packet of one process reach others, or one other; its own ears work. With broken, the connections in both directions find
// out after cut, as TCP would; without, what comes the other way still arrives.
func (c *Cluster) Mute(from int, to []int, broken bool, cut time.Duration) {
	c.log("mute", "from", c.processes[from].id, "to", to, "broken", broken)
	a := c.processes[from]
	for _, i := range to {
		b := c.processes[i]
		c.network.block(a, b)
		c.network.breakLink(c.network.link(a, b), cut, errNoAnswer)
		if broken {
			c.network.breakLink(c.network.link(b, a), cut, errNoAnswer)
		}
	}
}

// Heal lets all packets pass again.
func (c *Cluster) Heal() {
	c.log("heal")
	c.network.heal()
}

// SetNoise sets what the network does to messages.
func (c *Cluster) SetNoise(n Noise) { c.network.noise = n }

// Crash cuts the power of a node. keep says how much of what was not synced survives.
func (c *Cluster) Crash(i int, keep simfs.Survival) { c.processes[i].crash(keep, c.grace()) }

// PowerLoss cuts the power of all nodes at once.
func (c *Cluster) PowerLoss(keep simfs.Survival) {
	c.seen(PowerLoss)
	for _, p := range c.processes {
		p.crash(keep, 0)
	}
}

// Start starts a node that is down.
func (c *Cluster) Start(i int) { c.processes[i].start() }

// Stop closes a node in good order, without time to hand its leads over.
func (c *Cluster) Stop(i int) { c.processes[i].halt() }

// leave lets a node hand its leads over and closes it in good order.
func (c *Cluster) leave(i int) {
	p := c.processes[i]
	p.stop()
	c.await(3*c.options.election(), func() bool { return p.life == nil }, func() string {
		return fmt.Sprintf("%s was stopped and is still there", p.id)
	})
}

// stallLog lets nothing come back any more from the disk of the log of a node, or again.
func (c *Cluster) stallLog(i int, stalls bool) {
	c.log("stall of the log", "node", c.processes[i].id, "stalls", stalls)
	c.processes[i].logStalls = stalls
}

// stallState lets nothing come back any more from the disk of the state of a node, or again.
func (c *Cluster) stallState(i int, stalls bool) {
	c.log("stall of the state", "node", c.processes[i].id, "stalls", stalls)
	c.processes[i].stateStalls = stalls
}

// squeeze lets others fill the disk of a node, down to so many free bytes; 0 frees it.
func (c *Cluster) squeeze(p *process, left int64) {
	c.log("squeeze", "node", p.id, "left", left)
	p.disk.SetQuota(0)
	if u, err := p.disk.GetDiskUsage("/"); err == nil && left > 0 {
		p.disk.SetQuota(int64(u.UsedBytes) + left) //nolint:gosec // no simulated disk is that large
	}
}

// Pause stops the time of a node, Resume lets it go on.
func (c *Cluster) Pause(i int) { c.processes[i].pause() }

// Resume lets a node go on.
func (c *Cluster) Resume(i int) { c.processes[i].resume() }

// Trap lets a node crash at a moment in the life of its disk: at the count-th changing operation of a place (or sync of it) from now.
func (c *Cluster) Trap(i int, place Place, count int, syncs bool, keep simfs.Survival) {
	c.trap(i, Crash, place, count, syncs, keep)
}

func (c *Cluster) trap(i int, name Event, place Place, count int, syncs bool, keep simfs.Survival) {
	if l := c.processes[i].life; l != nil {
		l.trap.set(name, place, count, syncs, simfs.NoFault, simfs.CrashOptions{Seed: c.scheduler.random.Uint64(), Keep: keep})
	}
}

// failDisk lets an operation on the log of a node fail with EIO, or for want of space with ENOSPC, after which its node must stop. There is
// space again for the next life.
func (c *Cluster) failDisk(i, count int, syncs bool, how simfs.Fault) {
	name := DiskError
	if how == simfs.ENOSPC {
		name = DiskFull
	}
	if l := c.processes[i].life; l != nil {
		l.trap.set(name, InLog, count, syncs, how, simfs.CrashOptions{})
	}
}

// jumpClock sets the clock of a node forward, as when a machine was suspended. It never goes back: nodes use the monotonic one.
func (c *Cluster) jumpClock(i int, d time.Duration) {
	c.log("clock jump", "node", c.processes[i].id, "by", d)
	c.processes[i].jumped += d
	c.jumps = append(c.jumps, c.scheduler.now)
}

// Up says whether a node has a life.
func (c *Cluster) Up(i int) bool { return c.processes[i].life != nil }

// restore ends all faults of the network and of some nodes: packets pass, disks are fast, the nodes run.
func (c *Cluster) restore(ps []*process) {
	c.Heal()
	c.SetNoise(Calm)
	c.network.cut, c.network.stale = 0, 0
	for _, p := range ps {
		p.diskDelay, p.applyDelay = diskDelay, applyDelay
		p.logStalls, p.stateStalls = false, false
		p.disk.SetQuota(0)
		p.resume()
		if p.life != nil {
			p.life.trap.disarm()
		}
		p.start()
	}
}
