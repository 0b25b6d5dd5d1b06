package watch

import "slices"

// index finds the watchers of a key. Those of single keys and of prefixes are found by hashing, whatever their number; those of other ranges
// are asked one by one. The lock of the shard guards it.
type index struct {
	keys, prefixes map[string][]*Watcher
	// lengths are those of the prefixes, ascending, and how many prefixes have each.
	lengths []prefixLength
	ranges  []*Watcher
}

type prefixLength struct{ bytes, prefixes int }

func (x *index) add(w *Watcher) {
	switch f := &w.filter; {
	case f.Key != "":
		if x.keys == nil {
			x.keys = make(map[string][]*Watcher)
		}
		x.keys[f.Key] = append(x.keys[f.Key], w)
	case f.Prefix != "":
		if x.prefixes == nil {
			x.prefixes = make(map[string][]*Watcher)
		}
		if len(x.prefixes[f.Prefix]) == 0 {
			x.count(len(f.Prefix), 1)
		}
		x.prefixes[f.Prefix] = append(x.prefixes[f.Prefix], w)
	default:
		x.ranges = append(x.ranges, w)
	}
}

func (x *index) remove(w *Watcher) {
	switch f := &w.filter; {
	case f.Key != "":
		removeFrom(x.keys, f.Key, w)
	case f.Prefix != "":
		removeFrom(x.prefixes, f.Prefix, w)
		if x.prefixes[f.Prefix] == nil {
			x.count(len(f.Prefix), -1)
		}
	default:
		x.ranges = without(x.ranges, w)
	}
}

func removeFrom(m map[string][]*Watcher, key string, w *Watcher) {
	if m[key] = without(m[key], w); len(m[key]) == 0 {
		delete(m, key)
	}
}

// without removes a watcher; the order does not matter.
func without(ws []*Watcher, w *Watcher) []*Watcher {
	if i := slices.Index(ws, w); i >= 0 {
		last := len(ws) - 1
		ws[i], ws[last] = ws[last], nil
		ws = ws[:last]
	}
	return ws
}

func (x *index) count(bytes, d int) {
	i, found := slices.BinarySearchFunc(x.lengths, bytes, func(l prefixLength, bytes int) int { return l.bytes - bytes })
	if !found {
		x.lengths = slices.Insert(x.lengths, i, prefixLength{bytes: bytes})
	}
	if x.lengths[i].prefixes += d; x.lengths[i].prefixes == 0 {
		x.lengths = slices.Delete(x.lengths, i, i+1)
	}
}

// each calls fn with every watcher whose range covers a key.
func (x *index) each(key string, fn func(*Watcher)) {
	for _, w := range x.keys[key] {
		fn(w)
	}
	for _, l := range x.lengths {
		if l.bytes > len(key) {
			break
		}
		for _, w := range x.prefixes[key[:l.bytes]] {
			fn(w)
		}
	}
	for _, w := range x.ranges {
		if w.filter.Covers(key) {
			fn(w)
		}
	}
}

// all calls fn with every watcher.
func (x *index) all(fn func(*Watcher)) {
	for _, m := range []map[string][]*Watcher{x.keys, x.prefixes} {
		for _, ws := range m {
			for _, w := range ws {
				fn(w)
			}
		}
	}
	for _, w := range x.ranges {
		fn(w)
	}
}
