package raftnode_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// watcher reads a stream until something has come.
type watcher struct {
	t      *testing.T
	stream *raftnode.WatchStream
	// seen are records as "=key value", events as "+key value" or "-key", with "(before)" behind it.
	seen  []string
	last  *raftnode.WatchBatch
	parts int // marked as going on
}

func (c *cluster) watch(t *testing.T, id placement.NodeID, r raftnode.WatchRequest) *watcher {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), longTimeout)
	defer cancel()
	s, err := c.nodes[id].Watch(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	w := &watcher{t: t, stream: s}
	if w.next(); !w.last.Created || len(w.last.Progress) == 0 {
		t.Fatalf("the first batch: %+v", w.last)
	}
	return w
}

func (w *watcher) next() {
	w.t.Helper()
	if err := w.tryNext(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watcher) tryNext() error {
	ctx, cancel := context.WithTimeout(w.t.Context(), longTimeout)
	defer cancel()
	b, err := w.stream.Next(ctx, 1<<20)
	if err != nil {
		return err
	}
	w.last = b
	for _, r := range b.Records {
		w.seen = append(w.seen, "="+r.GetKey()+" "+string(r.GetRecord().GetValue()))
	}
	for _, e := range b.Events {
		text := "-" + e.Key
		if e.After != nil {
			text = "+" + e.Key + " " + string(e.After.GetRecord().GetValue())
		}
		if e.Before != nil {
			text += " (" + string(e.Before.GetRecord().GetValue()) + ")"
		}
		w.seen = append(w.seen, text)
	}
	if b.MoreOfRevision {
		w.parts++
	}
	return nil
}

// sees waits until so much has come.
func (w *watcher) sees(want ...string) {
	w.t.Helper()
	for len(w.seen) < len(want) {
		w.next()
	}
	if !slices.Equal(w.seen, want) {
		w.t.Fatalf("saw %q, want %q", w.seen, want)
	}
}

func (c *cluster) deleteKeys(t *testing.T, id placement.NodeID, keys ...string) {
	t.Helper()
	w := &storev1.Write{}
	for _, k := range keys {
		w.Operations = append(w.Operations, &storev1.Operation{Kind: storev1.OperationKind_OPERATION_KIND_DELETE, Key: k})
	}
	ctx, cancel := context.WithTimeout(t.Context(), longTimeout)
	defer cancel()
	if res := c.nodes[id].Do(ctx, &raftnode.Request{AutoShard: true, Command: &storev1.Command{Body: &storev1.Command_Write{Write: w}}}); res.Err != nil {
		t.Fatal(res.Err)
	}
}

func (c *cluster) mustPut(t *testing.T, key, value string) uint64 {
	t.Helper()
	res, err := c.put("n1", key, value)
	if err != nil {
		t.Fatal(err)
	}
	return res.GetRevision()
}

func TestWatchThroughEveryNode(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.mustPut(t, "a/1", "old")
	first := c.mustPut(t, "a/2", "two")
	var all []*watcher
	for _, m := range c.members {
		all = append(all, c.watch(t, m.ID, raftnode.WatchRequest{Prefix: "a/", Before: true, Initial: true}))
	}
	c.mustPut(t, "b", "not seen")
	c.mustPut(t, "a/1", "new")
	c.deleteKeys(t, "n2", "a/1", "a/2")
	for _, w := range all {
		w.sees("=a/1 old", "=a/2 two", "+a/1 new (old)", "-a/1 (new)", "-a/2 (two)")
	}
	// From a revision on, and from a token.
	c.watch(t, "n2", raftnode.WatchRequest{Prefix: "a/", Revision: first}).sees("+a/2 two", "+a/1 new", "-a/1", "-a/2")
	c.watch(t, "n2", raftnode.WatchRequest{Prefix: "a/", Revision: first, Initial: true}).sees("=a/1 old", "+a/2 two", "+a/1 new", "-a/1", "-a/2")
	c.watch(t, "n2", raftnode.WatchRequest{Key: "a/2", Revision: first, NoPuts: true}).sees("-a/2")
	c.watch(t, "n2", raftnode.WatchRequest{Start: "a/2", End: "c", Revision: first, NoDeletes: true}).sees("+a/2 two", "+b not seen")
	w := c.watch(t, "n3", raftnode.WatchRequest{Prefix: "a/", Revision: first})
	w.sees("+a/2 two", "+a/1 new", "-a/1", "-a/2")
	token := w.stream.Token()
	w.stream.Close()
	c.mustPut(t, "a/3", "three")
	c.watch(t, "n1", raftnode.WatchRequest{Prefix: "a/", Token: token, Revision: 1, Initial: true}).sees("+a/3 three")
}

// A watch goes on by its token after a leader has gone, in another node and in the same one when it is back.
func TestWatchGoesOnByToken(t *testing.T) {
	c := newCluster(t, 3, func(o *raftnode.Options) { o.Shards = 4 })
	w := c.watch(t, "n3", raftnode.WatchRequest{Prefix: "k"})
	var want []string
	put := func(n int) {
		for range n {
			key := fmt.Sprintf("k%03d", len(want))
			c.mustPut(t, key, "v")
			want = append(want, "+"+key+" v")
		}
	}
	complete := func() {
		t.Helper()
		for len(w.seen) < len(want) {
			w.next()
		}
		// Between shards there is no order.
		if slices.Sort(w.seen); !slices.Equal(w.seen, want) {
			t.Fatalf("saw %q", w.seen)
		}
	}
	put(20)
	complete()
	token := w.stream.Token()
	c.stop("n3")
	if err := w.tryNext(); !errors.Is(err, raftnode.ErrStopped) {
		t.Fatal(err)
	}
	put(20)
	seen := w.seen
	w = c.watch(t, "n2", raftnode.WatchRequest{Prefix: "k", Token: token})
	w.seen = seen
	complete()
	token = w.stream.Token()
	c.start("n3", nil)
	c.formed("n3")
	put(5)
	seen = w.seen
	w = c.watch(t, "n3", raftnode.WatchRequest{Prefix: "k", Token: token})
	w.seen = seen
	complete()
}

func TestWatchIsRefused(t *testing.T) {
	c := newCluster(t, 1, func(o *raftnode.Options) { o.Shards, o.HistoryBytes = 2, 2000 })
	var last uint64
	for range 200 {
		last = c.mustPut(t, "k", strings.Repeat("x", 100))
	}
	limited := func(err error) bool { var e *raftnode.LimitError; return errors.As(err, &e) }
	invalid := func(field string) func(error) bool {
		return func(err error) bool { var e *raftnode.InvalidError; return errors.As(err, &e) && e.Field == field }
	}
	waitFor(t, "the history to be trimmed", func() bool {
		_, err := c.nodes["n1"].Watch(t.Context(), raftnode.WatchRequest{Key: "k", Revision: 1})
		var compacted *raftnode.CompactedError
		return errors.As(err, &compacted) && compacted.Oldest > 100 && compacted.Oldest <= last+1
	})
	for _, row := range []struct {
		r  raftnode.WatchRequest
		is func(error) bool
	}{
		{raftnode.WatchRequest{Key: "a", Prefix: "b"}, invalid("range")},
		{raftnode.WatchRequest{Prefix: "b", End: "c"}, invalid("range")},
		{raftnode.WatchRequest{Start: "b", End: "a"}, invalid("range")},
		{raftnode.WatchRequest{Start: "b", End: "b"}, invalid("range")},
		{raftnode.WatchRequest{NoPuts: true, NoDeletes: true}, invalid("filter")},
		{raftnode.WatchRequest{Prefix: "\xff"}, invalid("prefix")},
		{raftnode.WatchRequest{Key: strings.Repeat("k", 5000)}, limited},
		{raftnode.WatchRequest{Progress: time.Millisecond}, limited},
		{raftnode.WatchRequest{Token: strings.Repeat("k", 100_000)}, limited},
		{raftnode.WatchRequest{Token: "x"}, invalid("token")},
		{raftnode.WatchRequest{Prefix: "k", Revision: 3}, invalid("revision")},
		{raftnode.WatchRequest{Shards: []placement.ShardID{9}}, invalid("shards")},
		{raftnode.WatchRequest{Key: "k", Revision: last + 2}, func(err error) bool {
			var e *raftnode.FutureRevisionError
			return errors.As(err, &e) && e.Revision == last+2 && e.Current == last
		}},
	} {
		if s, err := c.nodes["n1"].Watch(t.Context(), row.r); s != nil || !row.is(err) {
			t.Errorf("%+v: %v", row.r, err)
		}
	}
	// The next revision is not of the future; it is the one that comes.
	w := c.watch(t, "n1", raftnode.WatchRequest{Key: "k", Revision: last + 1})
	c.mustPut(t, "k", "next")
	w.sees("+k next")
	// A prefix with a whole tag is of one shard.
	c.watch(t, "n1", raftnode.WatchRequest{Prefix: "{tag}/", Revision: 1})
}

// A node without a replica says so, and every shard can be watched where it is.
func TestWatchWhereTheShardsAre(t *testing.T) {
	c := newCluster(t, 2, func(o *raftnode.Options) { o.Shards, o.Replicas = 2, 1 })
	var missing *raftnode.NoReplicaError
	seen := 0
	for id, n := range c.nodes {
		if _, err := n.Watch(t.Context(), raftnode.WatchRequest{}); !errors.As(err, &missing) {
			t.Fatal(err)
		}
		for _, shard := range n.Status().Shards {
			if shard.Local && shard.ID != placement.MetaShard {
				w := c.watch(t, id, raftnode.WatchRequest{Shards: []placement.ShardID{shard.ID}})
				token := w.stream.Token()
				c.watch(t, id, raftnode.WatchRequest{Token: token})
				seen++
			}
		}
	}
	if seen != 2 {
		t.Errorf("%d shards can be watched", seen)
	}
}

// A quiet watch says how far it is: that there was nothing is known, and a token does not grow old.
func TestWatchProgress(t *testing.T) {
	c := newCluster(t, 3, nil)
	w := c.watch(t, "n2", raftnode.WatchRequest{Key: "quiet", Progress: 100 * time.Millisecond})
	begun := w.last.Progress[0].Revision
	var last uint64
	for i := range 20 {
		last = c.mustPut(t, fmt.Sprint(i), "v")
	}
	for w.last.Progress[0].Revision < last {
		if w.next(); len(w.last.Events) > 0 {
			t.Fatalf("%+v", w.last)
		}
	}
	if begun != last-20 || w.last.Progress[0].Age < 0 || w.last.Progress[0].Age > time.Minute {
		t.Errorf("from %d, then %+v", begun, w.last.Progress)
	}
}

// A revision that is larger than a page comes in marked parts; a token within it repeats it.
func TestALargeRevisionIsMarked(t *testing.T) {
	c := newCluster(t, 1, nil)
	w := c.watch(t, "n1", raftnode.WatchRequest{Prefix: "k"})
	write := &storev1.Write{}
	var want []string
	for i := range 6 {
		key, value := fmt.Sprintf("k%d", i), strings.Repeat("x", 200<<10)
		write.Operations = append(write.Operations, &storev1.Operation{Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: key, Value: []byte(value)})
		want = append(want, "+"+key+" "+value)
	}
	if res := c.nodes["n1"].Do(t.Context(), &raftnode.Request{AutoShard: true, Command: &storev1.Command{Body: &storev1.Command_Write{Write: write}}}); res.Err != nil {
		t.Fatal(res.Err)
	}
	for w.parts == 0 && len(w.seen) < len(want) {
		w.next()
	}
	if w.parts == 0 {
		t.Fatal("no part says that more follows")
	}
	token := w.stream.Token()
	w.sees(want...)
	if w.last.MoreOfRevision || !w.last.Behind {
		t.Errorf("the last part: more %t, behind %t", w.last.MoreOfRevision, w.last.Behind)
	}
	c.watch(t, "n1", raftnode.WatchRequest{Prefix: "k", Token: token}).sees(want...)
}

// Records of the start are of one revision, whatever is written while they are read, and a token goes on among them.
func TestInitialRecordsAreOfOneRevision(t *testing.T) {
	c := newCluster(t, 1, func(o *raftnode.Options) { o.Limits.PageItems = 3 })
	var want []string
	for i := range 10 {
		key := fmt.Sprintf("k%d", i)
		c.mustPut(t, key, "old")
		want = append(want, "="+key+" old")
	}
	w := c.watch(t, "n1", raftnode.WatchRequest{Prefix: "k", Initial: true})
	w.next()
	c.deleteKeys(t, "n1", "k8")
	c.mustPut(t, "k9", "new")
	c.mustPut(t, "k91", "new")
	w.next()
	token, seen := w.stream.Token(), w.seen
	w.stream.Close()
	w = c.watch(t, "n1", raftnode.WatchRequest{Prefix: "k", Token: token})
	w.seen = seen
	w.sees(append(want, "-k8", "+k9 new", "+k91 new")...)
}

// A replica that is cut off ends its watches: it could not tell that it misses something. The token goes on when the others are back.
func TestWatchOfACutOffReplicaEnds(t *testing.T) {
	c := newCluster(t, 3, nil)
	w := c.watch(t, "n3", raftnode.WatchRequest{Prefix: "k", Progress: 100 * time.Millisecond})
	c.mustPut(t, "k1", "v")
	w.sees("+k1 v")
	c.stop("n1")
	c.stop("n2")
	var cutOff *raftnode.CutOffError
	for err := error(nil); !errors.As(err, &cutOff); err = w.tryNext() {
		if err != nil {
			t.Fatal(err)
		}
	}
	token := w.stream.Token()
	c.start("n1", nil)
	c.start("n2", nil)
	c.formed("n1")
	c.mustPut(t, "k2", "v")
	c.watch(t, "n1", raftnode.WatchRequest{Prefix: "k", Token: token}).sees("+k2 v")
}

// What a watch shows lives on for as long as when it was written; what it begins with, for what is left.
func TestWatchesShowTimesToLive(t *testing.T) {
	c := newCluster(t, 1, nil)
	const ttl = 60_000
	w := c.watch(t, "n1", raftnode.WatchRequest{Key: "a"})
	for range 2 {
		if res := c.do("n1", mortalPut("a", ttl, 0)); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	var events []raftnode.WatchEvent
	for len(events) < 2 {
		w.next()
		events = append(events, w.last.Events...)
	}
	for _, e := range events {
		if got := e.After.GetRemainingMs(); got != ttl {
			t.Errorf("put for %d ms, shown with %d", ttl, got)
		}
	}
	initial := c.watch(t, "n1", raftnode.WatchRequest{Key: "a", Initial: true})
	for len(initial.last.Records) == 0 {
		initial.next()
	}
	if got := initial.last.Records[0].GetRemainingMs(); got == 0 || got > ttl {
		t.Errorf("begins with %d ms of %d", got, ttl)
	}
}
