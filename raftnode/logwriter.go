package raftnode

import (
	"fmt"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftkv/raftkv/raftnode/failpoint"
	"github.com/raftkv/raftkv/raftnode/logstore"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/replica"
)

// logWriter makes the appends of all shards durable: whatever has come since the last round goes into one write and one fsync.
type logWriter struct {
	n    *Node
	wake func()
	// queue has a lock of its own; a leaf. It is bounded by what its producers may have outstanding: a leader proposes nothing beyond
	// appendsMax appends with entries of a shard, a follower is sent no more than its leader may have unacknowledged.
	queue struct {
		sync.Mutex
		jobs []logJob
	}
	updates []logstore.Update // used again from round to round
}

// logJob is an update of one shard and what to do when it is written.
type logJob struct {
	update logstore.Update
	sync   bool
	// reclaim asks for space that the log holds and does not need.
	reclaim bool
	done    func()
	// appended is done for an append, with the times of its round.
	appended func(began, ended time.Time)
}

func newLogWriter(n *Node) *logWriter {
	l := &logWriter{n: n}
	l.wake = n.runtime.Stage("log writer", l.step)
	return l
}

// add queues an append of a replica.
func (l *logWriter) add(m *member, a *replica.Append) {
	l.put(logJob{
		update: logstore.Update{Shard: m.shard, HardState: a.HardState, Entries: a.Entries},
		sync:   a.Sync,
		appended: func(began, ended time.Time) {
			m.worker.post(appendDoneEvent{m: m, a: a, began: began, ended: ended})
		},
	})
}

// intend queues the intent to ingest a snapshot; reset the record that ends it (R8).
func (l *logWriter) intend(shard placement.ShardID, intent logstore.Intent, done func()) {
	l.put(logJob{update: logstore.Update{Shard: shard, Intent: &intent}, sync: true, done: done})
}

func (l *logWriter) reset(shard placement.ShardID, to logstore.Reset, hs *raftpb.HardState, done func()) {
	l.put(logJob{update: logstore.Update{Shard: shard, Reset: &to, HardState: hs}, sync: true, done: done})
}

// truncate queues the truncation of a log, which may become durable late.
func (l *logWriter) truncate(shard placement.ShardID, index uint64) {
	failpoint.Hit(failpoint.LogTruncation)
	l.put(logJob{update: logstore.Update{Shard: shard, Truncate: index}})
}

// reclaim queues giving back the space of what has been truncated.
func (l *logWriter) reclaim() { l.put(logJob{reclaim: true}) }

func (l *logWriter) put(j logJob) {
	l.queue.Lock()
	l.queue.jobs = append(l.queue.jobs, j)
	l.queue.Unlock()
	l.n.stall.log.begin()
	l.wake()
}

func (l *logWriter) step() {
	for !l.n.failed() {
		jobs := l.take()
		if len(jobs) == 0 {
			return
		}
		l.write(jobs)
	}
}

// logRoundBytes bounds one write, so that a stall of the disk is not followed by one that is as long as all that has come meanwhile.
const logRoundBytes = 16 << 20

// take removes jobs from the queue up to the bound of a round.
func (l *logWriter) take() []logJob {
	l.queue.Lock()
	defer l.queue.Unlock()
	n, size := 0, 0
	for n < len(l.queue.jobs) && size < logRoundBytes {
		for _, e := range l.queue.jobs[n].update.Entries {
			size += len(e.GetData())
		}
		n++
	}
	jobs := l.queue.jobs[:n:n]
	if l.queue.jobs = l.queue.jobs[n:]; len(l.queue.jobs) == 0 {
		l.queue.jobs = nil
	}
	return jobs
}

// write makes a round durable and tells who waits for it.
func (l *logWriter) write(jobs []logJob) {
	sync, reclaim := false, false
	l.updates = l.updates[:0]
	for _, j := range jobs {
		sync, reclaim = sync || j.sync, reclaim || j.reclaim
		if !j.reclaim {
			l.updates = append(l.updates, j.update)
		}
		if j.update.HardState != nil {
			failpoint.Hit(failpoint.HardState)
		}
	}
	began := l.n.runtime.Now()
	err := l.n.logs.Append(l.updates, sync)
	ended := l.n.runtime.Now()
	if err == nil && reclaim {
		err = l.n.logs.Reclaim()
	}
	if err != nil {
		l.n.fail(fmt.Errorf("write the log: %w", err))
		return
	}
	clear(l.updates)
	l.n.stall.log.finish(len(jobs))
	for _, j := range jobs {
		if j.done != nil {
			j.done()
		}
		if j.appended != nil {
			j.appended(began, ended)
		}
	}
}
