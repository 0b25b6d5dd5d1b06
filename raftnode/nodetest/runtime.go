package nodetest

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftkv/raftkv/raftnode"
)

// epoch is where virtual time begins.
var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// runtime is the raftnode.Runtime of one life of a process: every run of a stage, every tick and every task is an event. Once the process is
// dead, nothing runs any more.
type runtime struct {
	c *Cluster
	l *life

	// mu guards stages: a node may register them while another goroutine wakes one. It is a leaf.
	mu     sync.Mutex
	stages []*stage
}

var _ raftnode.Runtime = (*runtime)(nil)

// stage is a step of the node. Its wake may come from a goroutine of Pebble, so it only leaves a mark, which becomes an event when all
// goroutines are at rest: in the order of the stages, not of the goroutines.
type stage struct {
	name   string
	step   func()
	woken  atomic.Bool
	queued bool
}

func (r *runtime) Stage(name string, step func()) func() {
	s := &stage{name: name, step: step}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stages = append(r.stages, s)
	return func() { s.woken.Store(true) }
}

// collect makes events of the stages that were woken.
func (r *runtime) collect() {
	r.mu.Lock()
	stages := r.stages
	r.mu.Unlock()
	for _, s := range stages {
		if s.queued || !s.woken.Load() || r.l.process.stalls(s.name) {
			continue
		}
		s.queued = true
		r.add(r.delay(s.name), s.name, func() {
			s.queued = false
			s.woken.Store(false)
			s.step()
		})
	}
}

// delay is how long a stage takes to get to its step. For the log writer that is the write and the fsync, whose outcome nobody sees before.
func (r *runtime) delay(name string) time.Duration {
	s, p := r.c.scheduler, r.l.process
	switch name {
	case "log writer":
		return s.about(p.diskDelay)
	case "applier", "housekeeper":
		return s.about(p.applyDelay)
	default:
		return s.between(time.Microsecond, 30*time.Microsecond)
	}
}

func (r *runtime) add(d time.Duration, name string, run func()) {
	r.c.scheduler.add(d, &event{name: name, process: r.l.process, boot: r.l.number, run: run})
}

// local makes a time of the node's clock one of the simulation: clocks of nodes do not run alike.
func (r *runtime) local(d time.Duration) time.Duration {
	return time.Duration(float64(d) / r.l.process.rate)
}

func (r *runtime) Every(name string, d time.Duration, f func()) func() {
	var stopped atomic.Bool
	var run func()
	run = func() {
		if stopped.Load() {
			return
		}
		f()
		r.add(r.local(d), name, run)
	}
	r.add(r.local(d), name, run)
	return func() { stopped.Store(true) }
}

func (r *runtime) After(d time.Duration, f func()) {
	r.add(r.local(d)+r.c.scheduler.between(0, 100*time.Microsecond), "after", func() {
		r.c.scheduler.runTask(r.l, func(context.Context) { f() })
	})
}

func (r *runtime) Go(name string, f func(context.Context)) {
	r.add(r.c.scheduler.between(time.Microsecond, 100*time.Microsecond), strings.Clone(name), func() {
		r.c.scheduler.runTask(r.l, f)
	})
}

func (r *runtime) Now() time.Time {
	return epoch.Add(time.Duration(float64(r.c.scheduler.now)*r.l.process.rate) + r.l.process.jumped)
}

// Close has nothing to stop: whoever closes a node has ended its life before.
func (r *runtime) Close() {}
