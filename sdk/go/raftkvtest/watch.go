package raftkvtest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

const (
	watchEventsDefault   = 100
	watchProgressDefault = 10 * time.Second
)

// event is one change of a key.
type event struct {
	revision      uint64
	key           string
	before, after *raftkvv1.KeyValue
	expired       bool
}

// SplitWatches makes responses of watches have n events at the most, so that a revision with more of them is split.
func (c *Cluster) SplitWatches(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchEvents = n
}

// EndWatches ends the watches at node i with an error, or without a word if e is nil, and returns how many there were.
func (c *Cluster) EndWatches(i int, e *Error) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for w := range c.watches {
		if w.node.index == i {
			delete(c.watches, w)
			w.ended, n = e, n+1
			close(w.end)
		}
	}
	return n
}

// Watches is how many watches node i serves.
func (c *Cluster) Watches(i int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for w := range c.watches {
		if w.node.index == i {
			n++
		}
	}
	return n
}

// SetReplicas says which nodes have a replica of a shard, and so can serve watches of it. By default all have.
func (c *Cluster) SetReplicas(id placement.ShardID, nodes ...int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shards[id].replicas = nodes
}

// Compact makes a shard forget its history up to the present: an older revision is Compacted.
func (c *Cluster) Compact(id placement.ShardID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.shards[id]
	s.oldest, s.events = s.revision+1, nil
}

// place is where a watch is in a shard: behind all revisions below Next, of which Skip events of Next were sent, or at Key of the keys of the start.
type place struct {
	Shard   placement.ShardID
	Next    uint64
	Initial bool   `json:",omitempty"`
	Key     string `json:",omitempty"`
	skip    int
}

// watch is one that a node serves.
type watch struct {
	node    *node
	request *raftkvv1.WatchRequest
	places  []*place
	created bool
	turn    int
	// end is closed when a test ends the watch, with ended.
	end   chan struct{}
	ended *Error
}

type watchService struct{ *node }

// Watch streams events until the client, the node or a test ends it.
func (s *watchService) Watch(ctx context.Context, r *raftkvv1.WatchRequest, stream *connect.ServerStream[raftkvv1.WatchResponse]) error {
	if _, err := s.hooked(ctx, "Watch"); err != nil {
		return err
	}
	w, e := s.begin(r)
	if e != nil {
		return e.rpc()
	}
	defer s.forget(w)
	interval := watchProgressDefault
	if r.ProgressIntervalMs > 0 {
		interval = time.Duration(r.ProgressIntervalMs) * time.Millisecond
	}
	progress := time.NewTicker(interval)
	defer progress.Stop()
	due := false
	for {
		res, changed, e := s.next(w, due)
		if e != nil {
			return e.rpc()
		}
		due = false
		if res != nil {
			if err := stream.Send(res); err != nil {
				return err
			}
		}
		if res == nil {
			select {
			case <-changed:
			case <-progress.C:
				due = true
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-s.stopped:
				abort()
			case <-w.end:
			}
		}
		select {
		case <-w.end:
			if w.ended == nil {
				abort()
			}
			return w.ended.rpc()
		default:
		}
	}
}

func (s *watchService) forget(w *watch) {
	s.cluster.mu.Lock()
	defer s.cluster.mu.Unlock()
	delete(s.cluster.watches, w)
}

func (s *watchService) begin(r *raftkvv1.WatchRequest) (*watch, *Error) {
	c := s.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	w := &watch{node: s.node, request: r, end: make(chan struct{})}
	places, e := c.placesOf(r)
	if e != nil {
		return nil, e
	}
	for _, p := range places {
		sh := c.shards[p.Shard]
		if sh.replicas != nil && !slices.Contains(sh.replicas, s.index) {
			return nil, noReplica(sh)
		}
		if p.Next == 0 {
			p.Next = sh.revision + 1
		}
		if p.Next > sh.revision+1 {
			return nil, futureRevision(sh, p.Next)
		}
		if p.Next < sh.oldest {
			return nil, compacted(sh, p.Next)
		}
	}
	w.places = places
	c.watches[w] = struct{}{}
	return w, nil
}

func watchHash(r *raftkvv1.WatchRequest) string {
	return fmt.Sprintf("%q %q %q %q %t %t", r.Key, r.Prefix, r.Start, r.End, r.NoPuts, r.NoDeletes)
}

// watchToken is what a token says.
type watchToken struct {
	Cluster string
	Of      string
	Places  []*place
}

func (c *Cluster) placesOf(r *raftkvv1.WatchRequest) ([]*place, *Error) {
	shards := c.shardsOf(r)
	if r.Start != "" && r.End != "" && r.Start >= r.End {
		return nil, invalid("range: no key is from start on and before end")
	}
	if r.Token != "" {
		var t watchToken
		text, err := base64.RawURLEncoding.DecodeString(r.Token)
		switch {
		case err != nil || json.Unmarshal(text, &t) != nil:
			return nil, invalid("token: is not a token that a watch has given")
		case t.Cluster != c.id:
			return nil, invalid("token: is of cluster " + t.Cluster + ", this is " + c.id + "; begin anew without it")
		case t.Of != watchHash(r):
			return nil, invalid("token: belongs to a watch of other keys; repeat its key, prefix, range and filters")
		case len(t.Places) != len(shards):
			return nil, invalid("token: is of other shards than are asked for")
		}
		return t.Places, nil
	}
	if r.Revision != 0 && len(shards) > 1 {
		return nil, invalid("revision: each shard counts its own revisions; watch one key or {tag}")
	}
	var places []*place
	for _, id := range shards {
		places = append(places, &place{Shard: id, Next: r.Revision, Initial: r.IncludeInitial})
	}
	return places, nil
}

// shardsOf are those that a watch is of.
func (c *Cluster) shardsOf(r *raftkvv1.WatchRequest) (shards []placement.ShardID) {
	open := strings.IndexByte(r.Prefix, '{')
	switch {
	case len(r.Shards) > 0:
		for _, id := range r.Shards {
			shards = append(shards, placement.ShardID(id))
		}
	case r.Key != "":
		shards = append(shards, c.slots[placement.SlotOf(r.Key)].id)
	case open >= 0 && strings.IndexByte(r.Prefix[open:], '}') > 1:
		shards = append(shards, c.slots[placement.SlotOf(r.Prefix)].id)
	default:
		for _, s := range c.shards[1:] {
			shards = append(shards, s.id)
		}
	}
	return shards
}

func (w *watch) watches(key string) bool {
	r := w.request
	if r.Key != "" {
		return key == r.Key
	}
	return strings.HasPrefix(key, r.Prefix) && key >= r.Start && (r.End == "" || key < r.End)
}

// next returns the next response, or nil and what is closed when there may be one.
func (s *watchService) next(w *watch, progress bool) (*raftkvv1.WatchResponse, <-chan struct{}, *Error) {
	c := s.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	res := &raftkvv1.WatchResponse{Header: &raftkvv1.ResponseHeader{ClusterId: c.id, NodeId: s.id}}
	found := false
	for _, p := range w.places {
		if sh := c.shards[p.Shard]; p.Next < sh.oldest {
			return nil, nil, compacted(sh, p.Next)
		}
	}
	switch {
	case !w.created:
		w.created, res.Created, found = true, true, true
		res.Progress = c.progressOf(w)
	case progress:
		found = true
		res.Progress = c.progressOf(w)
	default:
		for range w.places {
			p := w.places[w.turn%len(w.places)]
			w.turn++
			if found = c.gather(w, p, res); found {
				break
			}
		}
	}
	if !found {
		return nil, c.changed, nil
	}
	res.Token = w.token()
	return res, nil, nil
}

func (c *Cluster) progressOf(w *watch) []*raftkvv1.WatchProgress {
	var all []*raftkvv1.WatchProgress
	for _, p := range w.places {
		all = append(all, &raftkvv1.WatchProgress{Shard: uint32(p.Shard), Revision: p.Next - 1, FreshnessMs: new(uint64)})
	}
	return all
}

func (w *watch) token() string {
	text, err := json.Marshal(watchToken{w.node.cluster.id, watchHash(w.request), w.places})
	if err != nil {
		panic(fmt.Sprintf("raftkvtest: marshal a token: %v", err))
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// gather fills a response with what comes next in one shard; false if there is nothing. Keys of the start come first, of all shards.
func (c *Cluster) gather(w *watch, p *place, res *raftkvv1.WatchResponse) bool {
	s := c.shards[p.Shard]
	res.Header.Shard = uint32(s.id)
	if p.Initial {
		c.gatherInitial(w, s, p, res)
		return true
	}
	if slices.ContainsFunc(w.places, func(o *place) bool { return o.Initial }) {
		return false
	}
	for len(res.Events) < c.watchEvents {
		i, _ := slices.BinarySearchFunc(s.events, p.Next, func(e event, r uint64) int { return int(e.revision) - int(r) })
		if i == len(s.events) {
			p.Next = s.revision + 1
			break
		}
		p.Next = s.events[i].revision
		for i += p.skip; i < len(s.events) && s.events[i].revision == p.Next && len(res.Events) < c.watchEvents; i++ {
			p.skip++
			if e := w.event(s, &s.events[i]); e != nil {
				res.Events = append(res.Events, e)
			}
		}
		if i < len(s.events) && s.events[i].revision == p.Next {
			res.MoreOfRevision = len(res.Events) > 0 && res.Events[len(res.Events)-1].Revision == p.Next
			break
		}
		p.Next, p.skip = p.Next+1, 0
	}
	res.Header.Revision = p.Next - 1
	return len(res.Events) > 0
}

func (w *watch) event(s *shard, e *event) *raftkvv1.Event {
	if !w.watches(e.key) || e.after != nil && w.request.NoPuts || e.after == nil && w.request.NoDeletes {
		return nil
	}
	out := &raftkvv1.Event{Type: raftkvv1.EventType_EVENT_TYPE_PUT, Kv: e.after, Shard: uint32(s.id), Revision: e.revision}
	if e.after == nil {
		out.Type = raftkvv1.EventType_EVENT_TYPE_DELETE
		out.Kv, out.Expired = &raftkvv1.KeyValue{Key: e.key, ModRevision: e.revision}, e.expired
	}
	if w.request.PrevKv {
		out.PrevKv = e.before
	}
	return out
}

func (c *Cluster) gatherInitial(w *watch, s *shard, p *place, res *raftkvv1.WatchResponse) {
	res.Header.Revision = p.Next - 1
	p.Initial = false
	for _, key := range slices.Sorted(maps.Keys(s.versions)) {
		kv := s.at(key, p.Next-1)
		if kv == nil || key < p.Key || !w.watches(key) {
			continue
		}
		if len(res.Events) == c.watchEvents {
			p.Initial, p.Key = true, key
			break
		}
		if now := s.items[key]; now != nil && now.ModRevision == kv.ModRevision {
			kv = c.shown(kv)
		}
		res.Events = append(res.Events, &raftkvv1.Event{
			Type: raftkvv1.EventType_EVENT_TYPE_PUT, Kv: kv, Shard: uint32(s.id), Revision: kv.ModRevision, Initial: true,
		})
	}
	res.InitialDone = !slices.ContainsFunc(w.places, func(o *place) bool { return o.Initial })
}

// set writes or, with nil, removes a key, and tells those who watch. c.mu is held.
func (c *Cluster) set(s *shard, key string, kv *raftkvv1.KeyValue) {
	s.events = append(s.events, event{revision: s.revision, key: key, before: c.shown(s.items[key]), after: kv})
	s.set(key, kv)
	delete(s.deadlines, key)
	close(c.changed)
	c.changed = make(chan struct{})
}
