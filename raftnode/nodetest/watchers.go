package nodetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// Watched is one thing that a watcher was told of a shard: a key as it was at the start, or a change.
type Watched struct {
	Revision         uint64
	Key, Value       string
	Deleted, Initial bool
	// Version is how often the key was written since it came into being; Before is what a change has replaced, if the watch asks for that.
	Version uint64
	Before  Cell
}

// WatchedShard is what a watcher was told of a shard since it last had to begin anew.
type WatchedShard struct {
	Shard placement.ShardID
	// From is the revision behind which it began, Complete the one up to which it was told everything.
	From, Complete uint64
	Seen           []Watched
	// open: further events of the last revision are to come.
	open bool
}

// Mark is what a watch has said of its freshness: complete to a revision as of a time.
type Mark struct {
	Shard    placement.ShardID
	Revision uint64
	AsOf     time.Duration
}

// Watch is what a watcher has seen.
type Watch struct {
	Name string
	// Covers says whether a key is watched; All, that every change of every key is.
	Covers func(key string) bool
	All    bool
	// NoPuts and NoDeletes leave such changes out.
	NoPuts, NoDeletes bool
	// Initial says that it was told the keys of the start, Before that it asks for what changes have replaced.
	Initial, Before bool
	Shards          []*WatchedShard
	Marks           []Mark
	// Forgotten is what it was refused for.
	Forgotten []Forgotten
}

// Forgotten is the refusal of a watch that asks for a revision that is older than what a shard knows.
type Forgotten struct {
	Shard         placement.ShardID
	Asked, Oldest uint64
}

// watcher is a client that watches through one node after the other.
type watcher struct {
	Watch
	c       *Cluster
	request raftnode.WatchRequest
	// counts are the events that it shows when it is told of a change.
	counts []Event
	// known, if set, is the highest revision that clients know of its shard: it begins with one of those, drawn anew each time. oldest, if set, is where
	// history begins, as the watch was refused for.
	known  func() uint64
	oldest uint64
	// past: it begins with a revision that clients knew when it was drawn.
	past bool
	// saved is where it goes on, last where it might and before that one: a client may lose the last answer.
	last, before savedWatch
	stream       *raftnode.WatchStream
	// try numbers the attempts, so that what comes of an earlier one is not taken.
	try     int
	stopped bool
}

// savedWatch is a token, and how much had been seen of each shard when it came.
type savedWatch struct {
	token string
	seen  []WatchedShard
}

// again goes on at a random node, soon.
func (w *watcher) again(d time.Duration) {
	s := w.c.scheduler
	w.try++
	if w.stream != nil {
		w.stream.Close()
		w.stream = nil
	}
	try := w.try
	p := w.c.processes[s.random.IntN(len(w.c.processes))]
	s.add(d+s.between(time.Millisecond, 100*time.Millisecond), &event{
		name: "watch", process: p,
		run:  func() { w.open(p.life, try) },
		lost: func() { w.lost(try) },
	})
}

// lost goes on somewhere else, from where it has come to or from before that.
func (w *watcher) lost(try int) {
	if try != w.try || w.stopped {
		return
	}
	w.stream = nil // It has gone with its node.
	w.retreat()
	w.again(100 * time.Millisecond)
}

// retreat forgets what came behind the place where it goes on.
func (w *watcher) retreat() {
	at := w.last
	if w.before.token != "" && w.c.scheduler.chance(0.5) {
		at = w.before
	}
	w.last, w.before = at, savedWatch{}
	w.request.Token = at.token
	if at.token == "" {
		w.Shards = nil
		return
	}
	for i := range at.seen {
		was := at.seen[i]
		was.Seen = slices.Clone(was.Seen)
		w.Shards[i] = &was
	}
}

// open begins a watch at a node. To wait for it is to block.
func (w *watcher) open(l *life, try int) {
	if l.node == nil {
		w.lost(try)
		return
	}
	if w.known != nil && w.request.Token == "" {
		w.request.Revision = w.firstRevision()
	}
	r := w.request
	deadline := l.runtime.Now().Add(2 * w.c.options.election())
	w.c.asides = append(w.c.asides, newAside(l, func() func() {
		stream, err := l.node.Watch(virtualDeadline{context.Background(), deadline}, r)
		return func() { w.opened(l, try, stream, err) }
	}))
	l.ends = append(l.ends, func() { w.lost(try) })
}

func (w *watcher) opened(l *life, try int, stream *raftnode.WatchStream, err error) {
	if try != w.try || w.stopped {
		if stream != nil {
			stream.Close()
		}
		return
	}
	if err != nil {
		w.failed(err)
		return
	}
	if r := w.request; r.Token != "" {
		w.c.seen(WatchResumed)
	}
	w.stream = stream
	w.poll(l, try)
}

// failed goes on from an error: where it was, or anew if the history is gone.
func (w *watcher) failed(err error) {
	w.c.scheduler.trace.text(fmt.Sprintf("%s: %v", w.Name, err))
	var compacted *raftnode.CompactedError
	var cutOff *raftnode.CutOffError
	switch {
	case errors.As(err, &compacted):
		w.c.seen(WatchCompacted)
		w.Forgotten = append(w.Forgotten, Forgotten{compacted.Shard, compacted.Revision, compacted.Oldest})
		w.last, w.before, w.request.Token, w.Shards, w.oldest = savedWatch{}, savedWatch{}, "", nil, compacted.Oldest
	case errors.As(err, &cutOff):
		w.c.seen(WatchCutOff)
		fallthrough
	default:
		var invalid *raftnode.InvalidError
		var future *raftnode.FutureRevisionError
		if errors.As(err, &invalid) || errors.As(err, &future) {
			w.c.violate("%s is refused: %v", w.Name, err)
		}
		w.retreat()
	}
	w.again(w.c.scheduler.between(0, 200*time.Millisecond))
}

// poll takes what is there, and looks again later; some watchers are slow.
func (w *watcher) poll(l *life, try int) {
	s := w.c.scheduler
	d := s.between(time.Millisecond, 50*time.Millisecond)
	if s.chance(0.02) {
		d = s.between(time.Second, 3*time.Second)
	}
	s.add(d, &event{name: "watch poll", process: l.process, boot: l.number, run: func() {
		if try != w.try || w.stopped {
			return
		}
		if s.chance(0.005) {
			w.retreat()
			w.again(0)
			return
		}
		for range 1 + s.random.IntN(20) {
			most := []uint64{1, 2000, 1 << 20}[s.random.IntN(3)]
			b, err := w.stream.TryNext(most)
			if err != nil {
				w.failed(err)
				return
			}
			if b == nil {
				break
			}
			w.take(l, b)
		}
		w.poll(l, try)
	}})
}

// take notes a batch.
func (w *watcher) take(l *life, b *raftnode.WatchBatch) {
	t := &w.c.scheduler.trace
	if b.Created && w.request.Token == "" {
		w.Shards = nil
		for _, p := range b.Progress {
			from := p.Revision
			if w.request.Revision != 0 { // What it says to be complete from there on is to have nothing to tell.
				from = w.request.Revision - 1
			}
			w.Shards = append(w.Shards, &WatchedShard{Shard: p.Shard, From: from, Complete: p.Revision})
		}
		if w.past {
			w.c.seen(WatchFromPast)
		}
	}
	for _, p := range b.Progress {
		w.mark(l, b.Created, p)
	}
	if len(b.Records)+len(b.Events) > 0 {
		w.note(w.shard(b.Shard), b)
	}
	t.text(fmt.Sprintf("%s: %v", w.Name, b.Progress))
	w.before = w.last
	w.last = savedWatch{token: w.stream.Token()}
	for _, p := range w.Shards {
		was := *p
		was.open = false
		if n := slices.IndexFunc(p.Seen, func(e Watched) bool { return e.Revision > p.Complete }); n >= 0 {
			was.Seen = p.Seen[:n] // What is not complete comes again.
		}
		was.Seen = was.Seen[:len(was.Seen):len(was.Seen)]
		w.last.seen = append(w.last.seen, was)
	}
}

func (w *watcher) shard(id placement.ShardID) *WatchedShard {
	for _, p := range w.Shards {
		if p.Shard == id {
			return p
		}
	}
	w.c.violate("%s is told of shard %d", w.Name, id)
	return &WatchedShard{}
}

// note takes records and events up.
func (w *watcher) note(p *WatchedShard, b *raftnode.WatchBatch) {
	for _, r := range b.Records {
		p.Seen = append(p.Seen, Watched{
			Revision: r.GetRecord().GetModRevision(), Key: r.GetKey(), Value: unpad(r.GetRecord().GetValue()), Initial: true, Version: r.GetRecord().GetVersion(),
		})
	}
	for i, e := range b.Events {
		last := uint64(0)
		if n := len(p.Seen); n > 0 && !p.Seen[n-1].Initial {
			last = p.Seen[n-1].Revision
		}
		// A revision goes on where that was said, and nowhere else.
		if (e.Revision == last) != (p.open || i > 0 && b.Events[i-1].Revision == e.Revision) || e.Revision < last || e.Revision <= p.From {
			w.c.violate("%s is told of revision %d of shard %d behind %d (goes on: %t, began behind %d)", w.Name, e.Revision, p.Shard, last, p.open, p.From)
		}
		p.open = false
		seen := Watched{Revision: e.Revision, Key: e.Key, Deleted: e.After == nil}
		if e.After != nil {
			seen.Value, seen.Version = unpad(e.After.GetRecord().GetValue()), e.After.GetRecord().GetVersion()
		}
		if e.Before != nil {
			seen.Before = cellOf(e.Before)
		}
		p.Seen = append(p.Seen, seen)
	}
	p.open = b.MoreOfRevision
	if b.Revision < p.Complete {
		w.c.violate("%s is complete to revision %d of shard %d, and was to %d", w.Name, b.Revision, p.Shard, p.Complete)
	}
	p.Complete = b.Revision
	w.c.seen(WatchEvent)
	if len(b.Events) > 0 {
		for _, e := range w.counts {
			w.c.seen(e)
		}
	}
	if b.Behind && len(b.Events) > 0 {
		w.c.seen(WatchCaughtUp)
	}
	if b.MoreOfRevision {
		w.c.seen(WatchSplit)
	}
}

// mark takes up what the watch says of its progress. Clocks of nodes run a little too fast or too slow.
func (w *watcher) mark(l *life, created bool, at raftnode.WatchProgress) {
	p := w.shard(at.Shard)
	if at.Revision < p.Complete {
		w.c.violate("%s is complete to revision %d of shard %d, and was to %d", w.Name, at.Revision, p.Shard, p.Complete)
	}
	if !created {
		p.Complete = at.Revision
		w.c.seen(WatchProgress)
	}
	asOf := w.c.scheduler.now - time.Duration(float64(at.Age)*1.1/min(l.process.rate, 1)) - time.Millisecond
	if asOf > 0 && at.Age >= 0 && (!created || w.request.Token == "") {
		w.Marks = append(w.Marks, Mark{Shard: at.Shard, Revision: at.Revision, AsOf: asOf})
	}
}

// stop ends the watcher.
func (w *watcher) stop() {
	w.stopped = true
	if w.stream != nil {
		w.stream.Close()
	}
}

// complete says whether the watcher was told everything up to some revisions.
func (w *watcher) complete(to map[placement.ShardID]uint64) bool {
	if len(w.Shards) == 0 || w.stream == nil {
		return false
	}
	for _, p := range w.Shards {
		if p.open || p.Complete < to[p.Shard] {
			return false
		}
	}
	return true
}
