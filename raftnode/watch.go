package raftnode

import (
	"context"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/watch"
)

// WatchRequest says what is watched, and from where on. At most one of Key, Prefix, and Start with End is set; none: all keys.
type WatchRequest struct {
	Key, Prefix, Start, End string
	// NoPuts and NoDeletes leave these events out. Before asks for what a change has replaced.
	NoPuts, NoDeletes, Before bool
	// Revision is that of the first event, for keys of one shard only. Default: the next one.
	Revision uint64
	// Initial asks for the records as they are before the first event, too.
	Initial bool
	// Token goes on behind the batch that it came with; Revision and Initial do not count then.
	Token string
	// Shards restricts the watch to some of the shards of its keys. Default: all of them.
	Shards []placement.ShardID
	// Progress is how often the stream says how far it is. Default 10 s, at least 100 ms.
	Progress time.Duration
}

// Watch begins to watch keys. It asks for a ReadIndex round of every shard concerned, which defines "now", so any replica serves: this node must
// have one of each shard, else the error is *NoReplicaError, and another node is to be asked, or each for its Shards. The stream holds no goroutine.
// Who has it calls Close.
func (n *Node) Watch(ctx context.Context, r WatchRequest) (*WatchStream, error) {
	if n.failed() || n.closing.Load() {
		return nil, ErrStopped
	}
	if !n.serving.Load() {
		return nil, ErrForming
	}
	s := &WatchStream{ws: n.watches, filter: r.filter(), ready: make(chan struct{}, 1), period: r.Progress}
	if err := n.checkWatch(&r); err != nil {
		return nil, err
	}
	setDefault(&s.period, watchProgress)
	s.limit = max(watchCutOffPeriod*s.period, watchCutOffVotes*n.options.ElectionTimeout)
	places, err := n.watchPlaces(&r, &s.filter)
	if err != nil {
		return nil, err
	}
	now, at, err := n.watchNow(ctx, places)
	if err != nil {
		return nil, err
	}
	for i, p := range places {
		if p, err = n.startPlace(p, &r, now[i]); err != nil {
			return nil, err
		}
		s.shards = append(s.shards, &watchedShard{shard: p.shard, place: p})
	}
	s.next = at.Add(s.period) // before a tick can see the stream
	if err := n.watches.add(s); err != nil {
		return nil, err
	}
	for i, p := range s.shards {
		n.watches.confirmed(p.shard, at, now[i])
		p.watcher = n.watches.hub.Watch(p.shard, s.filter, p.place.next, now[i], s.wake)
		n.watches.applied(p.shard, n.engine.position(p.shard).revision)
	}
	return s, nil
}

func (r *WatchRequest) filter() watch.Filter {
	return watch.Filter{
		Key: r.Key, Prefix: r.Prefix, Start: r.Start, End: r.End, NoPuts: r.NoPuts, NoDeletes: r.NoDeletes, Before: r.Before,
	}
}

func (n *Node) checkWatch(r *WatchRequest) error {
	if n.watches.history == nil {
		return &InvalidError{Field: "watch", Problem: "this cluster runs a state machine of its own, which has no keys to watch"}
	}
	forms := 0
	for _, set := range []bool{r.Key != "", r.Prefix != "", r.Start != "" || r.End != ""} {
		if set {
			forms++
		}
	}
	switch {
	case forms > 1:
		return &InvalidError{Field: "range", Problem: "key, prefix, and start with end exclude each other"}
	case r.Start != "" && r.End != "" && r.Start >= r.End:
		return &InvalidError{Field: "range", Problem: "no key is from start on and before end"}
	case r.NoPuts && r.NoDeletes:
		return &InvalidError{Field: "filter", Problem: "without puts and deletes there is nothing to watch"}
	case r.Progress != 0 && r.Progress < watchProgressMin:
		return limit("progress interval in milliseconds", int(watchProgressMin.Milliseconds()), int(r.Progress.Milliseconds()))
	case len(r.Token) > WatchTokenBytes:
		return limit("token", WatchTokenBytes, len(r.Token))
	}
	for _, bound := range []struct{ field, key string }{{"key", r.Key}, {"prefix", r.Prefix}, {"start", r.Start}, {"end", r.End}} {
		if len(bound.key) > KeyBytes {
			return limit(bound.field, KeyBytes, len(bound.key))
		}
		if !utf8.ValidString(bound.key) {
			return &InvalidError{Field: bound.field, Problem: "a key is valid UTF-8"}
		}
	}
	return nil
}

// watchPlaces returns where a watch is to begin, next being 0 where that is now.
func (n *Node) watchPlaces(r *WatchRequest, f *watch.Filter) ([]watchPlace, error) {
	shards := n.watchShards(f)
	for _, shard := range r.Shards {
		if !slices.Contains(shards, shard) {
			return nil, &InvalidError{Field: "shards", Problem: fmt.Sprintf("shard %d has none of the keys; there are %v", shard, shards)}
		}
	}
	if len(r.Shards) > 0 {
		shards = slices.Compact(slices.Sorted(slices.Values(r.Shards)))
	}
	if r.Token == "" {
		if r.Revision != 0 && len(shards) > 1 {
			return nil, &InvalidError{Field: "revision", Problem: fmt.Sprintf(
				"each shard counts its own revisions, and these keys are of %d; watch one key or {tag}, or one shard, or go on with a token", len(shards))}
		}
		var places []watchPlace
		for _, shard := range shards {
			places = append(places, watchPlace{shard: shard, next: r.Revision, initial: r.Initial})
		}
		return places, nil
	}
	places, err := decodeWatchToken(r.Token, n.identity.Load().GetFormation().GetClusterId(), watchHash(f))
	if err != nil {
		return nil, err
	}
	for _, p := range places {
		if !slices.Contains(shards, p.shard) {
			return nil, &InvalidError{Field: "token", Problem: fmt.Sprintf("is of shard %d, this watch of %v", p.shard, shards)}
		}
	}
	if len(places) != len(shards) && len(r.Shards) > 0 {
		return nil, &InvalidError{Field: "token", Problem: "is of other shards than are asked for"}
	}
	return places, nil
}

// watchShards returns the shards that may have keys of a range: one for a single key, and for a prefix with a whole {tag}.
func (n *Node) watchShards(f *watch.Filter) []placement.ShardID {
	if f.Key != "" {
		return []placement.ShardID{n.Route(f.Key)}
	}
	if placement.TagPrefix(f.Prefix) != "" {
		return []placement.ShardID{n.Route(f.Prefix)}
	}
	return n.shards.data()
}

// watchNow returns the revisions of the shards in a round that begins now, as the local replicas see them.
func (n *Node) watchNow(ctx context.Context, places []watchPlace) ([]uint64, time.Time, error) {
	type answer struct {
		i   int
		res Result
	}
	at := n.runtime.Now()
	deadline, _ := ctx.Deadline()
	answers := make(chan answer, len(places))
	for i, p := range places {
		n.Submit(&Request{
			Shard: p.shard, Deadline: deadline, Read: &peerv1.ReadRequest{}, forwarded: true,
			Done: func(res Result) { answers <- answer{i, res} },
		})
	}
	revisions := make([]uint64, len(places))
	var failure error
	for range places {
		select {
		case a := <-answers:
			revisions[a.i] = a.res.Origin.GetRevision()
			if a.res.Err != nil {
				failure = a.res.Err
			}
		case <-ctx.Done():
			return nil, at, ErrTimeout
		case <-n.done:
			return nil, at, ErrStopped
		}
	}
	return revisions, at, failure
}

// startPlace checks where a watch of a shard begins that is at a revision.
func (n *Node) startPlace(p watchPlace, r *WatchRequest, now uint64) (watchPlace, error) {
	if p.next == 0 {
		p.next = now + 1
	}
	if p.next > now+1 {
		return p, &FutureRevisionError{Shard: p.shard, Revision: p.next, Current: now}
	}
	if floor := n.engine.position(p.shard).historyFloor; p.next < floor {
		return p, &CompactedError{Shard: p.shard, Revision: p.next, Oldest: floor}
	}
	if p.initial && p.key == "" {
		p.key = r.initialStart()
	}
	return p, nil
}

// initialStart is the first key of the range.
func (r *WatchRequest) initialStart() string { return r.Key + r.Prefix + r.Start }
