package raftnode

import (
	"slices"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/trace"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
)

// writers are the sampled commands of one entry of a job.
type writers struct {
	entry  int
	traces []*storev1.TraceContext
}

// writersKept is how many sampled writes a replica remembers, for the watches that are told of them.
const writersKept = 128

// lastWriters are the newest sampled writes that a replica has applied, by revision. It is memory of this node and no part of the state: what is not in it any more is
// delivered without a link.
type lastWriters struct {
	// newest is the revision of the last, so that nearly all who ask need no lock.
	newest atomic.Uint64
	// mu guards the fields below. It is a leaf.
	mu   sync.Mutex
	ring [writersKept]lastWriter
	next int
}

type lastWriter struct {
	revision uint64
	context  trace.SpanContext
}

func (l *lastWriters) add(revision uint64, c trace.SpanContext) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ring[l.next%writersKept] = lastWriter{revision, c}
	l.next++
	l.newest.Store(max(l.newest.Load(), revision))
}

// of returns those who have written the revisions of events, which ascend; nil nearly always.
func (l *lastWriters) of(events []WatchEvent) (out []trace.SpanContext) {
	if len(events) == 0 || l.newest.Load() < events[0].Revision {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.ring {
		w := &l.ring[i]
		_, found := slices.BinarySearchFunc(events, w.revision, func(e WatchEvent, revision uint64) int {
			return int(min(max(int64(e.Revision)-int64(revision), -1), 1)) //nolint:gosec // revisions are counted from 1
		})
		if w.context.IsValid() && found && len(out) < entryTracesMax {
			out = append(out, w.context)
		}
	}
	return out
}

// noteWriters remembers who has written what a job has applied.
func (n *Node) noteWriters(j *applyJob) {
	if n.tracing == nil || n.watches.history == nil {
		return
	}
	for _, w := range j.writers {
		results := j.results[w.entry]
		for _, t := range w.traces {
			if uint64(t.GetCommand()) >= uint64(len(results)) {
				continue
			}
			done := results[t.GetCommand()].write
			c := spanContext(t, true)
			if done.GetOutcome() == storev1.WriteOutcome_WRITE_OUTCOME_APPLIED && !done.GetReplayed() && c.IsValid() {
				j.member.writers.add(done.GetRevision(), c)
			}
		}
	}
}
