package raftnode

import (
	"sync/atomic"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/planted"
)

// freshness is when the last ReadIndex round began whose index a replica has applied: all that had been acknowledged by then is in its state. It is
// a time since the node was opened, of its monotonic clock, and one that was opened a moment ago knows of no round. The worker sets it, any
// goroutine may ask.
type freshness struct {
	// began is one more than the time, in nanoseconds; 0 is none.
	began atomic.Int64
}

// confirm notes a round. Rounds are confirmed in order.
func (f *freshness) confirm(began time.Duration) { f.began.Store(int64(began) + 1) }

// age is how old the state may be at a time.
func (f *freshness) age(now time.Duration) (age time.Duration, known bool) {
	began := f.began.Load()
	if began == 0 {
		return 0, false
	}
	return now - time.Duration(began-1), true
}

// uptime is the clock of freshness.
func (n *Node) uptime() time.Duration { return n.runtime.Now().Sub(n.opened) }

// freshEnough says whether a state of an age may answer a read.
func freshEnough(s *peerv1.Stale, age time.Duration, known bool) bool {
	return s.GetMaxMs() == 0 || planted.Is(planted.StaleBoundIgnored) ||
		known && age <= time.Duration(s.GetMaxMs())*time.Millisecond
}

// stale serves a read that need not be the newest, or lets it join a round.
func (w *worker) stale(m *member, r *Request) {
	if age, known := m.fresh.age(w.n.uptime()); freshEnough(r.Read.GetStale(), age, known) {
		w.n.serveReads(m, []*Request{r}, false)
		return
	}
	w.joinRound(m, r)
}

// joinRound lets a read wait for a round, unless there is nobody to ask: who has said how old its answer may be can be told now.
func (w *worker) joinRound(m *member, r *Request) {
	if lead, _ := m.replica.Lead(); lead == 0 {
		r.fail(w.n.tooStale(m, r.Read.GetStale()))
		return
	}
	m.reads = append(m.reads, r)
}

// tooStale is the error of a read for which there was no round.
func (n *Node) tooStale(m *member, s *peerv1.Stale) error {
	e := &TooStaleError{Shard: m.shard, RetryAfter: n.options.ElectionTimeout}
	if lead := m.lead.Load(); lead != nil && lead.id != 0 {
		e.RetryAfter = n.options.HeartbeatInterval
	}
	age, known := m.fresh.age(n.uptime())
	if !freshEnough(s, age, known) {
		e.Age, e.Bound = age, time.Duration(s.GetMaxMs())*time.Millisecond
	}
	return e
}

// readTimedOut is the error of a read whose time ran out before it was confirmed.
func (n *Node) readTimedOut(m *member, r *Request) error {
	if s := r.Read.GetStale(); s != nil {
		return n.tooStale(m, s)
	}
	return n.timedOut(m.shard)
}

// staleAnswer fills the origin of an answer from a state that no round has confirmed, or says that it needs one: the state may have become too
// old while the read waited, or lacks what must be in it.
func (n *Node) staleAnswer(m *member, s *peerv1.Stale, origin *peerv1.Origin, revision uint64, age time.Duration, known bool) bool {
	if !freshEnough(s, age, known) || revision < s.GetRevisions()[uint32(m.shard)] && !planted.Is(planted.StaleTokenIgnored) {
		return false
	}
	origin.FreshnessUnknown = !known
	if known {
		origin.FreshnessMs = uint64((age + time.Millisecond - 1) / time.Millisecond) // A part counts whole.
	}
	return true
}

// joinEvent makes reads join a round that a reader could not serve without one.
type joinEvent struct {
	m        *member
	requests []*Request
}

func (e joinEvent) handle(w *worker) {
	for _, r := range e.requests {
		w.joinRound(e.m, r)
	}
	w.touch(e.m)
}
