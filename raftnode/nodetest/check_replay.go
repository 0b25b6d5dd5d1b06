package nodetest

import (
	"fmt"
	"slices"
	"sort"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// CheckReplay replays the acknowledged writes of each shard by their revisions and compares every answer with the state at the revision that it
// names: what reads showed, what versions writes made, which conditions held. Times play no part, so one pass checks the whole history.
//
// A revision that nobody knows of may be a write of unknown outcome. Where one lies between a write and the state in question, a key may be
// as an unknown write has left it, and its version is not known.
func CheckReplay(h *History) error {
	shards := make(map[placement.ShardID]*replay)
	shard := func(id placement.ShardID) *replay {
		if shards[id] == nil {
			shards[id] = &replay{keys: make(map[place][]replayed), known: make(map[uint64]bool)}
		}
		return shards[id]
	}
	unknown := make(map[place]map[string]bool)
	for _, op := range h.Operations {
		switch {
		case op.Kind == Write && op.Outcome == Unknown:
			for _, c := range op.possible() {
				at := place{op.Group, c.Key}
				if unknown[at] == nil {
					unknown[at] = make(map[string]bool)
				}
				unknown[at][c.Value] = true
			}
		case op.Kind == Write && op.Changed():
			shard(op.Shard).add(op)
		}
	}
	for id, revisions := range h.Elsewhere {
		for _, revision := range revisions {
			shard(id).know(revision)
		}
	}
	for _, r := range shards {
		r.sort()
	}
	for _, op := range slices.Concat(h.Operations, h.Stale) {
		if op.Outcome == Unknown || op.Origin == 0 {
			continue
		}
		if err := shard(op.Shard).check(op, unknown); err != nil {
			return err
		}
	}
	return nil
}

// place is a key of a group.
type place struct{ group, key int }

// replayed is a key as an acknowledged write has left it.
type replayed struct {
	revision uint64
	cell     Cell
}

// replay is the acknowledged writes of a shard.
type replay struct {
	keys map[place][]replayed
	// known are the revisions of acknowledged writes, sorted their list.
	known  map[uint64]bool
	sorted []uint64
}

// know notes that it is known what a revision has changed.
func (r *replay) know(revision uint64) {
	if !r.known[revision] {
		r.known[revision] = true
		r.sorted = append(r.sorted, revision)
	}
}

func (r *replay) add(op *Operation) {
	r.know(op.Revision)
	for i, c := range op.done() {
		at := place{op.Group, c.Key}
		cell := Cell{Value: c.Value, Version: op.Cells[i].Version}
		if !c.Delete {
			cell.Revision = op.Revision
		}
		r.keys[at] = append(r.keys[at], replayed{op.Revision, cell})
	}
}

func (r *replay) sort() {
	slices.Sort(r.sorted)
	for _, list := range r.keys {
		slices.SortStableFunc(list, func(a, b replayed) int { return int(int64(a.revision) - int64(b.revision)) })
	}
}

// at returns how an acknowledged write of a revision not above the given one has left a key, and whether every later revision up to there is
// known, so that nothing else can have changed it.
func (r *replay) at(key place, revision uint64) (is replayed, exact bool) {
	list := r.keys[key]
	if i := sort.Search(len(list), func(i int) bool { return list[i].revision > revision }); i > 0 {
		is = list[i-1]
	}
	return is, r.complete(is.revision, revision)
}

// complete says whether all revisions above one and up to another are known.
func (r *replay) complete(above, to uint64) bool {
	i, j := sort.Search(len(r.sorted), func(i int) bool { return r.sorted[i] > above }), sort.Search(len(r.sorted), func(i int) bool { return r.sorted[i] > to })
	return uint64(j-i) == to-min(above, to)
}

func (r *replay) check(op *Operation, unknown map[place]map[string]bool) error {
	switch {
	case op.Kind == Read:
		for i, c := range op.Cells {
			k := op.From + i
			at := place{op.Group, k}
			if err := r.shows(at, op.Origin, c, unknown[at]); err != nil {
				return fmt.Errorf("%s, of revision %d: key %c: %w", op, op.Origin, 'a'+k, err)
			}
		}
	case op.Outcome == CompareFailed:
		if err := r.failed(op); err != nil {
			return err
		}
		return r.follows(op)
	default:
		return r.follows(op)
	}
	return nil
}

// failed says whether the condition of a write can have failed where it was judged.
func (r *replay) failed(op *Operation) error {
	judged := op.Origin
	switch {
	case op.Changed():
		judged = op.Revision - 1
	case op.Attempts > 1:
		return nil // It may have been judged earlier than it was answered.
	}
	is, exact := r.at(place{op.Group, op.Condition.Key}, judged)
	if exact && is.cell.Value == op.Condition.Value {
		return fmt.Errorf("%s, at revision %d, where the condition holds by the write of revision %d", op, judged, is.revision)
	}
	if exact && is.cell.Revision != op.Current {
		return fmt.Errorf("%s because of revision %d, at revision %d, where the key is at revision %d", op, op.Current, judged, is.cell.Revision)
	}
	return nil
}

// shows says whether a read at a revision may show a key as it does.
func (r *replay) shows(key place, revision uint64, shown Cell, unknown map[string]bool) error {
	is, exact := r.at(key, revision)
	switch {
	case shown.Revision > revision:
		return fmt.Errorf("it is of revision %d, which is later", shown.Revision)
	case shown == is.cell:
		return nil
	case exact:
		return fmt.Errorf("revision %d has left %q/%d, and all that came after it is known", is.revision, is.cell.Value, is.cell.Version)
	case !unknown[shown.Value] || shown.Version > 0 && (shown.Revision <= is.revision || r.known[shown.Revision]):
		return fmt.Errorf("revision %d has left %q/%d, and no write of unknown outcome explains another", is.revision, is.cell.Value, is.cell.Version)
	}
	return nil
}

// follows says whether a write has found its keys as the one before has left them.
func (r *replay) follows(op *Operation) error {
	if !op.Changed() || op.Revision == 0 {
		return nil
	}
	for i, c := range op.done() {
		before, exact := r.at(place{op.Group, c.Key}, op.Revision-1)
		if !exact {
			continue
		}
		found, made := before.cell.Version > 0, before.cell.Version+1
		if c.Delete {
			made = 0
		}
		if op.Cells[i].Existed != found || op.Cells[i].Version != made {
			return fmt.Errorf("%s makes version %d of key %c (found %t), but revision %d has left version %d and all that came after it is known",
				op, op.Cells[i].Version, 'a'+c.Key, op.Cells[i].Existed, before.revision, before.cell.Version)
		}
	}
	for i, c := range op.done() {
		if op.Before == nil {
			break
		}
		if before, exact := r.at(place{op.Group, c.Key}, op.Revision-1); exact && before.cell != op.Before[i] {
			return fmt.Errorf("%s says that it has found %+v at key %c, but revision %d has left %+v", op, op.Before[i], 'a'+c.Key, before.revision, before.cell)
		}
	}
	if o := op.Condition; o != nil && op.Outcome == Done {
		if before, exact := r.at(place{op.Group, o.Key}, op.Revision-1); exact && before.cell.Value != o.Value {
			return fmt.Errorf("%s is done, but revision %d has left %q", op, before.revision, before.cell.Value)
		}
	}
	return nil
}
