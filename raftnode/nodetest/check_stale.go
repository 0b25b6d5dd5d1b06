package nodetest

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// StaleRead is what a read that need not show the newest state asks for, and what its answer says of its age.
type StaleRead struct {
	// Bound is how old the state may be; 0 is any age. Revision is what must be in it.
	Bound    time.Duration
	Revision uint64
	// Age is how old it is, as the node says; AgeUnknown: that is not known.
	Age        time.Duration
	AgeUnknown bool
}

// clockRates is how far the clock of a node may be from true time.
const clockRates = 0.05

// CheckStale says whether stale reads keep their bounds: nothing is missing that had been acknowledged when the answer says that its state was the
// newest, which is within the bound before the read was begun or later, nor the revision that was asked for.
func CheckStale(h *History) error {
	acknowledged := acknowledgedByTime(h)
	for _, op := range h.Stale {
		s := op.Stale
		if s.Bound > 0 && (s.AgeUnknown || s.Age > s.Bound) {
			return fmt.Errorf("%s shows a state that is %s old (unknown: %t), at most %s are allowed", op, s.Age, s.AgeUnknown, s.Bound)
		}
		if op.Origin < s.Revision {
			return fmt.Errorf("%s shows revision %d of shard %d, and was to show %d", op, op.Origin, op.Shard, s.Revision)
		}
		if s.AgeUnknown {
			continue
		}
		asOf := op.Call - time.Duration(float64(s.Age)/(1-clockRates))
		if missed := acknowledged[op.Shard].until(asOf); missed > op.Origin {
			return fmt.Errorf("%s shows revision %d of shard %d and is said to be complete as of %s, when revision %d was acknowledged", op, op.Origin, op.Shard, asOf, missed)
		}
	}
	return nil
}

// acknowledgements are the highest revisions that had been acknowledged at some times, ascending.
type acknowledgements []acknowledgement

type acknowledgement struct {
	at       time.Duration
	revision uint64
}

// until returns the highest revision that had been acknowledged at a time, 0 if there was none.
func (a acknowledgements) until(at time.Duration) uint64 {
	if i := sort.Search(len(a), func(i int) bool { return a[i].at > at }); i > 0 {
		return a[i-1].revision
	}
	return 0
}

// acknowledgedByTime orders the acknowledged writes of each shard by when their clients were told.
func acknowledgedByTime(h *History) map[placement.ShardID]acknowledgements {
	byShard := make(map[placement.ShardID]acknowledgements)
	for _, op := range h.Operations {
		if op.Kind == Write && op.Outcome != Unknown && op.Changed() {
			byShard[op.Shard] = append(byShard[op.Shard], acknowledgement{op.Return, op.Revision})
		}
	}
	for _, list := range byShard {
		slices.SortFunc(list, func(a, b acknowledgement) int { return cmp.Compare(a.at, b.at) })
		for i := 1; i < len(list); i++ {
			list[i].revision = max(list[i].revision, list[i-1].revision)
		}
	}
	return byShard
}
