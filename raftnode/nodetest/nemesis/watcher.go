package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/gen/go/raftkv/v1/raftkvv1connect"
	"github.com/raftkv/raftkv/raftnode/nodetest"
	"github.com/raftkv/raftkv/raftnode/placement"
)

const (
	// watchProgress is how often a watch says how far it is; quietMax how long one may say nothing before its client goes elsewhere, because a
	// process that is frozen says nothing for ever.
	watchProgress = time.Second
	quietMax      = 4 * time.Second
	// restMax is how long a watcher is away now and then: the history may be gone when it comes back.
	restMax = 40 * time.Second
	// hopAfter is how long a watch of keys goes on that are not written any more.
	hopAfter = 2 * time.Second
	// watchedWithin is how soon watchers must have been told everything when nothing is wrong.
	watchedWithin = 20 * time.Second
)

// watcher watches through one node after another. Those of some keys go on to others after each window; theirs are several watches then.
type watcher struct {
	load   *load
	random *rand.Rand
	// draw begins another watch; hops says that it is to be called after each window. restless: it is never away.
	draw           func() *watched
	hops, restless bool

	// mu guards what follows. The locks of the recorder and of the keys come behind it.
	mu    sync.Mutex
	now   *watched
	ended []*watched
	// drawn is the generation of keys in which now was drawn.
	drawn int
	// resumed, forgotten and cutOff count what has come of it.
	resumed, forgotten, cutOff int
}

// watchers are those of a run, and what stops them.
type watchers struct {
	all  []*watcher
	stop context.CancelFunc
	wait sync.WaitGroup
}

// watch lets watchers begin. They rest now and then as long as ctx lasts, and end when they are stopped.
func (l *load) watch(ctx context.Context) *watchers {
	ws := &watchers{}
	watching, stop := context.WithCancel(context.Background())
	ws.stop = stop
	for i := range watchKinds {
		w := &watcher{load: l, random: rand.New(rand.NewPCG(l.seed, uint64(i)+10_000)), restless: i == 0} //nolint:gosec // not secret
		w.draw = func() *watched { return w.drawWatch(i) }
		w.hops = i >= firstHopping
		w.next()
		ws.all = append(ws.all, w)
		ws.wait.Go(func() { w.run(watching, ctx) })
	}
	return ws
}

// Everything with what was replaced, everything of a shard, keys of all shards by a prefix, those that do not live for ever, a group, and a key.
const (
	watchKinds   = 6
	firstHopping = 4
)

// drawWatch draws a watch of a kind.
func (w *watcher) drawWatch(kind int) *watched {
	r := &raftkvv1.WatchRequest{ProgressIntervalMs: uint32(watchProgress.Milliseconds()), IncludeInitial: true} //nolint:gosec // small
	out := &watched{request: r, Watch: nodetest.Watch{Name: "all keys"}}
	group := w.load.keys.pick(w.random, false)
	switch kind {
	case 0:
		r.PrevKv, out.All = true, true
	case 1:
		r.Shards, out.All = []uint32{uint32(1 + w.random.IntN(shards))}, true //nolint:gosec // small
		out.Name = fmt.Sprintf("shard %d", r.Shards[0])
	case 2:
		r.Prefix, r.PrevKv = "{g1", true
	case 3:
		r.Prefix = mortalPrefix
	case 4:
		r.Prefix, r.PrevKv, r.IncludeInitial = groupPrefix(group), w.random.IntN(2) == 0, w.random.IntN(2) == 0
	default:
		r.Key, r.IncludeInitial = keyName(group, w.random.IntN(nodetest.GroupKeys)), w.random.IntN(2) == 0
	}
	if !out.All {
		out.Name = r.Key + r.Prefix
	}
	out.Name = fmt.Sprintf("watcher %d of %s", kind, out.Name)
	out.Initial, out.Before = r.GetIncludeInitial(), r.GetPrevKv()
	key, prefix := r.GetKey(), r.GetPrefix()
	out.Covers = func(k string) bool { return key == "" && strings.HasPrefix(k, prefix) || key != "" && k == key }
	return out
}

// run follows one stream after another until ctx ends. It is away now and then as long as resting lasts.
func (w *watcher) run(ctx, resting context.Context) {
	for ctx.Err() == nil {
		w.follow(ctx, resting)
		d := time.Duration(w.random.ExpFloat64() * float64(retryMean))
		if !w.restless && w.random.IntN(12) == 0 {
			pause(resting, time.Duration(w.random.Int64N(int64(restMax))))
		}
		pause(ctx, d)
	}
}

// next begins another watch. mu is held, or nobody else has the watcher yet.
func (w *watcher) next() { w.drawn, w.now = w.load.keys.generation(), w.draw() }

// follow follows one stream through a node of chance. Nothing that it was told is lost, and it does not leave by itself, once resting is over.
func (w *watcher) follow(running, resting context.Context) {
	node := w.random.IntN(nodes)
	client := w.load.endpoints[node].watch[w.random.IntN(2)]
	ctx, cancel := context.WithCancel(running)
	defer cancel()
	quiet := time.AfterFunc(quietMax, cancel)
	defer quiet.Stop()
	w.mu.Lock()
	request := w.now.begin(w.load.rec.now())
	if request.Token != "" {
		w.resumed++
	}
	drawn := w.drawn
	w.mu.Unlock()
	stream, err := client.Watch(ctx, request)
	for err == nil && stream.Receive() {
		quiet.Reset(quietMax)
		w.took(node, stream.Msg())
		if resting.Err() != nil {
			continue
		}
		if w.hops && w.load.keys.since(drawn) > hopAfter {
			w.hop()
			return
		}
		switch w.random.IntN(100) {
		case 0: // It goes elsewhere.
			w.retreat(resting)
			return
		case 1: // It is slow.
			pause(ctx, time.Duration(w.random.Int64N(int64(2*time.Second))))
			quiet.Reset(quietMax)
		}
	}
	if err == nil {
		err = stream.Err()
		_ = stream.Close() // It has ended.
	}
	if running.Err() == nil {
		w.retreat(resting)
		w.failed(ctx, node, err)
	}
}

func (w *watcher) took(node int, res *raftkvv1.WatchResponse) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.now.take(res); err != nil {
		w.load.rec.violate("%s: %v", nodeID(node), err)
	}
}

// hop leaves the keys that it watches.
func (w *watcher) hop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now.retreat(false)
	w.ended = append(w.ended, w.now)
	w.next()
}

func (w *watcher) retreat(resting context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now.retreat(resting.Err() == nil && w.random.IntN(2) == 0)
}

// failed goes on from an error: where it was, or anew if the history is gone.
func (w *watcher) failed(ctx context.Context, node int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Err() != nil {
		return // Its client has ended it.
	}
	if err == nil {
		w.load.rec.violate("%s: %s ends, and nobody says why", nodeID(node), w.now.Name)
		return
	}
	switch f := judge(err); {
	case f.compacted:
		w.forgotten++
		w.now.anew()
	case f.cutOff:
		w.cutOff++
	case f.future || f.code == connect.CodeInvalidArgument:
		w.load.rec.violate("%s: %s is refused: %v", nodeID(node), w.now.Name, err)
	}
}

// end ends all watchers.
func (ws *watchers) end() {
	ws.stop()
	ws.wait.Wait()
}

// told waits until all watchers were told everything that reads have shown, and stops them. It returns what they were told, and of which that makes what
// is there in the end.
func (ws *watchers) told(finals []*nodetest.Operation) (all, whole []*nodetest.Watch, err error) {
	to := make(map[placement.ShardID]uint64)
	for _, op := range finals {
		to[op.Shard] = max(to[op.Shard], op.Origin)
	}
	p := newPatience(watchedWithin)
	defer p.end()
	behind := func(w *watcher) bool { return !w.complete(to) }
	for slices.ContainsFunc(ws.all, behind) && !p.ended() {
		pause(context.Background(), 50*time.Millisecond)
	}
	for _, w := range ws.all {
		if behind(w) {
			err = fmt.Errorf("%s is not told everything up to %v within %s, though nothing is wrong any more", w.now.Name, to, watchedWithin)
		}
	}
	ws.end()
	for _, w := range ws.all {
		for _, one := range append(w.ended, w.now) {
			all = append(all, &one.Watch)
		}
		if w.now.Initial && err == nil {
			whole = append(whole, &w.now.Watch)
		}
	}
	return all, whole, err
}

func (w *watcher) complete(to map[placement.ShardID]uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now.complete(to)
}

// save writes what watchers were told.
func (ws *watchers) save(path string) error {
	told := make(map[string][]*nodetest.WatchedShard)
	for _, w := range ws.all {
		w.mu.Lock()
		for i, one := range append(slices.Clone(w.ended), w.now) {
			told[fmt.Sprintf("%s, %d", one.Name, i)] = one.Shards
		}
		w.mu.Unlock()
	}
	return saveJSON(path, told)
}

// date gives the marks of all watches their times.
func (ws *watchers) date(h *nodetest.History) {
	begun := beginningsOf(h)
	for _, w := range ws.all {
		for _, one := range append(w.ended, w.now) {
			one.date(begun)
		}
	}
}

// watchClients are those of both protocols.
func watchClients(at func(port int) string, plain, h2 connect.HTTPClient) [2]raftkvv1connect.WatchServiceClient {
	return [2]raftkvv1connect.WatchServiceClient{
		raftkvv1connect.NewWatchServiceClient(plain, at(clientPort)),
		raftkvv1connect.NewWatchServiceClient(h2, at(grpcPort), connect.WithGRPC()),
	}
}
