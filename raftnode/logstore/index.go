package logstore

import "slices"

// ref is where an entry's record lies in its segment: 8 bytes an entry, which the garbage collector need not look at.
type ref struct{ off, bytes uint32 }

// end is the offset behind the record.
func (r ref) end() int64 { return int64(r.off) + recordHeaderBytes + int64(r.bytes) }

// run is what consecutive entries share.
type run struct {
	first   uint64
	term    uint64
	segment uint32
}

// index knows where the entries of a shard are. Entries are contiguous. Putting at the end, cutting the end and truncating the
// front are amortised O(1) per entry.
type index struct {
	first uint64 // index of refs[0], when there is one
	refs  []ref
	// runs covers refs without a gap.
	runs []run
	// waste is how many slots before refs[0] the array still has.
	waste int
}

// last is the index of the last entry, first-1 if there is none.
func (x *index) last() uint64 { return x.first + uint64(len(x.refs)) - 1 }

// put adds an entry in place of all at and above it. It follows the one before, if there is any.
func (x *index) put(i, term uint64, segment uint32, r ref) {
	x.cut(i - 1)
	if len(x.refs) == 0 {
		x.first = i
	}
	x.refs = append(x.refs, r)
	if n := len(x.runs); n == 0 || x.runs[n-1].term != term || x.runs[n-1].segment != segment {
		x.runs = append(x.runs, run{first: i, term: term, segment: segment})
	}
}

// cut drops the entries above last.
func (x *index) cut(last uint64) {
	if len(x.refs) == 0 || last >= x.last() {
		return
	}
	if last < x.first {
		x.clear()
		return
	}
	x.refs = x.refs[:last-x.first+1]
	for x.runs[len(x.runs)-1].first > last {
		x.runs = x.runs[:len(x.runs)-1]
	}
}

// truncate drops the entries up to through.
func (x *index) truncate(through uint64) {
	if len(x.refs) == 0 || through < x.first {
		return
	}
	if through >= x.last() {
		x.clear()
		return
	}
	n := int(through - x.first + 1)
	r := x.runAt(through + 1)
	x.runs = x.runs[r:]
	x.runs[0].first = through + 1
	x.first, x.refs, x.waste = through+1, x.refs[n:], x.waste+n
	if x.waste > len(x.refs)+1024 {
		x.refs, x.runs, x.waste = slices.Clone(x.refs), slices.Clone(x.runs), 0
	}
}

// clear drops everything, memory included.
func (x *index) clear() { *x = index{} }

// runAt is the position of the run that holds entry i, which exists.
func (x *index) runAt(i uint64) int {
	n, found := slices.BinarySearchFunc(x.runs, i, func(r run, i uint64) int {
		switch {
		case r.first < i:
			return -1
		case r.first > i:
			return 1
		}
		return 0
	})
	if !found {
		n--
	}
	return n
}

// at returns entry i, which exists.
func (x *index) at(i uint64) (run, ref) { return x.runs[x.runAt(i)], x.refs[i-x.first] }

// holds says whether entry i is the one at that place.
func (x *index) holds(i uint64, segment uint32, off int64) bool {
	if len(x.refs) == 0 || i < x.first || i > x.last() {
		return false
	}
	u, r := x.at(i)
	return u.segment == segment && int64(r.off) == off
}

// bytes is the size of all records, or some value above limit.
func (x *index) bytes(limit int64) int64 {
	var n int64
	for _, r := range x.refs {
		if n += recordHeaderBytes + int64(r.bytes); n > limit {
			break
		}
	}
	return n
}
