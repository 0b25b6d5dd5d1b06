package raftnode

import (
	"errors"
	"time"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/planted"
	"github.com/raftkv/raftkv/raftnode/replica"
	"github.com/raftkv/raftkv/raftnode/state"
)

func (e requestEvent) handle(w *worker) {
	m, r := e.m, e.r
	w.touch(m)
	if r.Read != nil {
		if len(m.reads)+m.roundReads()+m.confirmedCount+int(m.reading.Load()) >= readsMax {
			r.fail(overloaded("reads waiting on the shard", readsMax, readsMax))
			return
		}
		if w.n.pastKnown(m.shard, r.Read) {
			w.n.serveReads(m, []*Request{r}, true)
			return
		}
		if r.Read.GetStale() != nil {
			w.stale(m, r)
			return
		}
		m.reads = append(m.reads, r)
		return
	}
	l := m.lead.Load()
	if r.forwarded && (l == nil || !l.local) {
		r.fail(w.n.notLeader(m.shard))
		return
	}
	if l != nil && l.node != "" && !l.local {
		w.n.forward(r, l.node)
		return
	}
	if err := m.admit(r); err != nil {
		r.fail(err)
		return
	}
	m.writes = append(m.writes, r)
	m.writesBytes += r.bytes
}

// admit refuses a write that would grow a queue beyond its bound, before anything is proposed.
func (m *member) admit(r *Request) error {
	if len(m.writes) >= queueRequestsMax {
		return overloaded("writes waiting on the shard", queueRequestsMax, uint64(len(m.writes)))
	}
	if m.writesBytes+r.bytes > queueBytesMax && len(m.writes) > 0 {
		return overloaded("bytes of writes waiting on the shard", queueBytesMax, uint64(m.writesBytes))
	}
	return nil
}

// propose makes one entry of the writes that wait, and says whether it did. At most appendsMax of a leader's appends with entries are in
// flight, so that batches grow as the disk slows down. Nothing is proposed while the state engine is behind.
func (w *worker) propose(m *member) bool {
	l := m.lead.Load()
	if l != nil && l.local {
		w.refuseGrowth(m)
	}
	if len(m.writes) == 0 || l == nil || !l.local || m.refused || m.entriesInFlight() >= appendsMax || w.n.pressure.Load() != nil {
		return false
	}
	now := w.n.runtime.Now()
	batch, entry := m.gather(m.clock.nowMs(now))
	course := w.n.beginCourse(batch, entry, now)
	data, err := state.EncodeEntry(entry)
	if err == nil {
		err = m.replica.Propose(data)
	}
	if err != nil {
		// Handing the lead over, or too much uncommitted: the writes keep waiting, in their order. After any other error the node stops,
		// and Close answers them.
		m.writes = append(batch, m.writes...)
		for _, r := range batch {
			m.writesBytes += r.bytes
		}
		m.refused = errors.Is(err, replica.ErrNotLeader)
		if !m.refused {
			w.check(m, err)
		}
		return false
	}
	out, err := m.replica.Ready()
	if err != nil {
		m.writes = append(batch, m.writes...) // Nothing has left: the node stops, and answers them so.
		w.check(m, err)
		return false
	}
	last := out.Append.Entries[len(out.Append.Entries)-1]
	// Before the entry can be applied, hence before carry.
	m.expiry.carried = w.n.runtime.Now()
	if course != nil {
		course.index, course.sent = last.GetIndex(), m.expiry.carried
		m.courses = append(m.courses, course)
	}
	m.proposed.add(proposal{index: last.GetIndex(), term: last.GetTerm(), requests: batch, course: course, began: m.expiry.carried})
	w.n.metrics.proposals.Add(1)
	w.n.metrics.proposedCommands.Add(uint64(len(batch)))
	w.n.options.Observer.Proposed(len(batch), len(data))
	w.carry(m, out)
	return true
}

func (m *member) entriesInFlight() int {
	n := 0
	for _, a := range m.appends {
		if len(a.Entries) > 0 || a.Snapshot != nil {
			n++
		}
	}
	return n
}

// gather takes writes from the queue for one entry.
func (m *member) gather(clockMs uint64) ([]*Request, *storev1.Entry) {
	entry := &storev1.Entry{CommandVersion: entryVersion, ClockMs: clockMs}
	size, n := 0, 0
	for n < len(m.writes) && n < entryCommandsMax {
		r := m.writes[n]
		if n > 0 && size+r.bytes > entryBytesMax {
			break
		}
		size += r.bytes
		entry.Commands = append(entry.Commands, r.Command)
		n++
	}
	batch := make([]*Request, n)
	copy(batch, m.writes)
	clear(m.writes[:n])
	m.writes = m.writes[n:]
	m.writesBytes -= size
	return batch, entry
}

// routeWaiting sends the writes that waited for a leader to where they belong now.
func (w *worker) routeWaiting(m *member, l *leadership) {
	if l.local || l.node == "" {
		return
	}
	writes := m.writes
	m.writes, m.writesBytes = nil, 0
	for _, r := range writes {
		if r.forwarded {
			r.fail(w.n.notLeader(m.shard))
			continue
		}
		w.n.forward(r, l.node)
	}
}

// expire answers what has waited beyond its deadline.
func (w *worker) expire(m *member, now time.Time) {
	m.writes = expireRequests(m.writes, now, func(r *Request) {
		m.writesBytes -= r.bytes
		if p := w.n.pressure.Load(); p != nil {
			r.fail(p)
			return
		}
		r.fail(w.n.timedOut(m.shard))
	})
	expireReads := func(rs []*Request) []*Request {
		return expireRequests(rs, now, func(r *Request) { r.fail(w.n.readTimedOut(m, r)) })
	}
	m.reads = expireReads(m.reads)
	m.expireRounds(expireReads)
	waiting := m.confirmed[:0]
	for i := range m.confirmed {
		m.confirmed[i].requests = expireRequests(m.confirmed[i].requests, now, func(r *Request) {
			m.confirmedCount--
			if s := r.Read.GetStale(); s != nil {
				r.fail(w.n.tooStale(m, s))
				return
			}
			r.fail(ErrTimeout)
		})
		if len(m.confirmed[i].requests) > 0 || i == len(m.confirmed)-1 { // the last tells how fresh the replica will be
			waiting = append(waiting, m.confirmed[i])
		}
	}
	clear(m.confirmed[len(waiting):])
	m.confirmed = waiting
	for _, r := range m.proposed.expire(now) {
		if planted.Is(planted.ProposedCalledRefused) { // TAX
			r.fail(w.n.timedOut(m.shard))
			continue
		}
		r.fail(&UnknownOutcomeError{Shard: m.shard, Cause: "the write was proposed and its commit was not seen in time"})
	}
	w.expireTransfers(m, now)
}

// expireRequests calls expired for those beyond their deadline and returns the others, in order.
func expireRequests(rs []*Request, now time.Time, expired func(*Request)) []*Request {
	rest := rs[:0]
	for _, r := range rs {
		if r.Deadline.Before(now) {
			expired(r)
			continue
		}
		rest = append(rest, r)
	}
	clear(rs[len(rest):])
	return rest
}
