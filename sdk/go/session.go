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

// sessionWindow is how many writes of a session may follow one that is not answered: the cluster keeps the results of all of them, and bounds them
// (4,096). A session with so many goes on with those that it has, and the next write begins another.
const sessionWindow = 1024

// begin gives o its identity for all its attempts.
//
// Invariant: acked_below never passes a write that is under way, so the cluster keeps the result of every write that
// may still be retried.
func (s *sessions) begin(o *op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil || s.current.oldest != nil && s.current.sequence-s.current.oldest.id.Sequence >= sessionWindow {
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

// end takes o, which has been answered or given up, from its session. A copy of an attempt that the client lost track of may still reach the cluster,
// at any later time: it finds its result there, or is refused because it is acknowledged.
func (s *sessions) end(o *op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.place != nil {
		o.leave(o.place)
		return
	}
	o.out()
}

// out takes o out of its session. The caller holds the lock.
func (o *op) out() {
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
}
