package raftnode

import (
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftkv/raftkv/raftnode/logstore"
)

// Observer is told how much the steps of writes take, for histograms. Any of its functions may be nil. Goroutines of the node that must not be held up call
// them, several at once: they neither block nor call the node.
type Observer struct {
	// LogWritten: a round of the log was written and made durable.
	LogWritten func(bytes int, write, sync time.Duration)
	// Proposed: this node has proposed an entry with so many commands.
	Proposed func(commands, bytes int)
	// Committed: an entry that this node has proposed was committed after that time.
	Committed func(took time.Duration)
	// Applied: committed entries were applied that time after they had been handed to the applier.
	Applied func(entries int, took time.Duration)
}

// setDefaults makes every function one that can be called.
func (o *Observer) setDefaults() {
	if o.LogWritten == nil {
		o.LogWritten = func(int, time.Duration, time.Duration) {}
	}
	if o.Proposed == nil {
		o.Proposed = func(int, int) {}
	}
	if o.Committed == nil {
		o.Committed = func(time.Duration) {}
	}
	if o.Applied == nil {
		o.Applied = func(int, time.Duration) {}
	}
}

func (o *Observer) logSynced(s logstore.SyncStats) { o.LogWritten(s.Bytes, s.Write, s.Sync) }

// observeCommits tells the observer which proposals of this node the entries are.
func (w *worker) observeCommits(m *member, entries []*raftpb.Entry) {
	if len(entries) > 0 {
		m.proposed.committed(entries, w.n.runtime.Now(), w.n.options.Observer.Committed)
	}
}

// committed calls observe for the proposals that have become entries of the log, once each.
func (p *proposals) committed(entries []*raftpb.Entry, now time.Time, observe func(time.Duration)) {
	first, last := entries[0].GetIndex(), entries[len(entries)-1].GetIndex()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.entries {
		e := &p.entries[i]
		if e.index > last {
			return
		}
		if e.index >= first && !e.began.IsZero() && entries[e.index-first].GetTerm() == e.term {
			observe(now.Sub(e.began))
			e.began = time.Time{}
		}
	}
}
