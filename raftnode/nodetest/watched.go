package nodetest

import (
	"fmt"
	"strings"
	"time"

	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// newWatchers draws what some clients watch, and lets them begin. Those that begin with a revision of the past begin when there may be one.
func newWatchers(cs *clients, n int) []*watcher {
	var all []*watcher
	for i := range n {
		w := &watcher{c: cs.c}
		w.draw(cs, i == 0)
		w.Name = fmt.Sprintf("watcher %d of %s", i, w.Name)
		all = append(all, w)
		after := time.Duration(0)
		if w.known != nil {
			after = cs.c.scheduler.between(0, pastTime)
		}
		w.again(after)
	}
	return all
}

// pastTime is within the time of faults, and shorter than history is kept for.
const pastTime = 10 * time.Second

// draw draws what is watched and what is told of it. The first of a run sees whole revisions from the start.
func (w *watcher) draw(cs *clients, first bool) {
	s, r := w.c.scheduler, &w.request
	group := s.random.IntN(cs.load.Groups)
	shard := placement.ShardID(1 + s.random.IntN(w.c.options.Shards))
	kind := s.random.IntN(6)
	if first {
		kind = 0
	}
	everywhere := w.c.options.Replicas == w.c.options.Nodes // A watch of all shards needs a node that has all.
	switch {
	case kind == 0 && everywhere:
		w.Name = "all keys"
	case kind <= 1:
		w.Name, r.Shards = fmt.Sprintf("shard %d", shard), []placement.ShardID{shard}
	case kind == 2:
		r.Prefix = strings.TrimSuffix(key(group, 0), "a")
		w.Name = r.Prefix
	case kind == 3:
		r.Key = key(group, s.random.IntN(GroupKeys))
		w.Name = r.Key
	default:
		w.drawRange(group, s.random.IntN(cs.load.Groups))
		w.Name = fmt.Sprintf("%q to %q", r.Start, r.End)
		if !everywhere || s.chance(0.5) {
			w.Name, r.Shards = fmt.Sprintf("%s of shard %d", w.Name, shard), []placement.ShardID{shard}
		}
	}
	r.Before, r.Initial, r.Progress = s.chance(0.3), true, time.Second
	if !first {
		w.drawFilter()
		w.drawPast(cs, group, shard)
	}
	w.All = kind <= 1 && !r.NoPuts && !r.NoDeletes
	w.Covers, w.Initial, w.Before, w.NoPuts, w.NoDeletes = covers(*r), r.Initial, r.Before, r.NoPuts, r.NoDeletes
}

// drawRange draws a range of one key or more, within a group or across groups, or with one end open.
func (w *watcher) drawRange(group, other int) {
	s := w.c.scheduler
	a, b := key(group, s.random.IntN(GroupKeys)), key(other, s.random.IntN(GroupKeys))
	w.request.Start, w.request.End = min(a, b), max(a, b)
	switch s.random.IntN(4) {
	case 0:
		w.request.Start = ""
	case 1:
		w.request.End = ""
	default:
		if a == b {
			w.request.End = raftnode.NextKey(b)
		}
	}
	w.counts = append(w.counts, WatchOfRange)
}

// drawFilter lets some be told of puts, or of deletes, only.
func (w *watcher) drawFilter() {
	switch w.c.scheduler.random.IntN(6) {
	case 0:
		w.Name, w.request.NoPuts, w.counts = w.Name+" without puts", true, append(w.counts, WatchWithoutPuts)
	case 1:
		w.Name, w.request.NoDeletes, w.counts = w.Name+" without deletes", true, append(w.counts, WatchWithoutDeletes)
	}
}

// drawPast lets some begin with a revision, if their keys are of one shard. Half of those are told what was there before it.
func (w *watcher) drawPast(cs *clients, group int, shard placement.ShardID) {
	s, r := w.c.scheduler, &w.request
	tagged := r.Key != "" || r.Prefix != ""
	if !tagged && len(r.Shards) == 0 && w.c.options.Shards > 1 || s.chance(0.5) {
		return
	}
	w.known = func() uint64 { return cs.revisions[shard] }
	if tagged {
		w.known = func() uint64 { return cs.seenBy(group) }
	}
	r.Initial = s.chance(0.5)
}

// firstRevision draws the revision to begin with: one of the past or the next. Behind a refusal it is the oldest that there is.
func (w *watcher) firstRevision() uint64 {
	known, first := w.known(), w.oldest
	if first == 0 {
		first = 1 + w.c.scheduler.random.Uint64N(known+1)
	}
	w.oldest, w.past = 0, first <= known
	return first
}

// covers says which keys a watch is of. It is not asked of the nodes, whose answer it judges.
func covers(r raftnode.WatchRequest) func(string) bool {
	return func(key string) bool {
		switch {
		case r.Key != "":
			return key == r.Key
		case r.Prefix != "":
			return strings.HasPrefix(key, r.Prefix)
		}
		return key >= r.Start && (r.End == "" || key < r.End)
	}
}
