package nodetest

import (
	"context"
	"slices"
	"time"
)

// task is a function that may wait for virtual time: a coroutine. Exactly one of it and the simulator runs.
type task struct {
	life   *life
	resume chan struct{}
	parked chan struct{}
	done   bool
	// killed: the process has died under it; it waits for nothing any more.
	killed bool
}

// runTask runs f until it returns or parks.
func (s *scheduler) runTask(l *life, f func(context.Context)) {
	t := &task{life: l, resume: make(chan struct{}), parked: make(chan struct{})}
	l.tasks = append(l.tasks, t)
	go func() {
		<-t.resume
		f(l.ctx)
		t.done = true
		t.parked <- struct{}{}
	}()
	s.turn(t)
}

// turn gives a task its turn.
func (s *scheduler) turn(t *task) {
	before := s.running
	s.running = t
	t.resume <- struct{}{}
	<-t.parked
	s.running = before
	if t.done {
		t.life.tasks = slices.DeleteFunc(t.life.tasks, func(o *task) bool { return o == t })
	}
}

// await parks the running task until begin's callback is called or the time is over, and says whether it was called. The callback may be
// called late, or by nobody.
func (s *scheduler) await(limit time.Duration, begin func(done func())) bool {
	t := s.running
	if t == nil {
		panic("nodetest: only a function given to Runtime.Go or After may wait")
	}
	if t.killed {
		return false
	}
	over, called := false, false
	wake := func(by bool) func() {
		return func() {
			if over || t.killed {
				return
			}
			over, called = true, by
			s.turn(t)
		}
	}
	begin(wake(true))
	s.add(limit, &event{name: "timeout", process: t.life.process, boot: t.life.number, run: wake(false)})
	t.parked <- struct{}{}
	<-t.resume
	return called && !t.killed
}

// killTasks ends the tasks of a dead process: what they wait for has failed.
func (s *scheduler) killTasks(l *life) {
	for len(l.tasks) > 0 {
		t := l.tasks[0]
		t.killed = true
		s.turn(t)
	}
}
