package raftkv

import (
	"crypto/rand"
	"sync"
)

// sessions gives writes the identity under which the cluster applies them at most once.
type sessions struct {
	// mu guards current, and the list inside every session.
	mu      sync.Mutex
	current *session
}

// session is one client id and the writes under it that are not answered yet, by ascending sequence.
type session struct {
	clientID       []byte
	sequence       uint64
	oldest, newest *op
}

// begin gives o its identity for all its attempts.
//
// Invariant: acked_below never passes a write that is under way, so the cluster keeps the result of every write that
// may still be retried.
func (s *sessions) begin(o *op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		s.current = &session{clientID: make([]byte, 16)}
		_, _ = rand.Read(s.current.clientID) // never fails
	}
	n := s.current
	n.sequence++
	o.session, o.older, o.newer = n, n.newest, nil
	if n.newest == nil {
		n.oldest = o
	} else {
		n.newest.newer = o
	}
	n.newest = o
	o.id.ClientId, o.id.Sequence, o.id.Seen = n.clientID, n.sequence, 0
	o.id.AckedBelow = n.oldest.id.Sequence
}

// end takes o, which has been answered or given up, from its session.
//
// If the client lost track of an attempt of o, a copy of it may still reach the cluster, at any later time, and must
// find the result there. So no later write may let the cluster forget it: the session ends, and the next write
// begins another with a new client id.
func (s *sessions) end(o *op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := o.session
	if o.older == nil {
		n.oldest = o.newer
	} else {
		o.older.newer = o.newer
	}
	if o.newer == nil {
		n.newest = o.older
	} else {
		o.newer.older = o.older
	}
	o.session, o.older, o.newer = nil, nil, nil
	if o.lost && s.current == n {
		s.current = nil
	}
}
