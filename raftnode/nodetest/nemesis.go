package nodetest

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

// fault is a kind of thing that a nemesis does.
type fault struct {
	name string
	do   func(*nemesis)
}

// faults are all kinds. Each seed takes some of them, so that one kind does not hide what another would show.
var faults = []fault{
	{"crash", func(n *nemesis) { n.pick().crash(n.keep(), n.c.grace()) }},
	{"crash-in-log", func(n *nemesis) { n.trap(InLog, 30, false) }},
	{"crash-in-sync", func(n *nemesis) { n.trap(InLog, 8, true) }},
	{"crash-in-state", func(n *nemesis) { n.trap(InState, 20, false) }},
	{"power-loss", func(n *nemesis) { n.c.PowerLoss(n.keep()) }},
	{"disk-error", (*nemesis).diskError},
	{"disk-full", func(n *nemesis) { n.c.failDisk(n.pick().index, n.c.scheduler.random.IntN(20), false, simfs.ENOSPC) }},
	{"clock-jump", func(n *nemesis) { n.c.jumpClock(n.pick().index, n.c.scheduler.about(5*n.c.options.election())) }},
	{"disk-loss", func(n *nemesis) { n.c.loseDisk(n.pick().index) }},
	{"bit-flip", func(n *nemesis) { n.c.flipBit(n.pick().index) }},
	{"log-loss", func(n *nemesis) { n.c.loseDir(n.pick().index, "log") }},
	{"state-loss", func(n *nemesis) { n.c.loseDir(n.pick().index, "state") }},
	{"stop", func(n *nemesis) { n.pick().stop() }},
	{"pause", (*nemesis).pause},
	{"partition", (*nemesis).partition},
	{"isolate-leader", (*nemesis).isolateLeader},
	{"one-way", (*nemesis).oneWay},
	{"bridge", (*nemesis).bridge},
	{"slow-disk", (*nemesis).slowDisk},
	{"slow-apply", (*nemesis).slowApply},
	{"stall-log", func(n *nemesis) { n.stall((*Cluster).stallLog, LogStalled) }},
	{"stall-state", func(n *nemesis) { n.stall((*Cluster).stallState, StateStalled) }},
	{"nearly-full", (*nemesis).nearlyFull},
	{"noise", (*nemesis).noise},
	{"transfer", (*nemesis).transfer},
}

// lasting are faults that wait for snapshots, of which a run has few: a seed that has them has them from its start.
var lasting = []fault{
	{"crash-in-install", (*nemesis).crashInInstall},
	{"cut-snapshots", func(n *nemesis) { n.c.network.cut = 0.5 }},
	{"stale-snapshots", func(n *nemesis) { n.c.network.stale = 0.5 }},
}

// nemesis does harm to a cluster, again and again, until it is stopped.
type nemesis struct {
	c       *Cluster
	kinds   []fault // again and again
	lasting []fault // once
	pace    time.Duration
	stopped bool
	// done counts the faults by kind.
	done map[string]uint64
	// struck, if set, hears of every fault.
	struck func()
}

// newNemesis draws which kinds of faults a seed has, and how dense they are.
func newNemesis(c *Cluster) *nemesis {
	s := c.scheduler
	n := &nemesis{c: c, done: make(map[string]uint64), pace: s.between(300*time.Millisecond, 3*time.Second)}
	share := 0.2 + 0.6*s.random.Float64()
	draw := func(from []fault) (kinds []fault) {
		for _, f := range from {
			if s.chance(share) {
				kinds = append(kinds, f)
			}
		}
		return kinds
	}
	n.kinds, n.lasting = draw(faults), draw(lasting)
	return n
}

// String names the faults.
func (n *nemesis) String() string {
	var names []string
	for _, f := range append(slices.Clone(n.kinds), n.lasting...) {
		names = append(names, f.name)
	}
	return "pace=" + n.pace.Round(time.Millisecond).String() + " faults=" + strings.Join(names, ",")
}

// start begins. Whatever goes down comes up again some time.
func (n *nemesis) start() {
	n.c.ended = func(p *process) { n.later(p.start) }
	for _, f := range n.lasting {
		n.done[f.name]++
		f.do(n)
	}
	n.strike()
}

func (n *nemesis) strike() {
	if len(n.kinds) == 0 {
		return
	}
	s := n.c.scheduler
	s.after(s.about(n.pace), "nemesis", func() {
		if n.stopped {
			return
		}
		kind := n.kinds[s.random.IntN(len(n.kinds))]
		n.done[kind.name]++
		if n.struck != nil {
			n.struck()
		}
		kind.do(n)
		n.strike()
	})
}

// later undoes a fault after a while.
func (n *nemesis) later(undo func()) {
	s := n.c.scheduler
	s.after(s.between(100*time.Millisecond, 4*n.c.options.election()), "undo", func() {
		if !n.stopped {
			undo()
		}
	})
}

func (n *nemesis) pick() *process {
	return n.c.processes[n.c.scheduler.random.IntN(len(n.c.processes))]
}

func (n *nemesis) keep() simfs.Survival {
	return []simfs.Survival{simfs.KeepSynced, simfs.KeepSome, simfs.KeepOrdered, simfs.KeepAll}[n.c.scheduler.random.IntN(4)]
}

func (n *nemesis) trap(place Place, within int, syncs bool) {
	p := n.pick()
	n.c.Trap(p.index, place, n.c.scheduler.random.IntN(within), syncs, n.keep())
}

// diskError makes an operation on the log fail. Sometimes the power goes before the node starts again, and with it what the system had
// not written.
func (n *nemesis) diskError() {
	p, s := n.pick(), n.c.scheduler
	n.c.failDisk(p.index, s.random.IntN(20), s.chance(0.5), simfs.EIO)
	if s.chance(0.5) {
		s.after(s.about(n.pace), "power cut", func() {
			if !n.stopped {
				p.cutPower(n.keep())
			}
		})
	}
}

func (n *nemesis) pause() {
	p := n.pick()
	p.pause()
	n.later(p.resume)
}

// cut draws when connections find out that packets vanish.
func (n *nemesis) cut() time.Duration {
	if n.c.scheduler.chance(0.4) {
		return 0
	}
	return n.c.scheduler.between(0, 3*n.c.options.election())
}

func (n *nemesis) partition() {
	var a, b []int
	for i := range n.c.processes {
		if n.c.scheduler.chance(0.5) {
			a = append(a, i)
		} else {
			b = append(b, i)
		}
	}
	n.c.Partition(n.cut(), a, b)
	n.later(n.c.Heal)
}

func (n *nemesis) isolateLeader() {
	leader := n.c.Leader(placement.ShardID(1 + n.c.scheduler.random.IntN(n.c.options.Shards)))
	if leader < 0 {
		return
	}
	n.c.Partition(n.cut(), n.others(leader))
	n.later(n.c.Heal)
}

func (n *nemesis) others(i int) []int {
	var out []int
	for _, p := range n.c.processes {
		if p.index != i {
			out = append(out, p.index)
		}
	}
	return out
}

func (n *nemesis) oneWay() {
	s := n.c.scheduler
	from := n.pick().index
	to := n.others(from)
	if len(to) > 0 && s.chance(0.5) {
		to = to[:1+s.random.IntN(len(to))]
	}
	n.c.Mute(from, to, s.chance(0.5), n.cut())
	n.later(n.c.Heal)
}

// bridge leaves one process that both sides see.
func (n *nemesis) bridge() {
	middle := n.pick().index
	cut := n.cut()
	for _, a := range n.others(middle) {
		for _, b := range n.others(middle) {
			if a%2 != b%2 {
				n.c.Mute(a, []int{b}, true, cut)
			}
		}
	}
	n.later(n.c.Heal)
}

func (n *nemesis) slowDisk() {
	p := n.pick()
	p.diskDelay = n.c.scheduler.between(5*time.Millisecond, n.c.options.election()/2)
	n.later(func() { p.diskDelay = diskDelay })
}

func (n *nemesis) slowApply() {
	p := n.pick()
	p.applyDelay = n.c.scheduler.between(5*time.Millisecond, n.c.options.election())
	n.later(func() { p.applyDelay = applyDelay })
}

// stall lets the disk of a node, of a leader mostly, hang for several election timeouts.
func (n *nemesis) stall(how func(*Cluster, int, bool), seen Event) {
	s, election := n.c.scheduler, n.c.options.election()
	i := n.pick().index
	if leader := n.c.Leader(placement.ShardID(1 + s.random.IntN(n.c.options.Shards))); leader >= 0 && s.chance(0.7) {
		i = leader
	}
	n.c.seen(seen)
	how(n.c, i, true)
	s.after(s.between(3*election, 8*election), "undo", func() {
		if !n.stopped {
			how(n.c, i, false)
		}
	})
}

// nearlyFull lets others take the free space of a disk but for a part of what the node keeps for deletes and reads. It stays so for a while, through the
// lives of the node.
func (n *nemesis) nearlyFull() {
	p, s := n.pick(), n.c.scheduler
	n.c.squeeze(p, int64(s.between(diskReserve/2, diskReserve)))
	s.after(s.between(n.c.options.election(), 8*n.c.options.election()), "undo", func() {
		if !n.stopped {
			n.c.squeeze(p, 0)
		}
	})
}

func (n *nemesis) noise() {
	s := n.c.scheduler
	n.c.SetNoise(Noise{
		Drop: 0.2 * s.random.Float64() * s.random.Float64(), Duplicate: 0.1 * s.random.Float64(), Reorder: 0.2 * s.random.Float64(),
		Delay: s.between(100*time.Microsecond, n.c.options.Heartbeat/2),
	})
	n.later(func() { n.c.SetNoise(Calm) })
}

// crashInInstall lets nodes crash while they take in snapshots, from now on.
func (n *nemesis) crashInInstall() {
	s := n.c.scheduler
	n.c.snapshotArrives = func(p *process) {
		if n.stopped || s.chance(0.4) {
			return
		}
		place, within := InLog, 8
		if s.chance(0.5) {
			place, within = InState, 50
		}
		n.c.trap(p.index, CrashInInstall, place, s.random.IntN(within), false, n.keep())
	}
}

// transfer asks a node to hand a lead over. The node waits on a goroutine, whose steps are between events.
func (n *nemesis) transfer() {
	p, to := n.pick(), n.pick()
	shard := placement.ShardID(n.c.scheduler.random.IntN(n.c.options.Shards + 1))
	if p.serving() {
		node := p.life.node
		go func() { _, _ = node.TransferLeader(context.Background(), shard, to.id) }()
	}
}
