package nodetest

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing/synctest"
	"time"

	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"
	"github.com/raftkv/raftkv/raftnode/state"
)

const dataDir = "/data/node"

// process is one machine: a disk, and now and then a node that runs on it.
type process struct {
	c       *Cluster
	index   int
	id      placement.NodeID
	address string
	disk    *simfs.FS
	// life is nil while the node is down.
	life  *life
	lives uint64
	// served: it has served once, so it knows that the cluster is formed.
	served bool
	// paused: time stands still for the process; what happens to it meanwhile is held.
	paused bool
	held   []*event
	// diskDelay is the mean time of an append with its fsync, applyDelay that of a batch of the state machine.
	diskDelay, applyDelay time.Duration
	// logStalls, stateStalls: nothing comes back from the disk of the log, or of the state.
	logStalls, stateStalls bool
	// rate is how fast its clock runs.
	rate float64
	// ruin is what has become of its disk; out: it has refused, and stays down.
	ruin ruin
	out  bool
	// jumped is how far its clock was set forward.
	jumped time.Duration
}

const (
	diskDelay  = 500 * time.Microsecond
	applyDelay = 100 * time.Microsecond
)

// life is a process from its start to its end.
type life struct {
	process   *process
	number    uint64
	node      *raftnode.Node
	runtime   *runtime
	transport *transport
	trap      trap
	tasks     []*task
	// dead: nothing that the node still does has any effect.
	dead   atomic.Bool
	ctx    context.Context
	cancel context.CancelFunc
	// ends are called when the life ends.
	ends []func()
	// doomed: its disk has failed, and somebody waits for it to stop.
	doomed bool
	// leaving: the node hands its leads over, and stops then. stopping: it answers what waits with good reasons while it closes.
	leaving, stopping bool
	begun             time.Duration
}

// start opens the node on its disk.
func (p *process) start() {
	if p.life != nil || p.out {
		return
	}
	c := p.c
	p.lives++
	l := &life{process: p, number: p.lives, begun: c.scheduler.now}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.runtime = &runtime{c: c, l: l}
	p.life = l
	l.trap.disk = p.disk
	p.disk.SetFaults(l.trap.decide)
	o := c.options.node(c, p)
	o.Runtime = l.runtime
	o.NewTransport = func(t raftnode.TransportOptions) (raftnode.Transport, error) {
		l.transport = &transport{c: c, l: l, options: t}
		return l.transport, nil
	}
	c.scheduler.add(0, &event{name: "start", process: p, boot: l.number, run: func() {
		node, err := raftnode.Open(o)
		if err != nil {
			switch {
			case l.trap.sprung():
			case p.refuses(err):
				p.refuse(err)
			default:
				c.violate("%s cannot be opened: %v", p.id, err)
			}
			return
		}
		l.node = node
		c.network.processStarted(p)
	}})
}

// end ends the life of the node. Nothing that it does while it is closed has any effect but on its disk, which the caller replaces if the
// node is to have crashed.
func (p *process) end(grace time.Duration) {
	l := p.life
	if l == nil {
		return
	}
	if !l.stopping {
		l.dead.Store(true)
	}
	p.life = nil
	p.resume()
	p.c.network.processDied(p, grace)
	l.cancel()
	p.c.scheduler.killTasks(l)
	p.disk.SetFaults(nil)
	if l.node != nil {
		l.node.Leave(func() {}) // A node that has not left yet has no time for that.
		// The error is that of a node that failed, which is known already.
		_ = l.node.Close()
	}
	l.dead.Store(true)
	// Pebble cannot be closed behind an error of its disk (state ends its goroutine), and holds what it holds until the process ends.
	if l.node == nil || !errors.Is(l.node.Err(), state.ErrFatal) {
		p.c.closed = append(p.c.closed, closedDisk{p.id, p.disk})
	}
	for _, f := range l.ends {
		f()
	}
	if l.node != nil {
		counts := l.node.Metrics()
		p.c.events[SnapshotInstalled] += counts.SnapshotsInstalled
		p.c.events[Rebuilt] += counts.Rebuilds
		p.c.events[StatesCompared] += counts.DigestsCompared
		p.c.events[LeadYielded] += counts.Yields
	}
	if p.c.ended != nil {
		p.c.ended(p)
	}
}

// closedDisk is a disk whose node has been closed.
type closedDisk struct {
	node placement.NodeID
	disk *simfs.FS
}

// checkClosed says whether nodes that were closed have left files open, once all goroutines are at rest.
func (c *Cluster) checkClosed() {
	if len(c.closed) == 0 {
		return
	}
	synctest.Wait()
	for _, d := range c.closed {
		if open := d.disk.OpenFiles(); len(open) > 0 {
			c.violate("%s is closed and leaves files open: %v", d.node, open)
		}
	}
	c.closed = nil
}

// crash cuts the power of one machine. grace is how long its peers wait for it in vain; without, they see its connections break.
func (p *process) crash(keep simfs.Survival, grace time.Duration) {
	if p.life == nil {
		return
	}
	seed := p.c.scheduler.random.Uint64()
	after := p.life.trap.image
	if after == nil {
		after = p.disk.Image(simfs.CrashOptions{Seed: seed, Keep: keep})
	}
	p.c.seen(Crash)
	p.c.log("crash", "node", p.id, "keep", keep)
	p.end(grace)
	p.disk = after
	p.c.promises.check(p)
}

// stop lets the node hand its leads over, and then closes it in good order.
func (p *process) stop() {
	l := p.life
	if l == nil || l.leaving {
		return
	}
	if !p.serving() {
		p.halt()
		return
	}
	p.c.log("leave", "node", p.id)
	l.leaving = true
	l.node.Leave(func() {
		p.c.scheduler.add(0, &event{name: "left", process: p, boot: l.number, run: func() {
			if l.node.Err() == nil {
				p.halt()
			}
		}})
	})
}

// halt closes the node in good order, without time to hand its leads over.
func (p *process) halt() {
	if p.life == nil {
		return
	}
	p.c.log("stop", "node", p.id)
	p.life.stopping = true
	p.end(0)
}

// stalls says whether a stage waits for a disk from which nothing comes back.
func (p *process) stalls(stage string) bool {
	switch stage {
	case "log writer":
		return p.logStalls
	case "applier", "housekeeper":
		return p.stateStalls
	default:
		return false
	}
}

// pause stops the time of the process.
func (p *process) pause() {
	if p.life != nil {
		p.paused = true
		p.c.log("pause", "node", p.id)
	}
}

// resume lets it go on: all that was held happens now, in order.
func (p *process) resume() {
	if !p.paused {
		return
	}
	p.paused = false
	held := p.held
	p.held = nil
	p.c.log("resume", "node", p.id)
	for _, e := range held {
		p.c.scheduler.add(0, e)
	}
}

// serving says whether the node has formed or recovered.
func (p *process) serving() bool {
	if p.life == nil || p.life.node == nil {
		return false
	}
	return len(p.life.node.Nodes()) > 0
}

func (p *process) logger() *slog.Logger {
	if p.c.options.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(&clockHandler{Handler: p.c.options.Log, c: p.c})
}

// cutPower is crash for a machine whose process may have gone already: what the system held in memory goes.
func (p *process) cutPower(keep simfs.Survival) {
	if p.life != nil {
		p.crash(keep, p.c.grace())
		return
	}
	p.disk = p.disk.Image(simfs.CrashOptions{Seed: p.c.scheduler.random.Uint64(), Keep: keep})
	p.c.promises.check(p)
}
