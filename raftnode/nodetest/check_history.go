package nodetest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// CheckDurable says whether every acknowledged value is still there at the end, unless a write that was acknowledged later, or whose outcome is
// unknown, or that was concurrent, may have replaced it. final are reads after everything else.
func CheckDurable(h *History, final []*Operation) error {
	last := make(map[place]*Operation) // of the acknowledged writes, the one that was begun last
	writers := make(map[string]*Operation)
	maybe := make(map[place][]*Operation)
	for _, op := range h.Operations {
		if op.Kind != Write {
			continue
		}
		for _, c := range op.possible() {
			at := place{op.Group, c.Key}
			writers[c.Value] = op
			if c.Delete {
				maybe[at] = append(maybe[at], op)
			}
			if op.Outcome != Unknown && (last[at] == nil || op.Call > last[at].Call) {
				last[at] = op
			}
		}
	}
	var errs []error
	for _, r := range final {
		for i, c := range r.Cells {
			k := r.From + i
			at := place{r.Group, k}
			acked := last[at]
			if acked == nil {
				continue
			}
			explained := slices.ContainsFunc(maybe[at], func(d *Operation) bool { return d.Return >= acked.Call })
			if c.Value != "" {
				w := writers[c.Value]
				explained = w != nil && w.Return >= acked.Call
			}
			if !explained {
				errs = append(errs, fmt.Errorf("an acknowledged write is lost: %s; key %c has %q in the end", acked, 'a'+k, c.Value))
			}
		}
	}
	return errors.Join(errs...)
}

// CheckRefused says whether nobody has ever seen a value of a write that certainly did not happen, as its client was told.
func CheckRefused(h *History) error {
	for _, op := range slices.Concat(h.Operations, h.Stale) {
		if op.Kind != Read {
			continue
		}
		for _, c := range op.Cells {
			if was, ok := h.Refused[c.Value]; ok && c.Value != "" {
				return fmt.Errorf("a refused write is visible: %s, seen by %s", was, op)
			}
		}
	}
	return nil
}

// CheckRevisions says whether the revisions that writes returned order them: each is its write's own, a write that was begun after another had
// returned has a higher one, and a read shows the write of the revision that it names.
func CheckRevisions(h *History) error {
	type at struct {
		shard    placement.ShardID
		revision uint64
	}
	writes := make(map[at]*Operation)
	byShard := make(map[placement.ShardID][]*Operation)
	for _, op := range h.Operations {
		if op.Kind != Write || op.Outcome == Unknown || !op.Changed() {
			continue
		}
		if other := writes[at{op.Shard, op.Revision}]; other != nil {
			return fmt.Errorf("two writes made one revision: %s and %s", other, op)
		}
		writes[at{op.Shard, op.Revision}] = op
		byShard[op.Shard] = append(byShard[op.Shard], op)
	}
	for _, ops := range byShard {
		slices.SortFunc(ops, func(a, b *Operation) int { return cmp.Compare(a.Revision, b.Revision) })
		// Everything of a lower revision must have been begun before anything of a higher one returned.
		var latest *Operation
		for _, op := range ops {
			if latest != nil && op.Return < latest.Call {
				return fmt.Errorf("revisions are not in the order of time: %s, but %s", latest, op)
			}
			if latest == nil || op.Call > latest.Call {
				latest = op
			}
		}
	}
	for _, op := range h.Operations {
		if op.Kind != Read {
			continue
		}
		for i, c := range op.Cells {
			k, w := op.From+i, writes[at{op.Shard, c.Revision}]
			if c.Version == 0 || w == nil {
				continue // It does not exist, or its write was never acknowledged.
			}
			if !slices.ContainsFunc(w.done(), func(d Change) bool { return d.Key == k && d.Value == c.Value }) || w.Group != op.Group {
				return fmt.Errorf("%s shows key %c of revision %d, which is of %s", op, 'a'+k, c.Revision, w)
			}
		}
	}
	return nil
}

// Changed says whether a write made a revision: a delete of what does not exist makes none.
func (o *Operation) Changed() bool {
	for i, c := range o.done() {
		if !c.Delete || o.Cells[i].Existed {
			return true
		}
	}
	return false
}
