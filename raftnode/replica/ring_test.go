package replica

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"
)

// The ring is the end of a log: what it returns is what the log holds, and what is not applied stays within its bound.
func TestRing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := ring{maxBytes: rapid.IntRange(0, 400).Draw(t, "max bytes")}
		model := map[uint64]uint64{} // index → term
		last, applied, term := uint64(5), uint64(5), uint64(1)
		gone := uint64(5) // what the bound has taken comes from disk
		const size = 52   // of an entry
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0: // Append, perhaps over a suffix that is not applied.
				from := rapid.Uint64Range(applied+1, last+1).Draw(t, "from")
				term++
				var es []*raftpb.Entry
				for range rapid.IntRange(1, 5).Draw(t, "entries") {
					last = from + uint64(len(es))
					es = append(es, &raftpb.Entry{Index: new(last), Term: new(term), Data: make([]byte, 20)})
				}
				for i := range model {
					if i >= from {
						delete(model, i)
					}
				}
				for _, e := range es {
					model[e.GetIndex()] = e.GetTerm()
				}
				r.append(es)
				r.evict(applied)
				if r.bytes > 2*r.maxBytes {
					t.Fatalf("%d bytes held, at most %d may be", r.bytes, 2*r.maxBytes)
				}
				kept := r.first()
				if kept == 0 {
					kept = last + 1
				}
				if kept > max(gone, applied)+1 && r.bytes+size <= 2*r.maxBytes {
					t.Fatalf("entry %d has gone with %d bytes held, %d may be", kept-1, r.bytes, 2*r.maxBytes)
				}
				gone = kept - 1
			case 1:
				applied = rapid.Uint64Range(applied, last).Draw(t, "applied")
				r.evict(applied)
			case 2:
				if last == applied {
					continue
				}
				es, ok := r.get(applied+1, last+1, 1<<30)
				if !ok && gone > applied {
					continue
				}
				if !ok || len(es) != int(last-applied) {
					t.Fatalf("entries %d to %d are gone before they were applied", applied+1, last)
				}
				for i, e := range es {
					if e.GetIndex() != applied+1+uint64(i) || e.GetTerm() != model[e.GetIndex()] {
						t.Fatalf("entry %d has index %d, term %d", applied+1+uint64(i), e.GetIndex(), e.GetTerm())
					}
				}
			}
			bytes := 0
			for _, e := range r.entries {
				bytes += entryBytes(e)
			}
			if bytes != r.bytes {
				t.Fatalf("%d bytes counted, %d held", r.bytes, bytes)
			}
		}
	})
}
