package nodetest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

// Cluster is the nodes of a simulation and all that can happen to them. It is used by one goroutine, within a synctest bubble.
type Cluster struct {
	options   Options
	scheduler *scheduler
	processes []*process
	members   []raftnode.Member
	network   *network
	wire      *wire
	promises  *promises
	// violations are what must never be. The first one ends a run.
	violations []string
	events     [eventCount]uint64
	// jumps are when a clock was set forward.
	jumps []time.Duration
	// asides are calls that block, on goroutines of their own.
	asides []*aside
	// closed are the disks of nodes that were closed in the event under way.
	closed []closedDisk
	// ended, if set, hears of every process that has gone down.
	ended func(*process)
	// snapshotArrives, if set, is called before a process takes in a snapshot.
	snapshotArrives func(*process)
}

// Event is something that should happen in some runs, or they prove little.
type Event int

// The events that are counted.
const (
	LeaderChange Event = iota
	Crash
	CrashInLogSync
	CrashInState
	CrashInInstall
	PowerLoss
	DiskError
	DiskFull
	DiskLost
	BitFlipped
	DirLost
	Rebuilt
	StatesCompared
	Refused
	RestartReplay
	InstallFinished
	SnapshotSent
	SnapshotInstalled
	SnapshotCut
	SnapshotLate
	SnapshotDoubled
	Truncation
	UnknownOutcome
	Retried
	ForwardedWrite
	PageRead
	PageGoesOn
	MajorityHealed
	LogStalled
	StateStalled
	LeadYielded
	GrowthRefused
	StaleServed
	TooStale
	WatchEvent
	WatchProgress
	WatchResumed
	WatchCaughtUp
	WatchSplit
	WatchCompacted
	WatchCutOff
	WatchOfRange
	WatchWithoutPuts
	WatchWithoutDeletes
	WatchFromPast
	KeyExpired
	LeaseEnded
	LeaseEndedElsewhere
	OutcomeFound
	WriteFenced
	LateWriteRefused
	AnswerReplayed
	KeyReuseRefused
	eventCount
)

var eventNames = [...]string{
	LeaderChange: "leader change", Crash: "crash", CrashInLogSync: "crash during fsync of the log", CrashInState: "crash during a write of the state",
	CrashInInstall: "crash during the install of a snapshot", PowerLoss: "power loss of all", DiskError: "disk error", DiskFull: "disk full", DiskLost: "disk lost", BitFlipped: "bit flipped in a log file", Refused: "node that refuses its disk",
	DirLost: "log or state lost", Rebuilt: "replica rebuilt", StatesCompared: "states compared by replicas",
	RestartReplay: "restart replaying the log", InstallFinished: "restart finishing an install", SnapshotSent: "snapshot sent",
	SnapshotInstalled: "snapshot installed", SnapshotCut: "snapshot cut off",
	SnapshotLate: "snapshot late", SnapshotDoubled: "snapshot sent twice", Truncation: "log truncated",
	UnknownOutcome: "unknown outcome", Retried: "unknown outcome found by a retry", ForwardedWrite: "write through a follower",
	PageRead: "page read", PageGoesOn: "page with more behind it",
	MajorityHealed: "majority healed alone", LogStalled: "stall of the log of a node", StateStalled: "stall of the state of a node",
	LeadYielded: "lead given up for a stalled disk", GrowthRefused: "write refused for a full disk",
	StaleServed: "stale read served without a round", TooStale: "stale read refused",
	WatchEvent: "watch told of a change", WatchProgress: "watch told of progress", WatchResumed: "watch resumed by token",
	WatchCaughtUp: "watch caught up from history", WatchSplit: "revision split between answers to a watch", WatchCompacted: "watch of a compacted history",
	WatchCutOff: "watch ended by a node that is cut off", WatchOfRange: "watch of a range told of a change",
	WatchWithoutPuts: "watch without puts told of a delete", WatchWithoutDeletes: "watch without deletes told of a put",
	WatchFromPast: "watch begun with a revision of the past",
	KeyExpired:    "key expired", LeaseEnded: "lease ended", LeaseEndedElsewhere: "lease ended in another shard than its key's",
	OutcomeFound: "unknown outcome found by asking", WriteFenced: "write fenced", LateWriteRefused: "late attempt of a fenced write refused",
	AnswerReplayed: "answer replayed under an idempotency key", KeyReuseRefused: "another write under an idempotency key refused",
}

// String names the event.
func (e Event) String() string { return eventNames[e] }

// New makes a cluster of nodes with empty disks, and starts them.
func New(o Options) *Cluster {
	o.setDefaults()
	c := &Cluster{options: o, scheduler: newScheduler(o.Seed)}
	c.scheduler.settled = c.settled
	for i := range o.Nodes {
		p := &process{
			c: c, index: i, id: placement.NodeID(fmt.Sprintf("n%d", i+1)), address: fmt.Sprintf("10.0.0.%d:7101", i+1),
			disk:      simfs.New(simfs.Options{Seed: c.scheduler.random.Uint64()}),
			diskDelay: diskDelay, applyDelay: applyDelay, rate: 1,
		}
		if o.Skew {
			p.rate = 0.95 + 0.1*c.scheduler.random.Float64()
		}
		c.processes = append(c.processes, p)
		c.members = append(c.members, raftnode.Member{ID: p.id, PeerAddress: p.address, ClientAddress: fmt.Sprintf("10.0.0.%d:7001", i+1)})
	}
	c.network = newNetwork(c)
	c.wire = newWire(c)
	c.promises = newPromises(c)
	for _, p := range c.processes {
		c.scheduler.after(c.scheduler.between(0, 300*time.Millisecond), "power on", p.start)
	}
	return c
}

// Close ends all nodes. The bubble can end then.
func (c *Cluster) Close() {
	for _, p := range c.processes {
		p.end(0)
	}
}

// settled looks at what an event has led to.
func (c *Cluster) settled() {
	for _, p := range c.processes {
		if p.life != nil {
			p.life.runtime.collect()
		}
	}
	c.finishAsides()
	c.network.flush()
	for _, p := range c.processes {
		if p.life != nil {
			c.examine(p)
		}
	}
	c.checkClosed()
}

// examine ends the life of a process whose trap has sprung or whose node has failed.
func (c *Cluster) examine(p *process) {
	l := p.life
	p.served = p.served || p.serving()
	if p.ruin == damaged && p.rebuilt() && l.node.Metrics().Rebuilds > 0 {
		p.heal()
	}
	switch {
	case l.trap.sprung():
		c.sprung(l)
		p.crash(0, c.grace())
	case l.trap.faulty() && l.node != nil && l.node.Err() == nil:
		c.doom(l)
	case l.node == nil || l.node.Err() == nil:
	case l.trap.faulty():
		// R6: the process exits. What the system still holds in memory it still shows to the next one.
		c.seen(l.trap.name)
		c.log("disk error", "node", p.id, "during", l.trap.during.Kind, "path", l.trap.during.Path)
		p.end(0)
		if k := l.trap.during.Kind; k != simfs.OpSync && k != simfs.OpWrite {
			// A file system that could not write names shuts down, and shows what the disk holds when it is mounted again.
			p.disk = p.disk.Image(simfs.CrashOptions{Seed: c.scheduler.random.Uint64(), Keep: simfs.KeepOrdered})
			c.promises.check(p)
		}
	case p.refuses(l.node.Err()):
		p.refuse(l.node.Err())
	case p.ruin == damaged && errors.Is(l.node.Err(), raftnode.ErrDamaged):
		c.log("stops on damage", "node", p.id, "err", l.node.Err())
		p.end(0)
	default:
		c.violate("%s has failed: %v", p.id, l.node.Err())
		p.end(0)
	}
}

// errorGrace is how long a node may live on after an error of its disk, in steps during which it is not paused.
const (
	errorGrace = 20
	errorStep  = 100 * time.Millisecond
)

// doom watches a node whose disk has failed: it must stop (R6).
func (c *Cluster) doom(l *life) {
	if l.doomed {
		return
	}
	l.doomed = true
	steps := 0
	var step func()
	step = func() {
		if steps++; steps > errorGrace {
			c.violate("%s lives on after %s of %s has failed (R6)", l.process.id, l.trap.during.Kind, l.trap.during.Path)
			return
		}
		l.runtime.add(errorStep, "after a disk error", step)
	}
	step()
}

func (c *Cluster) sprung(l *life) {
	op := l.trap.during
	c.log("power cut", "node", l.process.id, "during", op.Kind, "path", op.Path)
	switch {
	case l.trap.name == CrashInInstall:
		c.seen(CrashInInstall)
	case placeOf(op.Path) == InState:
		c.seen(CrashInState)
	case op.Kind == simfs.OpSync:
		c.seen(CrashInLogSync)
	}
}

// grace draws how long the peers of a dead machine wait for it.
func (c *Cluster) grace() time.Duration {
	if c.scheduler.chance(0.5) {
		return 0
	}
	return c.scheduler.between(0, 3*time.Second)
}

// violate notes what must never be.
func (c *Cluster) violate(format string, args ...any) {
	v := fmt.Sprintf("at %s: ", c.scheduler.now) + fmt.Sprintf(format, args...)
	c.violations = append(c.violations, v)
	c.log("VIOLATION", "what", v)
}

// Violations returns what must never be and was.
func (c *Cluster) Violations() []string { return c.violations }

func (c *Cluster) seen(e Event) { c.events[e]++ }

// Run lets time pass. It ends early with a violation.
func (c *Cluster) Run(d time.Duration) { c.RunUntil(d, func() bool { return false }) }

// RunUntil lets time pass until something is so, and says whether it came to be.
func (c *Cluster) RunUntil(d time.Duration, so func() bool) bool {
	until := c.scheduler.now + d
	for len(c.violations) == 0 {
		if so() {
			return true
		}
		if !c.scheduler.step(until) {
			return so()
		}
	}
	return false
}

// await lets time pass until something is so. That it does not come to be is a violation, unless there is one already, which ends the time.
func (c *Cluster) await(d time.Duration, so func() bool, otherwise func() string) bool {
	if c.RunUntil(d, so) {
		return true
	}
	if len(c.violations) == 0 {
		c.violate("%s", otherwise())
	}
	return false
}

// Formed waits until all nodes serve.
func (c *Cluster) Formed(d time.Duration) bool {
	return c.RunUntil(d, func() bool {
		for _, p := range c.processes {
			if !p.serving() {
				return false
			}
		}
		return true
	})
}

// Now is the virtual time since the simulation began.
func (c *Cluster) Now() time.Duration { return c.scheduler.now }

// Trace is a hash over everything that has happened so far.
func (c *Cluster) Trace() uint64 { return c.scheduler.trace.hash.Sum64() }

func (c *Cluster) process(id placement.NodeID) *process {
	for _, p := range c.processes {
		if p.id == id {
			return p
		}
	}
	return nil
}

// log tells the log what happens to the cluster.
func (c *Cluster) log(message string, args ...any) {
	if c.options.Log != nil {
		slog.New(&clockHandler{Handler: c.options.Log, c: c}).Info("--- "+message, args...)
	}
}

// clockHandler shows virtual times.
type clockHandler struct {
	slog.Handler
	c *Cluster
}

func (h *clockHandler) Handle(ctx context.Context, r slog.Record) error {
	r.Time = epoch.Add(h.c.scheduler.now)
	return h.Handler.Handle(ctx, r)
}

func (h *clockHandler) WithAttrs(as []slog.Attr) slog.Handler {
	return &clockHandler{Handler: h.Handler.WithAttrs(as), c: h.c}
}

func (h *clockHandler) WithGroup(name string) slog.Handler {
	return &clockHandler{Handler: h.Handler.WithGroup(name), c: h.c}
}

// Leader returns the process that the nodes take for the leader of a data shard, as the first of them with an opinion and that leader alive
// see it; -1 if there is none.
func (c *Cluster) Leader(shard placement.ShardID) int {
	for _, p := range c.processes {
		if !p.serving() {
			continue
		}
		for _, s := range p.life.node.Nodes() {
			for _, leads := range s.Leads {
				if leads == shard && c.process(s.ID).life != nil && s.ID == p.id {
					return p.index
				}
			}
		}
	}
	return -1
}
