package state

import (
	"errors"
	"io"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
)

// dedupIndex knows where the kept results of a shard are, whose they are, and in which order they are forgotten. The results themselves are in
// Pebble: they are read for retries only. It is derived from the stored results and nothing else, so that it is the same on every replica.
//
// A session is what is known of a client: its results that it has not acknowledged, and its newest one, which says what it has. Results live
// in a slab and hang in the list of their session, oldest first; sessions hang in one list, the one that was silent for the longest first.
type dedupIndex struct {
	entries  []dedupEntry
	free     []int32
	byID     map[dedupID]int32
	sessions map[[clientIDLen]byte]*session
	silent   *session // for the longest
	latest   *session
	// pinned is how many sessions are not to be forgotten before the shard makes a revision above pinnedAt.
	pinned   int
	pinnedAt uint64
}

type session struct {
	client [clientIDLen]byte
	// acked: the client has the answers below it.
	acked uint64
	// floor is the session floor of the shard from when it heard of the client: the client may have been forgotten before.
	floor uint64
	// fenced requests of the client had seen less than this.
	fenced         uint64
	results        int
	oldest, newest int32

	longer, shorter *session // silent
}

type dedupEntry struct {
	id       dedupID
	slot     placement.Slot
	ordinal  uint32
	index    uint64
	revision uint64 // of the shard when the request was answered
	newer    int32  // of the same session
}

const none = int32(-1)

func newDedupIndex() *dedupIndex {
	return &dedupIndex{byID: make(map[dedupID]int32), sessions: make(map[[clientIDLen]byte]*session)}
}

func (d *dedupIndex) len() int { return len(d.byID) }

func (d *dedupIndex) find(id *dedupID) *dedupEntry {
	if i, ok := d.byID[*id]; ok {
		return &d.entries[i]
	}
	return nil
}

// add appends a result, which must be newer than all others and not be there yet. r says what is known of its session.
func (d *dedupIndex) add(e dedupEntry, r *storev1.DedupResult) *session {
	i := int32(len(d.entries))
	if n := len(d.free); n > 0 {
		i, d.free = d.free[n-1], d.free[:n-1]
	} else {
		d.entries = append(d.entries, dedupEntry{})
	}
	e.newer = none
	d.entries[i] = e
	d.byID[e.id] = i
	s := d.sessions[e.id.client]
	if s == nil {
		s = &session{client: e.id.client, floor: r.SessionFloor, oldest: i, newest: i}
		d.sessions[e.id.client] = s
	} else {
		d.entries[s.newest].newer = i
		s.newest = i
		d.unlink(s)
	}
	s.acked, s.fenced = max(s.acked, r.AckedBelow), max(s.fenced, r.FencedBelow)
	s.results++
	if s.longer = d.latest; d.latest != nil {
		d.latest.shorter = s
	} else {
		d.silent = s
	}
	d.latest = s
	return s
}

// unlink takes a session out of the list of sessions.
func (d *dedupIndex) unlink(s *session) {
	if s.longer != nil {
		s.longer.shorter = s.shorter
	} else {
		d.silent = s.shorter
	}
	if s.shorter != nil {
		s.shorter.longer = s.longer
	} else {
		d.latest = s.longer
	}
	s.longer, s.shorter = nil, nil
}

// drop forgets the oldest result of a session that has another one.
func (d *dedupIndex) drop(s *session) {
	i := s.oldest
	s.oldest = d.entries[i].newer
	s.results--
	delete(d.byID, d.entries[i].id)
	d.free = append(d.free, i)
}

// end forgets a session. Its results have been forgotten but for one.
func (d *dedupIndex) end(s *session) {
	d.unlink(s)
	delete(d.byID, d.entries[s.newest].id)
	d.free = append(d.free, s.newest)
	delete(d.sessions, s.client)
}

// ackedWindow is how many acknowledged results one request of their client can have forgotten, so that its work is bounded.
const ackedWindow = 8

var errTwoResults = errors.New("two results for one request")

// readResult reads a stored result, and whose it is.
func readResult(stored []byte) (id dedupID, r *storev1.DedupResult, err error) {
	r = new(storev1.DedupResult)
	if err := decode(r, stored, "dedup result"); err != nil {
		return id, nil, err
	}
	if len(r.ClientId) != clientIDLen || r.Sequence == 0 || r.Slot >= placement.SlotCount || r.Result == nil {
		return id, nil, errors.New("dedup result that is not one of a request")
	}
	copy(id.client[:], r.ClientId)
	id.sequence = r.Sequence
	return id, r, nil
}

// answered returns the stored answer to a request, nil if there is none.
func (sh *Shard) answered(id *dedupID) (*storev1.WriteResult, error) {
	e := sh.dedup.find(id)
	if e == nil {
		return nil, nil
	}
	if planted.Is(planted.DuplicateApplied) { // R23
		return nil, nil
	}
	sh.key = appendDedupKey(sh.key[:0], sh.id, e.index, e.ordinal)
	stored, ok := sh.overlay.result(id)
	if !ok {
		var closer io.Closer
		var err error
		if stored, closer, err = sh.read(); err != nil {
			return nil, err
		}
		defer closer.Close()
	}
	if stored == nil {
		return nil, sh.damage(errMissing)
	}
	var r storev1.DedupResult
	if err := decode(&r, stored, "dedup result"); err != nil {
		return nil, sh.damage(err)
	}
	return r.Result, nil
}

// expired says whether an answer to a request that is not there may have been forgotten: its client has acknowledged it, or was forgotten itself,
// perhaps before it was heard of again. floor is the session floor that tells so, 0 if it is the client.
func (sh *Shard) expired(id *dedupID, seen uint64) (floor uint64, gone bool) {
	if planted.Is(planted.FloorStays) { // R23
		return 0, false
	}
	floor = sh.meta.SessionFloor
	if s := sh.dedup.sessions[id.client]; s != nil {
		if id.sequence < s.acked {
			return 0, true
		}
		floor = s.floor
	}
	// Where the shard has not come to the floor, who has seen all that there is passes: the state is that which the forgotten answer was given in.
	return floor, seen < min(floor, sh.meta.Revision)
}

// full says whether a client must acknowledge answers before it gets more: it has as many as it may, or the shard has, and those of nobody else can go.
// acked is what it acknowledges now.
func (sh *Shard) full(id *dedupID, acked uint64) bool {
	s := sh.dedup.sessions[id.client]
	if s == nil || sh.dedup.entries[s.oldest].id.sequence < max(s.acked, acked) {
		return false
	}
	return s.results >= sh.store.options.SessionResults ||
		sh.dedup.len() >= sh.store.options.DedupResults && sh.dedup.forgettable(s, sh.meta.Revision) == nil
}

// asked looks for the answer to an earlier attempt of a request, and refuses what may have been forgotten or what its client has no room for. It
// returns nil if the request is to be executed.
func (sh *Shard) asked(request *dedupID, id *storev1.RequestId, r *storev1.WriteResult) (*storev1.WriteResult, error) {
	if answer, err := sh.answered(request); err != nil || answer != nil {
		return answer, err
	}
	floor, gone := sh.expired(request, id.Seen)
	switch {
	case gone:
		refuse(r, expired, sh.meta.Revision)
		r.SessionFloor = floor
	case sh.full(request, id.AckedBelow):
		refuse(r, sessionFull, sh.meta.Revision)
	default:
		return nil, nil
	}
	return r, nil
}

// remember keeps the answer to a request and forgets what there is no room for.
func (sh *Shard) remember(b *Batch, id *dedupID, slot placement.Slot, ackedBelow uint64, ordinal uint32, r *storev1.WriteResult) error {
	return sh.rememberFenced(b, id, slot, ackedBelow, 0, ordinal, r)
}

// rememberFenced also notes that requests of the client that had seen less than fencedBelow are fenced.
func (sh *Shard) rememberFenced(b *Batch, id *dedupID, slot placement.Slot, ackedBelow, fencedBelow uint64, ordinal uint32, r *storev1.WriteResult) error {
	index := sh.meta.AppliedIndex
	floor := sh.meta.SessionFloor
	if s := sh.dedup.sessions[id.client]; s != nil {
		ackedBelow, floor, fencedBelow = max(ackedBelow, s.acked), s.floor, max(fencedBelow, s.fenced)
	}
	d := &sh.scratch.dedup
	d.ClientId, d.Sequence, d.Slot, d.Result, d.AckedBelow, d.SessionFloor = id.client[:], id.sequence, uint32(slot), r, ackedBelow, floor
	d.FencedBelow = fencedBelow
	sh.key = appendDedupKey(sh.key[:0], sh.id, index, ordinal)
	stored, err := b.set(sh.key, d)
	if err != nil {
		return err
	}
	sh.overlay.results = append(sh.overlay.results, keptResult{id: *id, stored: stored})
	s := sh.dedup.add(dedupEntry{id: *id, slot: slot, index: index, ordinal: ordinal, revision: r.Revision}, d)
	for range ackedWindow {
		if s.results == 1 || sh.dedup.entries[s.oldest].id.sequence >= s.acked {
			break
		}
		if err := sh.forgetOldest(b, s); err != nil {
			return err
		}
	}
	for sh.dedup.len() > sh.store.options.DedupResults {
		silent := sh.dedup.forgettable(s, sh.meta.Revision)
		if silent == nil {
			break
		}
		if err := sh.forgetSession(b, silent); err != nil {
			return err
		}
	}
	return nil
}

// forgetOldest forgets the oldest result of a session that has another one. What the other says of the session is enough.
func (sh *Shard) forgetOldest(b *Batch, s *session) error {
	e := &sh.dedup.entries[s.oldest]
	sh.key = appendDedupKey(sh.key[:0], sh.id, e.index, e.ordinal)
	sh.dedup.drop(s)
	return b.delete(sh.key)
}

// forgetSession forgets a client, and raises the session floor above what any attempt of its requests can have seen: an attempt of a command that
// made revision r has seen less than r. One that made none may have seen r itself, so the floor is r+1, even if the shard is not that far yet.
func (sh *Shard) forgetSession(b *Batch, s *session) error {
	for s.results > 1 {
		if err := sh.forgetOldest(b, s); err != nil {
			return err
		}
	}
	e := &sh.dedup.entries[s.newest]
	sh.meta.SessionFloor = max(sh.meta.SessionFloor, e.revision+1)
	sh.key = appendDedupKey(sh.key[:0], sh.id, e.index, e.ordinal)
	sh.dedup.end(s)
	return b.delete(sh.key)
}
