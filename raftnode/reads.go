package raftnode

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/raftkv/raftkv/raftnode/planted"
	"github.com/raftkv/raftkv/raftnode/replica"
	"github.com/raftkv/raftkv/raftnode/state"
)

// startReads begins a ReadIndex round for the reads that wait, those of rounds that were given up included, unless one is under way.
func (w *worker) startReads(m *member) {
	if len(m.reads) == 0 && len(m.rounds) == 0 {
		return
	}
	if round, ok := m.replica.StartRead(); ok {
		m.beginRound(round, w.n.uptime(), m.reads)
		m.reads = nil
	}
}

// readConfirmed moves the reads of a round on: to the readers, or to wait for the applier.
func (w *worker) readConfirmed(m *member, r replica.Read) {
	reads, began := m.endRounds(r.Round)
	w.n.metrics.readRounds.Add(1)
	if len(reads) == 0 {
		return
	}
	if m.applied >= r.Index || planted.Is(planted.ReadBeforeApplied) { // R16
		m.fresh.confirm(began)
		w.n.serveReads(m, reads, true)
		return
	}
	m.confirmed = append(m.confirmed, confirmedReads{index: r.Index, began: began, requests: reads})
	m.confirmedCount += len(reads)
}

// releaseReads hands the reads whose index is applied to the readers. Rounds are confirmed in order, so indexes do not fall.
func (w *worker) releaseReads(m *member) {
	n := 0
	for n < len(m.confirmed) && m.confirmed[n].index <= m.applied {
		m.confirmedCount -= len(m.confirmed[n].requests)
		m.fresh.confirm(m.confirmed[n].began)
		w.n.serveReads(m, m.confirmed[n].requests, true)
		m.confirmed[n] = confirmedReads{}
		n++
	}
	m.confirmed = m.confirmed[n:]
}

// readerPool serves confirmed reads. Requests per shard are bounded where they come in.
type readerPool struct {
	n     *Node
	wakes []func()
	// queue has a lock of its own; a leaf.
	queue struct {
		sync.Mutex
		jobs []readJob
	}
}

type readJob struct {
	m        *member
	requests []*Request
	// confirmed: a round has shown that the state is the newest.
	confirmed bool
}

func newReaderPool(n *Node, name string, size int) *readerPool {
	p := &readerPool{n: n}
	for range size {
		p.wakes = append(p.wakes, n.runtime.Stage(name, p.step))
	}
	return p
}

// serveReads gives reads to the readers. Those of the past have one of their own: it follows every write of a key since, which may be many, and the
// others must not wait for that. Pages of the past have another: a write that is done waits for its read of the past (readAfter), and must not
// wait for a page, which passes the writes of all its keys.
func (n *Node) serveReads(m *member, requests []*Request, confirmed bool) {
	if !slices.ContainsFunc(requests, func(r *Request) bool { return ofPast(r.Read) }) {
		n.readers.add(m, requests, confirmed)
		return
	}
	var pages, past, present []*Request
	for _, r := range requests {
		switch {
		case pageOfPast(r.Read):
			pages = append(pages, r)
		case ofPast(r.Read):
			past = append(past, r)
		default:
			present = append(present, r)
		}
	}
	n.readers.add(m, present, confirmed)
	n.pastReaders.add(m, past, confirmed)
	n.pageReaders.add(m, pages, confirmed)
}

func (p *readerPool) add(m *member, requests []*Request, confirmed bool) {
	if len(requests) == 0 {
		return
	}
	m.reading.Add(int64(len(requests)))
	p.queue.Lock()
	p.queue.jobs = append(p.queue.jobs, readJob{m: m, requests: requests, confirmed: confirmed})
	waiting := len(p.queue.jobs)
	p.queue.Unlock()
	for i := range min(waiting, len(p.wakes)) {
		p.wakes[i]()
	}
}

func (p *readerPool) step() {
	for {
		p.queue.Lock()
		if len(p.queue.jobs) == 0 {
			p.queue.Unlock()
			return
		}
		job := p.queue.jobs[0]
		p.queue.jobs[0] = readJob{}
		p.queue.jobs = p.queue.jobs[1:]
		p.queue.Unlock()
		p.serve(job)
	}
}

// serve executes the reads of one round in one view: ownership and data are of the same state (R17).
func (p *readerPool) serve(job readJob) {
	age, known := job.m.fresh.age(p.n.uptime()) // before the view, which may be newer
	view := p.n.engine.view()
	l := job.m.lead.Load()
	leads := l != nil && l.local
	var again []*Request // their view is of before a snapshot was installed
	var join []*Request  // the state is not new enough for them
	var failure error    // of a state that is damaged: the replica must not go on (R15)
	for _, r := range job.requests {
		if !r.Deadline.IsZero() && p.n.runtime.Now().After(r.Deadline) {
			r.fail(ErrTimeout) // Nobody waits for it any more: the time is for the others.
			continue
		}
		result, at, err := view.read(job.m.shard, r.Read)
		if errors.Is(err, state.ErrReplaced) {
			again = append(again, r)
			continue
		}
		_, damaged := damageOf(err)
		if damaged {
			failure = err
		}
		if s := r.Read.GetStale(); s != nil && !job.confirmed && !damaged && at.index == 0 {
			join = append(join, r) // The replica has nothing yet: it is new, or begins anew.
			continue
		}
		if err != nil {
			r.fail(err)
			continue
		}
		if leads {
			result.ClockMs = max(result.ClockMs, job.m.clockMs.Load())
		}
		origin := p.n.origin(at, leads)
		origin.Learner = !leads && job.m.learner()
		if s := r.Read.GetStale(); s != nil {
			switch wanted := s.GetRevisions()[uint32(job.m.shard)]; {
			case !job.confirmed && !p.n.staleAnswer(job.m, s, origin, at.revision, age, known):
				join = append(join, r)
				continue
			case job.confirmed && at.revision < wanted:
				r.fail(&FutureRevisionError{Shard: job.m.shard, Revision: wanted, Current: at.revision})
				continue
			}
		}
		sayRemaining(result)
		r.done(Result{Shard: job.m.shard, Read: result, Origin: origin})
	}
	if len(join) > 0 {
		job.m.worker.post(joinEvent{m: job.m, requests: join})
	}
	if len(again) > 0 {
		job.m.worker.post(rereadEvent{m: job.m, requests: again})
	}
	job.m.reading.Add(-int64(len(job.requests)))
	if err := view.close(); err != nil && failure == nil {
		failure = fmt.Errorf("close a view of the state: %w", err)
	}
	if failure != nil {
		p.n.fail(failure)
	}
}

// handle sends reads through another round whose view a snapshot has replaced: the round ends when the snapshot is installed.
func (e rereadEvent) handle(w *worker) {
	e.m.reads = append(e.requests, e.m.reads...)
	w.touch(e.m)
}
