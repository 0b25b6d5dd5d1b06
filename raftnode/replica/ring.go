package replica

import (
	"slices"

	"go.etcd.io/raft/v3/raftpb"
)

// ring holds the newest entries of the log that are durable here, so that applying and replicating them reads no file. With
// asynchronous storage writes raft applies stable entries only and asks its storage for them, so without the ring every
// entry would be read back from disk.
//
// Invariant: entries are contiguous and end at the last durable index.
type ring struct {
	entries []*raftpb.Entry
	bytes   int
	// maxBytes is what applied entries are kept up to. Those that are not applied may take as much again; beyond that an applier that
	// lags reads from disk, because nothing else holds the leader back: appends are acknowledged before they are applied.
	maxBytes int
}

func (r *ring) first() uint64 {
	if len(r.entries) == 0 {
		return 0
	}
	return r.entries[0].GetIndex()
}

// append adds durable entries, replacing those at and above the first of them.
func (r *ring) append(entries []*raftpb.Entry) {
	if len(entries) == 0 {
		return
	}
	from := entries[0].GetIndex()
	switch first := r.first(); {
	case len(r.entries) == 0:
	case from <= first:
		r.reset()
	case from < first+uint64(len(r.entries)):
		r.cut(int(from - first))
	case from > first+uint64(len(r.entries)):
		// A gap: what is held is no longer the end of the log.
		r.reset()
	}
	for _, e := range entries {
		r.entries = append(r.entries, e)
		r.bytes += entryBytes(e)
	}
}

// cut drops the entries from position n on.
func (r *ring) cut(n int) {
	for i := n; i < len(r.entries); i++ {
		r.bytes -= entryBytes(r.entries[i])
		r.entries[i] = nil
	}
	r.entries = r.entries[:n]
}

// evict drops the oldest entries while the ring is over its bound: applied ones first, then any.
func (r *ring) evict(applied uint64) {
	n := 0
	for n < len(r.entries) && (r.bytes > 2*r.maxBytes || r.bytes > r.maxBytes && r.entries[n].GetIndex() <= applied) {
		r.bytes -= entryBytes(r.entries[n])
		r.entries[n] = nil
		n++
	}
	if n > 0 {
		r.entries = r.entries[n:]
	}
}

func (r *ring) reset() {
	r.entries, r.bytes = nil, 0
}

// get returns the entries of [lo, hi) up to maxBytes, at least one, or false if the ring does not hold lo.
func (r *ring) get(lo, hi, maxBytes uint64) ([]*raftpb.Entry, bool) {
	first := r.first()
	if first == 0 || lo < first || hi > first+uint64(len(r.entries)) || lo >= hi {
		return nil, false
	}
	from := int(lo - first)
	to := from
	var size uint64
	for to < int(hi-first) {
		size += uint64(entryBytes(r.entries[to]))
		if to > from && size > maxBytes {
			break
		}
		to++
	}
	// A copy: raft and the applier hold the slice beyond the next eviction.
	return slices.Clone(r.entries[from:to]), true
}

func (r *ring) term(i uint64) (uint64, bool) {
	first := r.first()
	if first == 0 || i < first || i >= first+uint64(len(r.entries)) {
		return 0, false
	}
	return r.entries[i-first].GetTerm(), true
}

// entryBytes is the size of an entry in memory and, near enough, on the wire.
func entryBytes(e *raftpb.Entry) int { return len(e.GetData()) + 32 }
