package nodetest

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"testing/synctest"
	"time"
)

// scheduler runs events one at a time, ordered by virtual time and then by the order in which they were made.
type scheduler struct {
	now    time.Duration
	last   uint64 // the number of the newest event
	queue  queue
	random *rand.Rand
	trace  trace
	// running is the task whose turn it is, if the event under way is one.
	running *task
	// settled is called after every event, when every goroutine is at rest.
	settled func()
}

// event is something that happens at a moment of virtual time.
type event struct {
	at   time.Duration
	seq  uint64
	name string
	// process is to whom it happens; nil: to the simulation. boot restricts it to one life of the process; 0: whichever it is in.
	process *process
	boot    uint64
	run     func()
	// lost is called instead of run if the process is dead by then.
	lost func()
}

func newScheduler(seed uint64) *scheduler {
	return &scheduler{random: rand.New(rand.NewPCG(seed, 0x7261_6674_6b76)), trace: newTrace()}
}

// add queues an event, d from now.
func (s *scheduler) add(d time.Duration, e *event) {
	s.last++
	e.at, e.seq = s.now+max(d, 0), s.last
	if s.trace.print != nil {
		fmt.Fprintf(s.trace.print, "  add %s %s\n", e.at, e.name)
	}
	heap.Push(&s.queue, e)
}

// after queues something that happens to the simulation itself.
func (s *scheduler) after(d time.Duration, name string, run func()) {
	s.add(d, &event{name: name, run: run})
}

// step runs the next event, unless that lies behind until; then only the time passes.
func (s *scheduler) step(until time.Duration) bool {
	if len(s.queue) == 0 || s.queue[0].at > until {
		s.now = max(s.now, until)
		return false
	}
	e := heap.Pop(&s.queue).(*event)
	s.now = e.at
	s.dispatch(e)
	return true
}

func (s *scheduler) dispatch(e *event) {
	if p := e.process; p != nil {
		switch {
		case p.life == nil || e.boot != 0 && e.boot != p.life.number:
			if e.lost != nil {
				e.lost()
			}
			return
		case p.paused:
			p.held = append(p.held, e)
			return
		}
		s.trace.event(s.now, p.index, e.name)
	} else {
		s.trace.event(s.now, -1, e.name)
	}
	e.run()
	synctest.Wait()
	s.settled()
}

// between draws a time of [low, high).
func (s *scheduler) between(low, high time.Duration) time.Duration {
	return low + time.Duration(s.random.Int64N(int64(max(high-low, 1))))
}

// about draws a time with the given mean, mostly shorter and seldom much longer, as waiting times are.
func (s *scheduler) about(mean time.Duration) time.Duration {
	return time.Duration(min(s.random.ExpFloat64(), 8) * float64(mean))
}

// chance is true with probability p.
func (s *scheduler) chance(p float64) bool { return p > 0 && s.random.Float64() < p }

// queue is a heap of events.
type queue []*event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(e any)   { *q = append(*q, e.(*event)) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return e
}
