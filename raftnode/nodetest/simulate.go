package nodetest

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
)

// Report is what a run came to.
type Report struct {
	// Line are the options that the seed drew.
	Line string
	// History is what clients saw, Final what every node showed at the end.
	History *History
	// Lifetimes are what clients saw of keys that do not live for ever.
	Lifetimes *Lifetimes
	Final     []*Operation
	// Watches are what watchers were told.
	Watches []*Watch
	// Disks are those of the nodes after they were closed in good order.
	Disks map[placement.NodeID]*simfs.FS
	// Events counts what should happen in some runs, Faults what was done, by kind.
	Events map[Event]uint64
	Faults map[string]uint64
	// Recoveries are the times from a fault to the first write that a shard acknowledged after it.
	Recoveries []time.Duration
	// Steps is how many events the simulator ran, Trace a hash over them.
	Steps, Trace uint64
	// Time is the virtual time that has passed.
	Time time.Duration
	// Violations are what must never be.
	Violations []string
}

// Simulate runs one seed, within a synctest bubble: clients under faults, then healing, then draining. Check is for afterwards. Of the options
// it takes those that a seed does not draw. trace, if not nil, gets every event.
func Simulate(o Options, trace io.Writer) *Report {
	r := newRun(o)
	r.c.scheduler.trace.print = trace
	defer r.c.Close()
	r.faults()
	if r.live() && r.drain() && r.mortals.passed() && r.windowsPassed() {
		r.final()
	}
	return r.report()
}

// run is one seed under way.
type run struct {
	c       *Cluster
	clients *clients
	mortals *mortals
	nemesis *nemesis
	// watchers watch what the clients do.
	watchers []*watcher
	shown    []*Operation
	disks    map[placement.NodeID]*simfs.FS
}

// newRun draws the shape of a cluster, of its load and of its faults from a seed.
func newRun(o Options) *run {
	draw := newScheduler(o.Seed ^ 0x5eed)
	pick := func(from ...int) int { return from[draw.random.IntN(len(from))] }
	o.Nodes, o.Shards, o.Heartbeat = pick(1, 2, 3, 3, 3, 3, 4, 5), pick(1, 1, 2, 3), time.Duration(pick(20, 50, 100))*time.Millisecond
	o.SnapshotEntries, o.MaxLogEntries = uint64(pick(20, 35, 50)), uint64(pick(10, 25, 50))
	o.SegmentBytes, o.HistoryBytes, o.Skew = int64(pick(16, 32, 64))<<10, uint64(pick(4, 64))<<10, draw.chance(0.3)
	o.Replicas = min(pick(3, o.Nodes), o.Nodes)
	if draw.chance(0.3) {
		o.MaxLogBytes = 4 * uint64(o.SegmentBytes)
	}
	r := &run{c: New(o)}
	r.nemesis = newNemesis(r.c)
	r.clients = newClients(r.c, Load{
		Clients: pick(4, 8), Groups: pick(6, 10), Think: time.Duration(pick(20, 60, 200)) * time.Millisecond, Reads: 0.2 + 0.4*draw.random.Float64(),
		Pages: pick(0, 1, 1), ValueBytes: pick(8, 8, 400, 1500, 3000), Timeout: 10 * o.Heartbeat * time.Duration(pick(1, 3)),
	})
	r.watchers = newWatchers(r.clients, pick(2, 3, 4))
	r.mortals = newMortals(r.c, pick(0, 1, 2, 2), 10*o.Heartbeat)
	return r
}

// faultTime is how long faults last, runOperations how many operations end that early: more would be long to check.
const (
	faultTime     = 30 * time.Second
	runOperations = 1500
)

func (r *run) faults() {
	r.nemesis.struck = func() { r.clients.recovery.fault(r.c.scheduler.now, r.c.options.Shards) }
	r.nemesis.start()
	r.c.RunUntil(faultTime, func() bool { return len(r.clients.history.Operations) >= runOperations })
}

// drain waits until clients have their answers.
func (r *run) drain() bool {
	r.clients.stopped, r.mortals.stopped = true, true
	return r.c.await(r.clients.load.Timeout+10*time.Second, func() bool { return r.clients.busy+r.mortals.busy == 0 }, func() string {
		return fmt.Sprintf("%d operations are never answered", r.clients.busy+r.mortals.busy)
	})
}

// final reads everything through every node, waits until all replicas have applied the same, and closes the nodes in good order.
func (r *run) final() {
	waiting := 0
	for g := range r.clients.load.Groups {
		for _, p := range r.c.owing() {
			waiting++
			r.read(p, g, func() { waiting-- })
		}
	}
	if !r.c.await(livenessElections*r.c.options.election(), func() bool { return waiting == 0 }, func() string {
		return fmt.Sprintf("%d reads are not answered by a healthy cluster", waiting)
	}) {
		return
	}
	if !r.rebuilt() || !r.watched() {
		return
	}
	r.c.Run(livenessElections * r.c.options.election())
	r.c.ended = nil
	r.disks = make(map[placement.NodeID]*simfs.FS)
	for _, p := range r.c.processes {
		p.halt() // Leads that change hands would leave the replicas at different indexes.
		if p.ruin != emptied {
			r.disks[p.id] = p.disk
		}
	}
	r.c.checkClosed()
}

// watched waits until all watchers were told everything.
func (r *run) watched() bool {
	to := make(map[placement.ShardID]uint64)
	for _, op := range r.shown {
		to[op.Shard] = max(to[op.Shard], op.Origin)
	}
	behind := func() string {
		for _, w := range r.watchers {
			if !w.complete(to) {
				return w.Name
			}
		}
		return ""
	}
	told := r.c.await(watchTime, func() bool { return behind() == "" }, func() string {
		return fmt.Sprintf("%s is not told everything within %s of healing", behind(), watchTime)
	})
	for _, w := range r.watchers {
		w.stop()
	}
	return told
}

// watchTime is how long watchers may take in the end: some sleep for seconds, and a mark of progress comes every second.
const watchTime = 20 * time.Second

func (r *run) read(p *process, group int, done func()) {
	s := r.c.scheduler
	op := &Operation{Client: 1000 + p.index, Group: group, Kind: Read, Call: s.now, Outcome: Done}
	s.add(s.between(0, time.Millisecond), &event{name: "final read", process: p, run: func() {
		read := &peerv1.ReadRequest{}
		for k := range GroupKeys {
			read.Keys = append(read.Keys, key(group, k))
		}
		p.life.node.Submit(&raftnode.Request{AutoShard: true, Read: read, Done: func(res raftnode.Result) {
			s.after(time.Millisecond, "final answer", func() {
				if res.Err != nil {
					r.c.violate("%s cannot read in the end: %v", p.id, res.Err)
					return
				}
				op.Return, op.Shard, op.Origin = s.now, res.Shard, res.Origin.GetRevision()
				for _, rec := range res.Read.GetRecords() {
					op.Cells = append(op.Cells, cellOf(rec))
				}
				r.shown = append(r.shown, op)
				done()
			})
		}})
	}})
}

func (r *run) report() *Report {
	out := &Report{
		Line: r.c.options.String() + " " + r.nemesis.String(), History: r.clients.history, Final: r.shown, Disks: r.disks,
		Events: make(map[Event]uint64), Steps: r.c.scheduler.trace.events, Trace: r.c.Trace(), Time: r.c.Now(), Violations: r.c.violations,
		Faults: r.nemesis.done, Recoveries: r.clients.recovery.took,
	}
	for _, w := range r.watchers {
		out.Watches = append(out.Watches, &w.Watch)
	}
	out.Lifetimes = r.mortals.life
	out.Lifetimes.Jumps = r.c.jumps
	for e, n := range r.c.events {
		out.Events[Event(e)] = n
	}
	return out
}

// checkTimeout is what one group of keys may take to check.
const checkTimeout = 20 * time.Second

// Check runs all checkers over what a run left. It needs real time, so it runs outside of the bubble.
func (r *Report) Check() error {
	var errs []error
	for _, v := range r.Violations {
		errs = append(errs, errors.New(v))
	}
	all := &History{Operations: slices.Concat(r.History.Operations, r.Final), Stale: r.History.Stale, Elsewhere: Elsewhere(r.Watches)}
	errs = append(errs, CheckRevisions(all), CheckReplay(all), CheckStale(all), CheckDurable(r.History, r.Final), CheckLinearizable(all, checkTimeout), CheckExpiry(r.Lifetimes))
	if len(r.Disks) > 0 {
		_, err := CheckReplicas(r.Disks)
		errs = append(errs, err, CheckWatchedKeys(r.Watches, r.Final), CheckNeverApplied(r.History, simulated(r.Disks)))
	}
	errs = append(errs, CheckWatches(all, r.Watches, simulated(r.Disks)))
	return errors.Join(errs...)
}
