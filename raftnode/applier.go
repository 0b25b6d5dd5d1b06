package raftnode

import (
	"fmt"
	"sync"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/failpoint"
	"github.com/raftkv/raftkv/raftnode/planted"
	"github.com/raftkv/raftkv/raftnode/replica"
	"github.com/raftkv/raftkv/raftnode/state"
)

// applier brings committed entries of all shards into the engine, off the Raft loop: what waits goes into one batch. It answers the
// requests of the entries; only then does the replica learn that they are applied.
type applier struct {
	n    *Node
	wake func()
	// queue has a lock of its own; a leaf. Entries in it are bounded by replica.Config.MaxApplyBytes a shard.
	queue struct {
		sync.Mutex
		jobs []*applyJob
	}
}

func newApplier(n *Node) *applier {
	a := &applier{n: n}
	a.wake = n.runtime.Stage("applier", a.step)
	return a
}

func (a *applier) add(m *member, work *replica.Apply) {
	j := &applyJob{member: m, shard: m.shard, entries: work.Entries}
	j.done = func() {
		m.worker.post(applyDoneEvent{m: m, a: work, configuration: j.configuration, checkpoint: j.checkpoint})
	}
	a.put(j)
}

// barrier calls done once everything that was added before is applied.
func (a *applier) barrier(done func()) { a.put(&applyJob{done: done}) }

func (a *applier) put(j *applyJob) {
	j.began = a.n.runtime.Now()
	a.queue.Lock()
	a.queue.jobs = append(a.queue.jobs, j)
	a.queue.Unlock()
	a.n.stall.apply.begin()
	a.wake()
}

// applyRoundBytes bounds one batch, so that answers do not wait for a long queue. One that is larger than a memtable would be a file by itself.
const applyRoundBytes = 4 << 20

func (a *applier) step() {
	for {
		jobs := a.take()
		if len(jobs) == 0 || a.n.failed() {
			return
		}
		work := jobs[:0:0]
		for _, j := range jobs {
			if len(j.entries) > 0 {
				work = append(work, j)
			}
		}
		if len(work) > 0 {
			if err := a.n.engine.apply(work); err != nil {
				a.n.fail(fmt.Errorf("apply: %w", err))
				return
			}
		}
		a.n.stall.apply.finish(len(jobs))
		now := a.n.runtime.Now()
		for _, j := range work {
			if j.writers != nil {
				a.n.noteWriters(j)
			}
			a.n.options.Observer.Applied(len(j.entries), now.Sub(j.began))
			a.n.watches.applied(j.shard, j.after.revision)
		}
		failpoint.Hit(failpoint.BeforeReply)
		for _, j := range jobs {
			a.answer(j)
			j.done()
		}
	}
}

// take removes jobs from the queue up to the bound of a round.
func (a *applier) take() []*applyJob {
	a.queue.Lock()
	defer a.queue.Unlock()
	n, size := 0, 0
	most := min(applyRoundBytes, int(a.n.options.memTableBytes()))
	for n < len(a.queue.jobs) && size < most {
		for _, e := range a.queue.jobs[n].entries {
			size += len(e.GetData())
		}
		n++
	}
	jobs := a.queue.jobs[:n:n]
	a.queue.jobs = a.queue.jobs[n:]
	if len(a.queue.jobs) == 0 {
		a.queue.jobs = nil
	}
	return jobs
}

// answer completes the requests whose fate the job has decided.
func (a *applier) answer(j *applyJob) {
	if len(j.entries) == 0 {
		return
	}
	last := j.entries[len(j.entries)-1].GetIndex()
	first := j.entries[0].GetIndex()
	l := j.member.lead.Load()
	leads := l != nil && l.local
	for _, p := range j.member.proposed.take(last) {
		switch {
		case p.index < first && planted.Is(planted.SnapshotIsDefinite): // TAX
			failAll(p.requests, a.n.notLeader(j.shard))
		case p.index < first:
			// The state has passed this index by a snapshot.
			failAll(p.requests, &UnknownOutcomeError{Shard: j.shard, Cause: "this node has taken over a snapshot instead of applying the write"})
		case j.entries[p.index-first].GetTerm() != p.term && !planted.Is(planted.AnsweredByIndex): // TAX
			// Another entry stands where this one was proposed: it never will be applied.
			failAll(p.requests, a.n.notLeader(j.shard))
		default:
			a.complete(j, p, leads)
		}
	}
}

// complete answers the requests of one applied entry.
func (a *applier) complete(j *applyJob, p proposal, leads bool) {
	results := j.results[p.index-j.entries[0].GetIndex()]
	at := j.after
	at.index = p.index
	if p.course != nil {
		a.n.endCourse(j, &p)
	}
	for i, r := range p.requests {
		if r == nil {
			continue // Its requester has stopped waiting.
		}
		res := results[i]
		if res.write == nil {
			r.done(Result{Shard: j.shard, Opaque: res.opaque, Origin: a.n.origin(at, leads)})
			continue
		}
		if err := writeError(j, r.Command, res.write); err != nil {
			r.fail(err)
			continue
		}
		at.revision = res.write.GetRevision()
		r.done(Result{Shard: j.shard, Write: res.write, Origin: a.n.origin(at, leads)})
	}
}

// writeError is the error that an outcome means, if it is one. Whoever asks by a fence what has come of a request wants to know, and nothing has failed.
func writeError(j *applyJob, c *storev1.Command, w *storev1.WriteResult) error {
	if c.GetFence() != nil {
		switch w.GetOutcome() {
		case storev1.WriteOutcome_WRITE_OUTCOME_FENCED, storev1.WriteOutcome_WRITE_OUTCOME_LEASE_NOT_FOUND, storev1.WriteOutcome_WRITE_OUTCOME_LEASE_EXISTS:
			return nil
		default:
		}
	}
	switch w.GetOutcome() {
	case storev1.WriteOutcome_WRITE_OUTCOME_APPLIED, storev1.WriteOutcome_WRITE_OUTCOME_COMPARE_FAILED:
		return nil
	case storev1.WriteOutcome_WRITE_OUTCOME_NOT_SERVING:
		return staleRoute(j.shard, w.GetSlot())
	case storev1.WriteOutcome_WRITE_OUTCOME_SESSION_EXPIRED:
		return &SessionExpiredError{Shard: j.shard, Floor: w.GetSessionFloor(), Revision: w.GetRevision()}
	case storev1.WriteOutcome_WRITE_OUTCOME_SESSION_FULL:
		return &OverloadedError{Field: "answers that the client has not acknowledged by acked_below", Limit: state.SessionResults, Actual: state.SessionResults + 1, RetryAfter: overloadRetry}
	case storev1.WriteOutcome_WRITE_OUTCOME_FENCES_FULL:
		return &OverloadedError{Field: "clients that asked what came of a write since the shard was last written", Limit: state.FencesMax, Actual: state.FencesMax + 1, RetryAfter: keysFullRetry}
	case storev1.WriteOutcome_WRITE_OUTCOME_FENCED:
		return &FencedError{Shard: j.shard}
	case storev1.WriteOutcome_WRITE_OUTCOME_IDEMPOTENCY_KEY_REUSED:
		return &IdempotencyKeyReusedError{Shard: j.shard, Key: c.GetIdempotency().GetKey()}
	case storev1.WriteOutcome_WRITE_OUTCOME_IDEMPOTENCY_FULL:
		return &OverloadedError{Field: "answers, or their bytes, that the shard keeps under idempotency keys", Limit: state.KeyedResults, Actual: state.KeyedResults + 1, RetryAfter: keysFullRetry}
	case storev1.WriteOutcome_WRITE_OUTCOME_LEASE_NOT_FOUND:
		return &LeaseNotFoundError{ID: w.GetLeaseId()}
	case storev1.WriteOutcome_WRITE_OUTCOME_LEASE_EXISTS:
		return &LeaseExistsError{ID: w.GetLeaseId()}
	default:
		return &UnknownOutcomeError{Shard: j.shard, Cause: fmt.Sprintf("outcome %s is not known to this version of raftkv", w.GetOutcome())}
	}
}

func failAll(rs []*Request, err error) {
	for _, r := range rs {
		if r != nil {
			r.fail(err)
		}
	}
}
