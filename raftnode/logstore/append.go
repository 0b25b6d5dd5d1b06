package logstore

import (
	"fmt"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftkv/raftkv/raftnode/failpoint"
	"github.com/raftkv/raftkv/raftnode/planted"
)

// Append writes all updates at once and, if sync is set, returns when they and everything before them are on disk. Without sync a
// crash may lose them, the last ones first. The first error is final: it and all later calls return it (R6).
func (l *Log) Append(us []Update, sync bool) error {
	if l.failure != nil {
		return l.failure
	}
	if err := l.append(us, sync && !l.o.NoSync); err != nil {
		l.failure = fmt.Errorf("%w: %w", ErrFailed, err)
	}
	return l.failure
}

// Reclaim gives back the space of what has been truncated, as far as that pays: segments go only when a new one is started, so it starts one if that lets
// go of more than one. Its errors are final, too.
func (l *Log) Reclaim() error {
	if l.failure != nil {
		return l.failure
	}
	if _, keep := l.plan(); len(l.segments)-len(keep) < 2 {
		return nil
	}
	if err := l.rotate(); err != nil {
		l.failure = fmt.Errorf("%w: start a new segment: %w", ErrFailed, err)
	}
	return l.failure
}

func (l *Log) append(us []Update, sync bool) error {
	bytes, err := l.batchBytes(us)
	if err != nil {
		return err
	}
	if l.off > l.opened && l.off+bytes > l.o.SegmentBytes {
		if err := l.rotate(); err != nil {
			return fmt.Errorf("start a new segment: %w", err)
		}
	}
	l.batch.begin(l.active.seed, l.seq+1, l.off, nil)
	for i := range us {
		if err := l.stage(&us[i]); err != nil {
			return fmt.Errorf("shard %d: %w", us[i].Shard, err)
		}
	}
	base, began := l.off, time.Now()
	if l.batch.records > 0 {
		if err := l.write(); err != nil {
			return err
		}
	}
	written := time.Now()
	l.unsynced += int(l.off - base)
	if sync {
		if err := l.sync(); err != nil {
			return err
		}
	}
	l.mu.Lock()
	l.batch.publish(l.active)
	l.active.end = l.off
	l.metrics.Appends++
	l.mu.Unlock()
	if !sync {
		return nil
	}
	if l.o.Observe != nil {
		l.o.Observe(SyncStats{Bytes: l.unsynced, Records: int(l.batch.records), Write: written.Sub(began), Sync: time.Since(written)})
	}
	l.unsynced = 0
	return nil
}

// batchBytes is about what a batch of these updates takes, and rather more than less.
func (l *Log) batchBytes(us []Update) (int64, error) {
	n := int64(batchHeaderBytes)
	for i := range us {
		u := &us[i]
		n += 2 * (recordHeaderBytes + stateBytes + intentBytes)
		if u.Intent != nil {
			n += int64(len(u.Intent.Dir))
		} else if s := l.shards[u.Shard]; s != nil && s.head.intent != nil {
			n += int64(len(s.head.intent.Dir))
		}
		for _, e := range u.Entries {
			n += recordHeaderBytes + int64(len(e.GetData()))
		}
	}
	if n > batchBytesMax {
		return 0, fmt.Errorf("%w: a batch of %d bytes, at most %d fit", errInvalid, n, batchBytesMax)
	}
	return align(n), nil
}

// write writes the batch.
func (l *Log) write() error {
	b := l.batch.finish(l.synced)
	failpoint.Hit(failpoint.LogBeforeWrite)
	if _, err := l.active.file.WriteAt(b, l.off); err != nil {
		return fmt.Errorf("write %s: %w", l.active.path, err)
	}
	failpoint.Hit(failpoint.LogAfterWrite)
	l.off += int64(len(b))
	l.seq, l.marked = l.batch.seq, l.batch.records == 0
	l.mu.Lock()
	defer l.mu.Unlock()
	l.metrics.BytesWritten += int64(len(b))
	return nil
}

// sync makes everything written durable. All of it is in the active segment.
func (l *Log) sync() error {
	if l.synced == l.seq {
		return nil
	}
	failpoint.Hit(failpoint.LogBeforeSync)
	if err := l.syncFile(); err != nil {
		return fmt.Errorf("sync %s: %w", l.active.path, err)
	}
	failpoint.Hit(failpoint.LogAfterSync)
	l.synced = l.seq
	l.mu.Lock()
	defer l.mu.Unlock()
	l.metrics.Syncs++
	return nil
}

func (l *Log) syncFile() error {
	if planted.Is(planted.LogNotSynced) {
		return nil // R3
	}
	err := l.active.file.SyncData()
	if err != nil && planted.Is(planted.SyncRetried) {
		return l.active.file.SyncData() // R6
	}
	return err
}

// stage adds an update to the batch.
func (l *Log) stage(u *Update) error {
	s := l.shard(u.Shard)
	if s.stagedSeq != l.batch.seq {
		s.staged, s.stagedSeq = s.head, l.batch.seq
	}
	h := &s.staged
	changed := false // whether h has something that no record says yet
	if u.Reset != nil {
		if err := h.reset(u); err != nil {
			return err
		}
		l.batch.state(s, *h)
	} else {
		changed = h.update(u)
	}
	if u.Intent != nil && len(u.Intent.Dir) > intentDirBytesMax {
		return fmt.Errorf("%w: the directory of an intent is %d bytes long, at most %d fit", errInvalid, len(u.Intent.Dir), intentDirBytesMax)
	}
	if err := h.follow(u.Entries); err != nil {
		return err
	}
	for _, e := range u.Entries {
		l.batch.entry(s, e)
	}
	if u.Truncate > h.truncated {
		if u.Truncate > h.last {
			return fmt.Errorf("%w: truncate at %d, but the last entry is %d", errInvalid, u.Truncate, h.last)
		}
		h.truncatedTerm = l.stagedTerm(s, u.Truncate)
		h.truncated, changed = u.Truncate, true
	}
	if changed {
		l.batch.state(s, *h)
	}
	return nil
}

// reset applies the Reset of an update, with its HardState.
func (h *head) reset(u *Update) error {
	if u.Intent != nil {
		return fmt.Errorf("%w: an intent together with the reset that ends it", errInvalid)
	}
	h.truncated, h.truncatedTerm, h.last = u.Reset.Index, u.Reset.Term, u.Reset.Index
	h.intent = nil
	if u.HardState != nil {
		h.damaged = false
	}
	h.update(u)
	return nil
}

// update applies HardState and Intent of an update. It says whether there were any.
func (h *head) update(u *Update) bool {
	if u.HardState != nil {
		h.hasHard = true
		h.hard = hardState{term: u.HardState.GetTerm(), vote: u.HardState.GetVote(), commit: u.HardState.GetCommit()}
	}
	if u.Intent != nil {
		h.intent = new(*u.Intent)
	}
	return u.HardState != nil || u.Intent != nil
}

// follow checks that the entries fit the log and moves its end.
func (h *head) follow(entries []*raftpb.Entry) error {
	for i, e := range entries {
		index := e.GetIndex()
		if i == 0 && (index <= h.truncated || index > h.last+1) {
			return fmt.Errorf("%w: entries start at %d, but the log has %d to %d", errInvalid, index, h.truncated+1, h.last)
		}
		if i > 0 && index != h.last+1 {
			return fmt.Errorf("%w: entry %d is followed by entry %d", errInvalid, h.last, index)
		}
		h.last = index
	}
	return nil
}

// stagedTerm is the term of entry i, which is behind what is truncated and may be part of the batch itself.
func (l *Log) stagedTerm(s *shardLog, i uint64) uint64 {
	for n := len(l.batch.ops) - 1; n >= 0; n-- {
		if o := &l.batch.ops[n]; o.shard == s && o.head < 0 && o.index == i {
			return o.term
		}
	}
	u, _ := s.index.at(i)
	return u.term
}
