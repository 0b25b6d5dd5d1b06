package nodetest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/state"
)

// CheckWatches says whether every watch is the contiguous slice of the history of its shards that its filter leaves (R22). The history is put together
// of what disks still hold of it, of acknowledged writes, and of what those were told who watch everything; they must agree.
//
// Who watches everything misses no revision, because each changes something. Who watches some keys, or puts or deletes only, is told of all such changes
// that are known, and of no other. What a watch has said to be complete as of a time has all that was acknowledged by then. What it says of versions, and of what
// a change has replaced, is what it has said of the key before, and of what is left out of a watch, what is known of the revision that it names. Who is refused
// because history is gone asks for some that is.
func CheckWatches(h *History, watches []*Watch, disks map[placement.NodeID]Disk) error {
	l := ledger{revisions: make(map[ledgerKey][]Watched), floors: make(map[placement.ShardID]uint64)}
	var errs []error
	for node, disk := range disks {
		if err := l.addDisk(disk); err != nil {
			errs = append(errs, fmt.Errorf("history of %s: %w", node, err))
		}
	}
	for _, op := range h.Operations {
		if op.Kind == Write && op.Outcome == Done && op.Changed() {
			errs = append(errs, l.add(op.Shard, op.Revision, op.changes(), op.String()))
		}
	}
	for _, w := range watches {
		if w.All {
			errs = append(errs, l.addWatch(w))
		}
	}
	acknowledged := acknowledgedByTime(h)
	for _, w := range watches {
		errs = append(errs, l.check(w), checkMarks(acknowledged, w), l.checkReplaced(w))
		if len(disks) > 0 {
			errs = append(errs, l.checkForgotten(w))
		}
	}
	return errors.Join(errs...)
}

// ledger is what is known of the histories. floors are the revisions with which they begin in the end.
type ledger struct {
	revisions map[ledgerKey][]Watched
	floors    map[placement.ShardID]uint64
}

type ledgerKey struct {
	shard    placement.ShardID
	revision uint64
}

// add notes what a revision has changed. What is said about it elsewhere must be the same.
func (l *ledger) add(shard placement.ShardID, revision uint64, changes []Watched, who string) error {
	at := ledgerKey{shard, revision}
	slices.SortFunc(changes, func(a, b Watched) int { return cmp.Compare(a.Key, b.Key) })
	if was, ok := l.revisions[at]; ok && !slices.Equal(was, changes) {
		return fmt.Errorf("revision %d of shard %d: %s says %+v, others %+v", revision, shard, who, changes, was)
	}
	l.revisions[at] = changes
	return nil
}

// changes are those of an acknowledged write.
func (o *Operation) changes() []Watched {
	var out []Watched
	for i, c := range o.Changes {
		if !c.Delete || o.Cells[i].Existed {
			out = append(out, Watched{Revision: o.Revision, Key: key(o.Group, c.Key), Value: c.Value, Deleted: c.Delete})
		}
	}
	return out
}

// addDisk notes the history that a disk holds.
func (l *ledger) addDisk(disk Disk) error {
	return disk.eachShard(func(v *state.View, shard placement.ShardID) error {
		at, err := v.Position(shard)
		if err != nil {
			return err
		}
		l.floors[shard] = max(l.floors[shard], at.HistoryFloor)
		return eachPart(v, shard, state.WantAfter, func(p *state.Part) error {
			return l.add(shard, p.Revision, partChanges(p), "a disk")
		})
	})
}

func partChanges(p *state.Part) []Watched {
	var out []Watched
	for _, c := range p.Changes {
		out = append(out, Watched{Revision: p.Revision, Key: c.Key, Value: unpad(c.After.GetValue()), Deleted: c.Deleted})
	}
	return out
}

// addWatch notes what somebody was told who watches everything.
func (l *ledger) addWatch(w *Watch) error {
	var errs []error
	for _, p := range w.Shards {
		for revision, events := range p.byRevision() {
			errs = append(errs, l.add(p.Shard, revision, events, w.Name))
		}
		next := p.From + 1
		for _, e := range p.Seen {
			if e.Initial || e.Revision < next {
				continue
			}
			if e.Revision > next {
				errs = append(errs, fmt.Errorf("%s is not told of revision %d of shard %d, but of %d", w.Name, next, p.Shard, e.Revision))
			}
			next = e.Revision + 1
		}
		if next <= p.Complete {
			errs = append(errs, fmt.Errorf("%s is not told of revision %d of shard %d, which is said to be complete to %d", w.Name, next, p.Shard, p.Complete))
		}
	}
	return errors.Join(errs...)
}

// byRevision are the events that are not of the start, without what they say of the life of their keys. Those of a revision that goes on are not all there.
func (p *WatchedShard) byRevision() map[uint64][]Watched {
	out := make(map[uint64][]Watched)
	for _, e := range p.Seen {
		if !e.Initial && e.Revision <= p.Complete {
			e.Version, e.Before = 0, Cell{}
			out[e.Revision] = append(out[e.Revision], e)
		}
	}
	return out
}

// Elsewhere returns the revisions that have changed no key of a group, as those were told who watch everything. CheckWatches compares them with what else is known.
func Elsewhere(watches []*Watch) map[placement.ShardID][]uint64 {
	out := make(map[placement.ShardID][]uint64)
	for _, w := range watches {
		if !w.All {
			continue
		}
		for _, p := range w.Shards {
			for revision, events := range p.byRevision() {
				if !slices.ContainsFunc(events, func(e Watched) bool { return strings.HasPrefix(e.Key, groupsPrefix) }) {
					out[p.Shard] = append(out[p.Shard], revision)
				}
			}
		}
	}
	return out
}

// tells says whether a watch is to tell of a change.
func (w *Watch) tells(c Watched) bool {
	return w.Covers(c.Key) && !(c.Deleted && w.NoDeletes) && !(!c.Deleted && w.NoPuts)
}

// check compares what a watch was told with the ledger.
func (l *ledger) check(w *Watch) error {
	for _, p := range w.Shards {
		told := p.byRevision()
		for revision := p.From + 1; revision <= p.Complete; revision++ {
			known, ok := l.revisions[ledgerKey{p.Shard, revision}]
			if !ok {
				continue
			}
			var want []Watched
			for _, c := range known {
				if w.tells(c) {
					want = append(want, c)
				}
			}
			got := told[revision]
			slices.SortFunc(got, func(a, b Watched) int { return cmp.Compare(a.Key, b.Key) })
			if !slices.Equal(got, want) {
				return fmt.Errorf("%s: of revision %d of shard %d it is told %+v, which was %+v", w.Name, revision, p.Shard, got, want)
			}
		}
	}
	return nil
}

// checkMarks compares what a watch has said of its freshness with what was acknowledged by then.
func checkMarks(acknowledged map[placement.ShardID]acknowledgements, w *Watch) error {
	for _, m := range w.Marks {
		if missed := acknowledged[m.Shard].until(m.AsOf); missed > m.Revision {
			return fmt.Errorf("%s says at revision %d that shard %d had no more at %s, when revision %d was acknowledged", w.Name, m.Revision, m.Shard, m.AsOf, missed)
		}
	}
	return nil
}

// checkReplaced compares what a watch says that a change has found with what it has said of the key before. Who was told the keys of the start knows all of them.
func (l *ledger) checkReplaced(w *Watch) error {
	for _, p := range w.Shards {
		keys := make(map[string]Watched)
		for _, e := range p.Seen {
			was, known := keys[e.Key]
			keys[e.Key] = e
			if e.Initial {
				continue
			}
			if w.NoPuts {
				if err := l.checkFound(w, p, was, known, e); err != nil {
					return err
				}
				continue
			}
			if !known && !w.Initial {
				continue
			}
			found := Cell{}
			// A key that begins anew was removed before, which may be left out.
			anew := w.NoDeletes && e.Version == 1
			if known && !was.Deleted && !anew {
				found = was.cell()
			}
			switch {
			case known && anew && !l.mayBeDeleted(p.Shard, e.Key, was.Revision, e.Revision):
				return fmt.Errorf("%s is told that revision %d of shard %d begins %s anew, which is there since revision %d, and nobody has deleted it", w.Name, e.Revision, p.Shard, e.Key, was.Revision)
			case e.Deleted && found.Version == 0:
				return fmt.Errorf("%s is told that revision %d of shard %d deletes %s, which is not there", w.Name, e.Revision, p.Shard, e.Key)
			case !e.Deleted && e.Version != found.Version+1:
				return fmt.Errorf("%s is told of version %d of %s by revision %d of shard %d, and of version %d before", w.Name, e.Version, e.Key, e.Revision, p.Shard, found.Version)
			case w.Before && e.Before != found:
				return fmt.Errorf("%s is told that revision %d of shard %d has found %s as %+v, and before of %+v", w.Name, e.Revision, p.Shard, e.Key, e.Before, found)
			}
		}
	}
	return nil
}

func (e *Watched) cell() Cell { return Cell{Value: e.Value, Version: e.Version, Revision: e.Revision} }

// mayBeDeleted says whether a key may have been deleted between two revisions: one of them has done it, or is not known.
func (l *ledger) mayBeDeleted(shard placement.ShardID, key string, from, to uint64) bool {
	for revision := from + 1; revision < to; revision++ {
		changes, ok := l.revisions[ledgerKey{shard, revision}]
		if !ok || slices.Contains(changes, Watched{Revision: revision, Key: key, Deleted: true}) {
			return true
		}
	}
	return false
}

// checkFound compares what a delete says that it has found, of a watch that is not told of the puts, with what the watch has said of the key last, and with what is
// known of the revision that it names.
func (l *ledger) checkFound(w *Watch, p *WatchedShard, was Watched, known bool, e Watched) error {
	found := e.Before
	if !w.Before {
		return nil
	}
	if found.Version == 0 {
		return fmt.Errorf("%s is told that revision %d of shard %d deletes %s, which is not there", w.Name, e.Revision, p.Shard, e.Key)
	}
	possible := found.Revision < e.Revision
	switch {
	case known && !was.Deleted: // It is still what it was, or was written over.
		possible = possible && (found == was.cell() || found.Revision > was.Revision && found.Version > was.Version)
	case known:
		possible = possible && found.Revision > was.Revision
	case w.Initial: // It was not there at the start.
		possible = possible && found.Revision > p.From
	}
	if changes, ok := l.revisions[ledgerKey{p.Shard, found.Revision}]; ok {
		possible = possible && slices.Contains(changes, Watched{Revision: found.Revision, Key: e.Key, Value: found.Value})
	}
	if !possible {
		return fmt.Errorf("%s is told that revision %d of shard %d has found %s as %+v, and before of %+v", w.Name, e.Revision, p.Shard, e.Key, found, was)
	}
	return nil
}

// checkForgotten says whether what a watch was refused for is forgotten: history begins later, and nowhere earlier in the end.
func (l *ledger) checkForgotten(w *Watch) error {
	for _, f := range w.Forgotten {
		switch floor := l.floors[f.Shard]; {
		case f.Asked >= f.Oldest:
			return fmt.Errorf("%s is told that the history of shard %d begins at revision %d, and what it asks for is %d", w.Name, f.Shard, f.Oldest, f.Asked)
		case f.Oldest > floor:
			return fmt.Errorf("%s is told that the history of shard %d begins at revision %d, and in the end at %d", w.Name, f.Shard, f.Oldest, floor)
		}
	}
	return nil
}

// CheckWatchedKeys says whether what watches began with and were told since makes what every node shows in the end. Who was not told the keys of the start knows
// those that have changed since, who is told of no deletes, that a key has its last value if it is there, and who is told of no puts, nothing.
func CheckWatchedKeys(watches []*Watch, final []*Operation) error {
	for _, w := range watches {
		if w.NoPuts {
			continue
		}
		keys := make(map[string]string)
		shards := make(map[placement.ShardID]bool)
		for _, p := range w.Shards {
			shards[p.Shard] = true
			for _, e := range p.Seen {
				keys[e.Key] = e.Value // none of one that is deleted
			}
		}
		for _, op := range final {
			for i, c := range op.Cells {
				k := key(op.Group, op.From+i)
				value, known := keys[k]
				if !shards[op.Shard] || !w.Covers(k) || !known && !w.Initial || w.NoDeletes && c.Version == 0 {
					continue
				}
				if value != c.Value {
					return fmt.Errorf("%s makes %s %q of what it was told, a node shows %q", w.Name, k, value, c.Value)
				}
			}
		}
	}
	return nil
}
