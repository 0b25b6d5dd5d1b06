package nodetest

import (
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode"
)

// drawStale makes some reads stale ones: within a bound, with all that their client has seen, or both; seldom with neither.
func (cs *clients) drawStale(group int) *StaleRead {
	s := cs.c.scheduler
	if !s.chance(0.3) {
		return nil
	}
	read := &StaleRead{}
	if s.chance(0.7) {
		read.Bound = s.about(500*time.Millisecond).Round(time.Millisecond) + time.Millisecond
	}
	if s.chance(0.4) {
		read.Revision = cs.seenBy(group)
	}
	return read
}

// stale is what the node is asked for; nil if it must be the newest.
func (a *attempt) stale() *peerv1.Stale {
	read := a.op.Stale
	if read == nil {
		return nil
	}
	out := &peerv1.Stale{MaxMs: uint64(read.Bound.Milliseconds())}
	if read.Revision > 0 {
		out.Revisions = make(map[uint32]uint64)
		for _, p := range a.cl.cs.c.processes {
			if p.serving() {
				out.Revisions[uint32(p.life.node.Locate(key(a.op.Group, 0)).Shard)] = read.Revision
				break
			}
		}
	}
	return out
}

// finishStale notes a stale read that was answered.
func (a *attempt) finishStale(res raftnode.Result) {
	cs, read := a.cl.cs, a.op.Stale
	read.Age, read.AgeUnknown = time.Duration(res.Origin.GetFreshnessMs())*time.Millisecond, res.Origin.GetFreshnessUnknown()
	if read.Age > 0 || read.AgeUnknown {
		cs.c.seen(StaleServed)
	}
	if read.AgeUnknown && read.Bound > 0 {
		cs.c.violate("%s is of an age that is not known", a.op)
	}
	cs.history.Stale = append(cs.history.Stale, a.op)
	cs.busy--
	a.cl.think()
}
