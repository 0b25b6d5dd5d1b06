package replica

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// Log is what a replica reads of its log on disk: entries that the ring no longer holds.
type Log interface {
	// Entries returns entries of [lo, hi) up to maxBytes, at least one; raft.ErrCompacted or raft.ErrUnavailable as raft.Storage does.
	Entries(lo, hi, maxBytes uint64) ([]*raftpb.Entry, error)
	// Term returns the term of an entry, raft.ErrCompacted or raft.ErrUnavailable.
	Term(index uint64) (uint64, error)
}

// storage is the raft.Storage of a replica. It shows exactly the appends that are reported done: the log itself may be one
// append ahead, which raft must not see before the append's responses (see newStorageAppendRespMsg in raft).
type storage struct {
	log       Log
	ring      ring
	hardState *raftpb.HardState
	confState *raftpb.ConfState

	// truncated is the index before the first entry, and its term.
	truncated     uint64
	truncatedTerm uint64
	last          uint64
	// applied is the position of the state machine; snapshots are made from it on demand.
	applied, appliedTerm uint64
	// failure is the first error of the log; the replica must stop (R6, R15).
	failure error
}

var _ raft.Storage = (*storage)(nil)

func (s *storage) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return s.hardState, s.confState, nil
}

func (s *storage) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	if lo <= s.truncated {
		return nil, raft.ErrCompacted
	}
	if hi > s.last+1 {
		return nil, raft.ErrUnavailable
	}
	if es, ok := s.ring.get(lo, hi, maxSize); ok {
		return es, nil
	}
	es, err := s.log.Entries(lo, hi, maxSize)
	return es, s.check(err)
}

func (s *storage) Term(i uint64) (uint64, error) {
	switch {
	case i == s.truncated:
		return s.truncatedTerm, nil
	case i < s.truncated:
		return 0, raft.ErrCompacted
	case i > s.last:
		return 0, raft.ErrUnavailable
	}
	if t, ok := s.ring.term(i); ok {
		return t, nil
	}
	t, err := s.log.Term(i)
	return t, s.check(err)
}

// check remembers an error that is not part of raft's protocol.
func (s *storage) check(err error) error {
	if err != nil && err != raft.ErrCompacted && err != raft.ErrUnavailable && s.failure == nil { //nolint:errorlint // raft compares with ==
		s.failure = err
	}
	return err
}

func (s *storage) LastIndex() (uint64, error)  { return s.last, nil }
func (s *storage) FirstIndex() (uint64, error) { return s.truncated + 1, nil }

// Snapshot describes the state as it is applied now. The image is made when it is sent, from a state that is the same or newer.
func (s *storage) Snapshot() (*raftpb.Snapshot, error) {
	if s.applied == 0 {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		ConfState: s.confState,
		Index:     new(s.applied),
		Term:      new(s.appliedTerm),
	}}, nil
}

// appended takes over entries that have become durable.
func (s *storage) appended(entries []*raftpb.Entry) {
	if len(entries) == 0 {
		return
	}
	s.ring.append(entries)
	s.last = entries[len(entries)-1].GetIndex()
	s.ring.evict(s.applied)
}

// installed takes over a snapshot that has become durable: the log is empty behind it.
func (s *storage) installed(meta *raftpb.SnapshotMetadata) {
	s.ring.reset()
	s.truncated, s.truncatedTerm = meta.GetIndex(), meta.GetTerm()
	s.last = meta.GetIndex()
	s.applied, s.appliedTerm = meta.GetIndex(), meta.GetTerm()
	s.confState = meta.GetConfState()
}

// truncate forgets the entries up to index. They must be applied and flushed.
func (s *storage) truncate(index uint64) error {
	if index <= s.truncated {
		return nil
	}
	term, err := s.Term(index)
	if err != nil {
		return err
	}
	s.truncated, s.truncatedTerm = index, term
	if first := s.ring.first(); first != 0 && index >= first {
		n := min(int(index-first)+1, len(s.ring.entries))
		for i := range n {
			s.ring.bytes -= entryBytes(s.ring.entries[i])
			s.ring.entries[i] = nil
		}
		s.ring.entries = s.ring.entries[n:]
	}
	return nil
}
