package raftnode

import (
	"time"

	"go.opentelemetry.io/otel/trace"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/replica"
)

// Timing says where the time of a request went at the leader of its shard. Of a request that was passed on, the leader has said so.
type Timing struct {
	// Queue is from the arrival of a write until it was taken for an entry.
	Queue time.Duration
	// Fsync is the write and fsync of the leader's log that has made the entry durable there. Quorum is from the moment at which the entry left for the log and the
	// followers until it was committed, so the two run side by side.
	Fsync, Quorum time.Duration
	// Apply is from there until the entry was applied, its turn and the leader's own fsync included if they came later.
	Apply time.Duration
	// Applied says that the four above are known.
	Applied bool
	// Answered is when this node had the answer.
	Answered time.Time
}

// journey is what is noted of a request of which somebody wants to know where its time goes. Who owns the request owns it.
type journey struct {
	n     *Node
	begun time.Time
	// parent is the span of the requester; not valid if the request is timed only, or the node makes no spans.
	parent trace.SpanContext
	// commit is open from the moment at which the write is taken for an entry. Whoever ends it first counts.
	commit trace.Span
	timing Timing
}

func (n *Node) beginJourney(r *Request) {
	r.journey = &journey{n: n, begun: n.runtime.Now()}
	if n.tracing != nil && r.Trace != nil {
		r.journey.parent = spanContext(r.Trace, r.forwarded)
	}
}

// sampled says whether spans are made of the request. Nearly all have no journey at all.
func (j *journey) sampled() bool { return j != nil && j.parent.IsValid() }

// learn takes over what the leader has said of a request that was passed on.
func (j *journey) learn(t *peerv1.WriteTiming) {
	if t == nil {
		return
	}
	of := func(us uint64) time.Duration {
		return time.Duration(min(us, uint64(time.Hour.Microseconds()))) * time.Microsecond
	} //nolint:gosec // at most an hour
	j.timing = Timing{Queue: of(t.GetQueueUs()), Fsync: of(t.GetFsyncUs()), Quorum: of(t.GetQuorumUs()), Apply: of(t.GetApplyUs()), Applied: true}
}

// message is the timing for another node; nil if it is not known.
func (t *Timing) message() *peerv1.WriteTiming {
	if t == nil || !t.Applied {
		return nil
	}
	us := func(d time.Duration) uint64 { return uint64(max(0, d.Microseconds())) } //nolint:gosec // not negative
	return &peerv1.WriteTiming{QueueUs: us(t.Queue), FsyncUs: us(t.Fsync), QuorumUs: us(t.Quorum), ApplyUs: us(t.Apply)}
}

// end is called once, with the answer.
func (j *journey) end(r *Request, res *Result) *Timing {
	j.timing.Answered = j.n.runtime.Now()
	if j.sampled() {
		j.n.tracing.answered(r, res.Err)
	}
	return &j.timing
}

// course is what an entry goes through on the node that has proposed it, if somebody wants to know that of one of its requests. The worker fills it in; the applier,
// which gets an entry when it is committed and durable here, reads it then. Nothing of it is in the entry but the contexts of sampled writes, on which nothing depends.
type course struct {
	index, commands           uint64
	gathered, sent, committed time.Time
	fsyncBegan, durable       time.Time
	traced                    []tracedWrite
}

// beginCourse begins that of an entry; nil if nobody wants to know.
func (n *Node) beginCourse(batch []*Request, entry *storev1.Entry, now time.Time) *course {
	var c *course
	for i, r := range batch {
		if r.journey == nil {
			continue
		}
		if c == nil {
			c = &course{gathered: now, commands: uint64(len(batch))}
		}
		if r.journey.sampled() && len(c.traced) < tracedWritesMax {
			n.tracing.take(c, r, i, entry)
		} else if r.Trace != nil && len(entry.Traces) < entryTracesMax {
			entry.Traces = append(entry.Traces, contextOf(i, r.Trace)) // The other nodes may make spans.
		}
	}
	return c
}

// noteCommits notes for which entries there is a quorum now.
func (w *worker) noteCommits(m *member) {
	committed := m.replica.Committed()
	var now time.Time
	for _, c := range m.courses {
		if c.index > committed {
			break
		}
		if c.committed.IsZero() {
			if now.IsZero() {
				now = w.n.runtime.Now()
			}
			c.committed = now
		}
	}
	m.forgetCourses()
}

// noteAppend notes which entries have become durable here.
func (w *worker) noteAppend(e appendDoneEvent) {
	m := e.m
	for len(m.tracedAppends) > 0 && m.tracedAppends[0].append == e.a {
		w.n.tracing.followed(m.shard, &m.tracedAppends[0], e.ended)
		m.tracedAppends[0] = tracedAppend{}
		m.tracedAppends = m.tracedAppends[1:]
	}
	if len(e.a.Entries) == 0 {
		return
	}
	first, last := e.a.Entries[0].GetIndex(), e.a.Entries[len(e.a.Entries)-1].GetIndex()
	for _, c := range m.courses {
		if first <= c.index && c.index <= last {
			c.fsyncBegan, c.durable = e.began, e.ended
		}
	}
	m.forgetCourses()
}

// forgetCourses drops those to which the worker has nothing to add.
func (m *member) forgetCourses() {
	n := 0
	for n < len(m.courses) && !m.courses[n].committed.IsZero() && !m.courses[n].durable.IsZero() {
		m.courses[n] = nil
		n++
	}
	m.courses = m.courses[n:]
}

// endCourse tells the requests of an applied entry where their time went.
func (n *Node) endCourse(j *applyJob, p *proposal) {
	c, now := p.course, n.runtime.Now()
	// This node may have lost the lead before it saw the commit, or what it had proposed came back from the next leader.
	setDefault(&c.committed, now)
	setDefault(&c.durable, c.committed)
	setDefault(&c.fsyncBegan, c.durable)
	for _, r := range p.requests {
		if r != nil && r.journey != nil {
			r.journey.timing = Timing{
				Queue: c.gathered.Sub(r.journey.begun), Fsync: c.durable.Sub(c.fsyncBegan), Quorum: c.committed.Sub(c.sent), Apply: now.Sub(c.committed),
				Applied: true,
			}
		}
	}
	if len(c.traced) > 0 {
		n.tracing.applied(j.shard, p, now)
	}
}

// followAppend takes note of the sampled writes that a follower is about to make durable. It steps over the commands of each entry to find them, and decodes none.
func (w *worker) followAppend(m *member, a *replica.Append) {
	if m.replica.Leads() {
		return
	}
	for _, e := range a.Entries {
		contexts := tracesOf(e)
		if len(contexts) == 0 {
			continue
		}
		if len(m.tracedAppends) >= tracedAppendsMax {
			m.tracedAppends = m.tracedAppends[1:]
		}
		m.tracedAppends = append(m.tracedAppends, tracedAppend{append: a, index: e.GetIndex(), term: e.GetTerm(), contexts: contexts, received: w.n.runtime.Now()})
	}
}
