package nodetest

import (
	"time"

	"github.com/raftkv/raftkv/raftnode"
)

// sendOnce sends a request to a random node, and calls done once: with its answer, or an error of the way if it cannot be reached or does not answer a while after timeout. A
// node that dies meanwhile does not answer.
func (c *Cluster) sendOnce(name string, r *raftnode.Request, timeout time.Duration, done func(raftnode.Result)) {
	s := c.scheduler
	p := c.processes[s.random.IntN(len(c.processes))]
	answered := false
	answer := func(res raftnode.Result) {
		if !answered {
			answered = true
			done(res)
		}
	}
	s.add(s.between(50*time.Microsecond, time.Millisecond), &event{
		name: name, process: p,
		lost: func() { answer(raftnode.Result{Err: errUnreachable}) },
		run: func() {
			l := p.life
			if l.node == nil {
				answer(raftnode.Result{Err: errUnreachable})
				return
			}
			r.Deadline = l.runtime.Now().Add(timeout)
			r.Done = func(res raftnode.Result) {
				if !l.dead.Load() {
					s.after(s.between(50*time.Microsecond, time.Millisecond), "answer of "+name, func() { answer(res) })
				}
			}
			l.node.Submit(r)
		},
	})
	s.after(timeout+2*time.Second, "timeout of "+name, func() { answer(raftnode.Result{Err: errNoAnswer}) })
}
