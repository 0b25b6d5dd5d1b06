package logstore

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftkv/raftkv/raftnode/placement"
)

const (
	// readGapBytes is how much of other shards' records is read rather than reading twice.
	readGapBytes = 2 * blockBytes
	// readChunkBytes bounds one read, unless a single entry is larger.
	readChunkBytes = 1 << 20
)

// Shards returns the shards that have a log, in ascending order.
func (l *Log) Shards() []placement.ShardID {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.sorted()
	ids := make([]placement.ShardID, len(list))
	for i, s := range list {
		ids[i] = s.id
	}
	return ids
}

// State returns the state of a shard's log, false if there is none.
func (l *Log) State(id placement.ShardID) (State, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.shards[id]
	if s == nil || !s.known {
		return State{}, false
	}
	h := &s.head
	st := State{TruncatedIndex: h.truncated, TruncatedTerm: h.truncatedTerm, LastIndex: h.last}
	if h.hasHard {
		st.HardState = &raftpb.HardState{Term: new(h.hard.term), Vote: new(h.hard.vote), Commit: new(h.hard.commit)}
	}
	if h.intent != nil {
		st.Intent = new(*h.intent)
	}
	return st, true
}

// Term returns the term of entry i, or raft.ErrCompacted or raft.ErrUnavailable. It reads no file.
func (l *Log) Term(id placement.ShardID, i uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.shards[id]
	switch {
	case s == nil || !s.known || i > s.head.last:
		return 0, raft.ErrUnavailable
	case i == s.head.truncated:
		return s.head.truncatedTerm, nil
	case i < s.head.truncated:
		return 0, raft.ErrCompacted
	}
	u, _ := s.index.at(i)
	return u.term, nil
}

// Entries returns the entries of [lo, hi), as many as take up to maxBytes on disk, but at least one. The caller owns them. Errors
// are raft.ErrCompacted and raft.ErrUnavailable, as raft.Storage has them, a *CorruptionError if what is read is damaged, and
// those of the file system.
func (l *Log) Entries(id placement.ShardID, lo, hi, maxBytes uint64) (_ []*raftpb.Entry, err error) {
	reads, n, err := l.locate(id, lo, hi, maxBytes)
	if err != nil || n == 0 {
		return nil, err
	}
	defer func() {
		for _, r := range reads {
			err = errors.Join(err, l.release(r.segment))
		}
	}()
	boxes := make([]entryBox, n)
	entries := make([]*raftpb.Entry, 0, n)
	for _, r := range reads {
		if err := r.read(id, boxes[len(entries):]); err != nil {
			return nil, err
		}
		for range r.wants {
			entries = append(entries, &boxes[len(entries)].entry)
		}
	}
	return entries, nil
}

// entryBox is an entry with room for what it points to: one allocation for many.
type entryBox struct {
	entry       raftpb.Entry
	index, term uint64
	kind        raftpb.EntryType
}

// read is a stretch of a segment with wanted entries in it.
type read struct {
	segment *segment
	off     int64
	bytes   int64
	wants   []want
}

// want is an entry that is looked for.
type want struct {
	ref         ref
	index, term uint64
}

// locate plans the reads for a range, and holds a reference to the segment of each. n is the number of entries.
func (l *Log) locate(id placement.ShardID, lo, hi, maxBytes uint64) (reads []read, n int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.shards[id]
	switch {
	case l.closed:
		return nil, 0, ErrClosed
	case s == nil || !s.known || hi > s.head.last+1:
		return nil, 0, raft.ErrUnavailable
	case lo <= s.head.truncated:
		return nil, 0, raft.ErrCompacted
	case lo >= hi:
		return nil, 0, nil
	}
	wants := make([]want, 0, min(hi-lo, 64))
	var total uint64
	at := s.index.runAt(lo)
	for i := lo; i < hi; i++ {
		if at+1 < len(s.index.runs) && s.index.runs[at+1].first == i {
			at++
		}
		u, r := s.index.runs[at], s.index.refs[i-s.index.first]
		if total += recordHeaderBytes + uint64(r.bytes); i > lo && total > maxBytes {
			break
		}
		wants = append(wants, want{ref: r, index: i, term: u.term})
		if n := len(reads); n == 0 || !reads[n-1].extend(u.segment, r) {
			g := l.segments[u.segment]
			g.refs++
			reads = append(reads, read{segment: g, off: int64(r.off), bytes: r.end() - int64(r.off)})
		}
		last := &reads[len(reads)-1]
		last.wants = wants[len(wants)-len(last.wants)-1:]
	}
	return reads, len(wants), nil
}

// extend makes the read include one more record if that lies close behind.
func (r *read) extend(segment uint32, next ref) bool {
	end := r.off + r.bytes
	if r.segment.number != segment || int64(next.off) < end || int64(next.off) > end+readGapBytes || next.end()-r.off > readChunkBytes {
		return false
	}
	r.bytes = next.end() - r.off
	return true
}

// read reads the wanted entries into boxes and checks them.
func (r *read) read(id placement.ShardID, boxes []entryBox) error {
	buf := make([]byte, r.bytes)
	if _, err := r.segment.file.ReadAt(buf, r.off); err != nil {
		return fmt.Errorf("read %s at offset %d: %w", r.segment.path, r.off, err)
	}
	for i, w := range r.wants {
		b := buf[int64(w.ref.off)-r.off:]
		h, ok := parseRecordHeader(b, r.segment.seed)
		b = b[recordHeaderBytes : recordHeaderBytes+int(w.ref.bytes) : recordHeaderBytes+int(w.ref.bytes)]
		if !ok || h.off != w.ref.off || h.kind != kindEntry || h.shard != id || h.index != w.index || h.term != w.term || h.bytes != w.ref.bytes ||
			h.payloadSum != checksum(r.segment.seed, b) {
			return &CorruptionError{
				Path: r.segment.path, Offset: int64(w.ref.off), Shards: []placement.ShardID{id},
				Reason: fmt.Sprintf("entry %d does not match its checksum", w.index),
			}
		}
		boxes[i].fill(h, b)
	}
	return nil
}

// fill makes the box an entry. Data of length zero is nil.
func (x *entryBox) fill(h recordHeader, data []byte) {
	x.index, x.term, x.kind = h.index, h.term, raftpb.EntryType(h.entryType)
	x.entry.Index, x.entry.Term, x.entry.Type = &x.index, &x.term, &x.kind
	if len(data) > 0 {
		x.entry.Data = data
	}
}
