package state

import (
	"errors"
	"io"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
)

// dedupIndex knows where the kept results of a shard are, and in which order they are forgotten. The results themselves are in Pebble: they
// are read for retries only. It is derived from the stored results and nothing else, so that it is the same on every replica.
//
// Entries live in a slab and hang in two lists, oldest first: one of all, one of each client.
type dedupIndex struct {
	entries []dedupEntry
	free    []int32
	byID    map[dedupID]int32
	clients map[[clientIDLen]byte]ends
	all     ends
}

type dedupEntry struct {
	id       dedupID
	slot     placement.Slot
	ordinal  uint32
	index    uint64
	revision uint64 // of the shard when the request was answered

	older, newer             int32 // of all
	clientOlder, clientNewer int32 // of the same client
}

// ends of a list; none marks the empty one.
type ends struct{ oldest, newest int32 }

const none = int32(-1)

func newDedupIndex() *dedupIndex {
	return &dedupIndex{
		byID:    make(map[dedupID]int32),
		clients: make(map[[clientIDLen]byte]ends),
		all:     ends{none, none},
	}
}

func (d *dedupIndex) len() int { return len(d.byID) }

func (d *dedupIndex) find(id *dedupID) *dedupEntry {
	if i, ok := d.byID[*id]; ok {
		return &d.entries[i]
	}
	return nil
}

// oldest returns the entry that is forgotten first.
func (d *dedupIndex) oldest() *dedupEntry {
	if d.all.oldest == none {
		return nil
	}
	return &d.entries[d.all.oldest]
}

// add appends an entry, which must be newer than all others and not be there yet.
func (d *dedupIndex) add(e dedupEntry) {
	i := int32(len(d.entries))
	if n := len(d.free); n > 0 {
		i, d.free = d.free[n-1], d.free[:n-1]
	} else {
		d.entries = append(d.entries, dedupEntry{})
	}
	c, ok := d.clients[e.id.client]
	if !ok {
		c = ends{none, none}
	}
	e.older, e.newer = d.all.newest, none
	e.clientOlder, e.clientNewer = c.newest, none
	d.entries[i] = e
	if e.older == none {
		d.all.oldest = i
	} else {
		d.entries[e.older].newer = i
	}
	if e.clientOlder == none {
		c.oldest = i
	} else {
		d.entries[e.clientOlder].clientNewer = i
	}
	d.all.newest, c.newest = i, i
	d.clients[e.id.client] = c
	d.byID[e.id] = i
}

func (d *dedupIndex) remove(id dedupID) {
	i, ok := d.byID[id]
	if !ok {
		return
	}
	e := &d.entries[i]
	c := d.clients[id.client]
	if e.older == none {
		d.all.oldest = e.newer
	} else {
		d.entries[e.older].newer = e.newer
	}
	if e.newer == none {
		d.all.newest = e.older
	} else {
		d.entries[e.newer].older = e.older
	}
	if e.clientOlder == none {
		c.oldest = e.clientNewer
	} else {
		d.entries[e.clientOlder].clientNewer = e.clientNewer
	}
	if e.clientNewer == none {
		c.newest = e.clientOlder
	} else {
		d.entries[e.clientNewer].clientOlder = e.clientOlder
	}
	if c.oldest == none {
		delete(d.clients, id.client)
	} else {
		d.clients[id.client] = c
	}
	delete(d.byID, id)
	d.free = append(d.free, i)
}

// ackedWindow is how many of a client's oldest results one request can have forgotten, and ackedLag which part of the results a shard keeps
// must have gone by, in revisions, before an acknowledged one is.
//
// Forgetting raises the floor of a slot, and whoever retries from below it is told that his session has expired. Forgetting at once would
// tell that to every client that is one round trip behind.
const (
	ackedWindow  = 8
	ackedLagPart = 8
)

// acked returns those of the client's oldest results that the client has acknowledged and that are old enough to forget.
func (d *dedupIndex) acked(out []dedupID, client *[clientIDLen]byte, below, revision, lag uint64) []dedupID {
	c, ok := d.clients[*client]
	if !ok || below == 0 {
		return out
	}
	i := c.oldest
	for range ackedWindow {
		if i == none || d.entries[i].revision+lag > revision {
			break
		}
		if d.entries[i].id.sequence < below {
			out = append(out, d.entries[i].id)
		}
		i = d.entries[i].clientNewer
	}
	return out
}

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
		sh.dedup.remove(*id)
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

// remember keeps the answer to a request and forgets what there is no room for.
func (sh *Shard) remember(b *Batch, id *dedupID, slot placement.Slot, ackedBelow uint64, ordinal uint32, r *storev1.WriteResult) error {
	lag := max(1, uint64(sh.store.options.DedupResults/ackedLagPart))
	sh.forgotten = sh.dedup.acked(sh.forgotten[:0], &id.client, ackedBelow, sh.meta.Revision, lag)
	for i := range sh.forgotten {
		if err := sh.forget(b, sh.dedup.find(&sh.forgotten[i])); err != nil {
			return err
		}
	}
	d := &sh.scratch.dedup
	d.ClientId, d.Sequence, d.Slot, d.Result = id.client[:], id.sequence, uint32(slot), r
	index := sh.meta.AppliedIndex
	sh.key = appendDedupKey(sh.key[:0], sh.id, index, ordinal)
	stored, err := b.set(sh.key, d)
	if err != nil {
		return err
	}
	sh.overlay.results = append(sh.overlay.results, keptResult{id: *id, stored: stored})
	sh.dedup.add(dedupEntry{id: *id, slot: slot, index: index, ordinal: ordinal, revision: r.Revision})
	for sh.dedup.len() > sh.store.options.DedupResults {
		if err := sh.forget(b, sh.dedup.oldest()); err != nil {
			return err
		}
	}
	return nil
}

// forget removes a result and raises the floor of its slot above what any attempt of its request can have seen: an attempt of a command that
// made revision r has seen less than r. One that made none may have seen r itself, so the floor is r+1 where the shard is that far; where
// it is not, nobody could pass a floor of r+1.
func (sh *Shard) forget(b *Batch, e *dedupEntry) error {
	sh.key = appendDedupKey(sh.key[:0], sh.id, e.index, e.ordinal)
	if err := b.delete(sh.key); err != nil {
		return err
	}
	if s := sh.touch(e.slot); !planted.Is(planted.FloorStays) { // R23
		s.floor = max(s.floor, min(e.revision+1, sh.meta.Revision))
	}
	sh.dedup.remove(e.id)
	return nil
}
