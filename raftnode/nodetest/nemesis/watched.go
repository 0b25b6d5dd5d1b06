package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/nodetest"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// watched is what a watch was told. Who owns it calls its methods one at a time.
type watched struct {
	nodetest.Watch
	request *raftkvv1.WatchRequest
	// last is where it may go on, before where it might have: a client may lose the last response.
	last, before bookmark
	// created: the stream has begun. opened is when it was asked for. open says of which shards further events of the last revision are to come.
	created bool
	opened  time.Duration
	open    map[placement.ShardID]bool
	marks   []freshness
}

// bookmark is a token, and how much had been seen of each shard when it came.
type bookmark struct {
	token string
	seen  []seen
}

type seen struct {
	events   int
	complete uint64
}

// freshness is what a response has said of how fresh the watch is in its shards. When it was sent is not known: a process that was frozen may have
// made it long before. It was not before the stream was asked for, nor before the writes were that it speaks of.
type freshness struct {
	opened time.Duration
	at     []*raftkvv1.WatchProgress
}

// begin begins a stream: what it asks for.
func (w *watched) begin(now time.Duration) *raftkvv1.WatchRequest {
	w.created, w.opened, w.open = false, now, make(map[placement.ShardID]bool)
	w.request.Token = w.last.token
	if w.last.token == "" {
		w.Shards = nil
	}
	return w.request
}

// retreat forgets what came behind the place where it goes on: behind the last response, or, if that was lost, the one before.
func (w *watched) retreat(lost bool) {
	if lost && w.before.token != "" {
		w.last = w.before
	}
	w.before = bookmark{}
	for i, at := range w.last.seen {
		p := w.Shards[i]
		p.Seen, p.Complete = p.Seen[:at.events], at.complete
	}
}

// anew forgets everything: the history where it would go on is gone.
func (w *watched) anew() { w.last, w.before = bookmark{}, bookmark{} }

// take takes a response up. An error says what is wrong with it.
func (w *watched) take(res *raftkvv1.WatchResponse) error {
	if res.GetCreated() == w.created {
		return fmt.Errorf("%s: a response says that the watch has begun: %t, and it has: %t", w.Name, res.GetCreated(), w.created)
	}
	if res.GetToken() == "" {
		return fmt.Errorf("%s: a response has no token", w.Name)
	}
	if !w.created && w.request.GetToken() == "" {
		for _, p := range res.GetProgress() {
			w.Shards = append(w.Shards, &nodetest.WatchedShard{Shard: placement.ShardID(p.GetShard()), From: p.GetRevision(), Complete: p.GetRevision()})
		}
	}
	w.created = true
	if err := w.mark(res); err != nil {
		return err
	}
	if len(res.GetEvents()) > 0 {
		if err := w.note(res); err != nil {
			return err
		}
	}
	w.before, w.last = w.last, bookmark{token: res.GetToken()}
	for _, p := range w.Shards {
		n := len(p.Seen)
		for n > 0 && p.Seen[n-1].Revision > p.Complete {
			n-- // What is not complete comes again.
		}
		w.last.seen = append(w.last.seen, seen{n, p.Complete})
	}
	return nil
}

// mark takes up what a response says of progress.
func (w *watched) mark(res *raftkvv1.WatchResponse) error {
	fresh := false
	for _, at := range res.GetProgress() {
		p := w.shard(at.GetShard())
		if p == nil || at.GetRevision() < p.Complete {
			return fmt.Errorf("%s is said to be complete to revision %d of shard %d, and was to %+v", w.Name, at.GetRevision(), at.GetShard(), p)
		}
		if !res.GetCreated() {
			p.Complete = at.GetRevision()
		}
		fresh = fresh || at.FreshnessMs != nil
	}
	if fresh {
		w.marks = append(w.marks, freshness{w.opened, res.GetProgress()})
	}
	return nil
}

// note takes events up.
func (w *watched) note(res *raftkvv1.WatchResponse) error {
	p := w.shard(res.GetHeader().GetShard())
	if p == nil {
		return fmt.Errorf("%s is told of shard %d", w.Name, res.GetHeader().GetShard())
	}
	for _, e := range res.GetEvents() {
		one, err := watchedOf(e, p.Shard)
		if err != nil {
			return fmt.Errorf("%s: revision %d of shard %d: %w", w.Name, e.GetRevision(), p.Shard, err)
		}
		if n := len(p.Seen); n > 0 && !p.Seen[n-1].Initial && one.Initial || one.Initial && (!w.Initial || one.Revision > p.From) {
			return fmt.Errorf("%s is told of %s of revision %d of shard %d as one of the start, which was revision %d", w.Name, one.Key, one.Revision, p.Shard, p.From)
		}
		if err := w.follows(p, one); err != nil {
			return err
		}
		p.Seen = append(p.Seen, one)
	}
	w.open[p.Shard] = res.GetMoreOfRevision()
	if res.GetHeader().GetRevision() < p.Complete {
		return fmt.Errorf("%s is complete to revision %d of shard %d, and was to %d", w.Name, res.GetHeader().GetRevision(), p.Shard, p.Complete)
	}
	p.Complete = res.GetHeader().GetRevision()
	return nil
}

// follows says whether an event may come behind what was seen: a revision goes on within a response, and behind one that says so.
func (w *watched) follows(p *nodetest.WatchedShard, e nodetest.Watched) error {
	if e.Initial {
		return nil
	}
	last := p.From
	if n := len(p.Seen); n > 0 && !p.Seen[n-1].Initial {
		last = p.Seen[n-1].Revision
	}
	if open := w.open[p.Shard]; e.Revision <= p.Complete || e.Revision < last || e.Revision > last && open || !w.Covers(e.Key) {
		return fmt.Errorf("%s is told of %s of revision %d of shard %d behind %d (goes on: %t), complete to %d", w.Name, e.Key, e.Revision, p.Shard, last, open, p.Complete)
	}
	w.open[p.Shard] = false
	return nil
}

// watchedOf is an event in the form of nodetest.
func watchedOf(e *raftkvv1.Event, shard placement.ShardID) (nodetest.Watched, error) {
	kv := e.GetKv()
	out := nodetest.Watched{
		Revision: e.GetRevision(), Key: kv.GetKey(), Initial: e.GetInitial(), Version: kv.GetVersion(),
		Deleted: e.GetType() == raftkvv1.EventType_EVENT_TYPE_DELETE,
	}
	var err error
	if out.Value, err = decode(kv.GetValue()); err != nil {
		return out, err
	}
	if out.Before, err = cellOf(e.GetPrevKv()); err != nil {
		return out, err
	}
	if kv.GetModRevision() != e.GetRevision() || placement.ShardID(e.GetShard()) != shard || out.Key == "" || out.Deleted && (out.Version > 0 || out.Value != "") {
		return out, fmt.Errorf("%w: %v", errShape, e)
	}
	return out, nil
}

func (w *watched) shard(id uint32) *nodetest.WatchedShard {
	for _, p := range w.Shards {
		if p.Shard == placement.ShardID(id) {
			return p
		}
	}
	return nil
}

// complete says whether the watch was told everything up to some revisions.
func (w *watched) complete(to map[placement.ShardID]uint64) bool {
	for _, p := range w.Shards {
		if w.open[p.Shard] || p.Complete < to[p.Shard] {
			return false
		}
	}
	return w.created && len(w.Shards) > 0
}

// date gives the marks the times as of which they speak, from when the writes were begun whose revisions they name.
func (w *watched) date(begun map[placement.ShardID]beginnings) {
	for _, m := range w.marks {
		sent := m.opened
		for _, p := range m.at {
			sent = max(sent, begun[placement.ShardID(p.GetShard())].until(p.GetRevision()))
		}
		for _, p := range m.at {
			age := time.Duration(p.GetFreshnessMs()+1) * time.Millisecond //nolint:gosec // some seconds; what is less than one is cut off
			if p.FreshnessMs != nil && sent > age {
				w.Marks = append(w.Marks, nodetest.Mark{Shard: placement.ShardID(p.GetShard()), Revision: p.GetRevision(), AsOf: sent - age})
			}
		}
	}
	w.marks = nil
}

// beginnings are when the writes of a shard were begun that were acknowledged, ascending in their revisions and times.
type beginnings []beginning

type beginning struct {
	revision uint64
	at       time.Duration
}

// until is when the last of the writes up to a revision was begun.
func (b beginnings) until(revision uint64) time.Duration {
	i, found := slices.BinarySearchFunc(b, revision, func(w beginning, revision uint64) int { return cmp.Compare(w.revision, revision) })
	if found {
		i++
	}
	if i == 0 {
		return 0
	}
	return b[i-1].at
}

// beginningsOf sorts the acknowledged writes of each shard.
func beginningsOf(h *nodetest.History) map[placement.ShardID]beginnings {
	out := make(map[placement.ShardID]beginnings)
	for _, op := range h.Operations {
		if op.Kind == nodetest.Write && op.Outcome != nodetest.Unknown && op.Changed() {
			out[op.Shard] = append(out[op.Shard], beginning{op.Revision, op.Call})
		}
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b beginning) int { return cmp.Compare(a.revision, b.revision) })
		for i := 1; i < len(list); i++ {
			list[i].at = max(list[i].at, list[i-1].at)
		}
	}
	return out
}
