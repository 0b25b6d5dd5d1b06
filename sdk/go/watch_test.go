package raftkv_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	raftkv "github.com/raftkv/raftkv/sdk/go"
	"github.com/raftkv/raftkv/sdk/go/raftkvtest"
)

// tell is an event in a word.
func tell(e *raftkv.Event) string {
	switch {
	case e.Type == raftkv.EventProgress || e.Type == raftkv.EventInitialDone:
		return e.Type.String()
	case e.Initial:
		return fmt.Sprintf("initial %s=%s@%d", e.Item.Key, e.Item.Value, e.Revision)
	}
	text := fmt.Sprintf("%s %s=%s@%d", e.Type, e.Item.Key, e.Item.Value, e.Revision)
	if e.Previous != nil {
		text += fmt.Sprintf(" was %s", e.Previous.Value)
	}
	return text
}

// reader pulls from a watch.
type reader struct {
	t    testing.TB
	next func() (*raftkv.Event, error, bool)
}

func read(t testing.TB, watch iter.Seq2[*raftkv.Event, error]) *reader {
	next, stop := iter.Pull2(watch)
	t.Cleanup(stop)
	return &reader{t, next}
}

func (r *reader) event() *raftkv.Event {
	r.t.Helper()
	e, err, ok := r.next()
	if err != nil || !ok {
		r.t.Fatalf("the watch ends with %v", err)
	}
	return e
}

// want reads as many events as there are words for.
func (r *reader) want(words ...string) {
	r.t.Helper()
	for _, want := range words {
		if got := tell(r.event()); got != want {
			r.t.Fatalf("%q, want %q", got, want)
		}
	}
}

func (r *reader) fails() error {
	r.t.Helper()
	e, err, ok := r.next()
	if err == nil || !ok {
		r.t.Fatalf("event %v, want an error", e)
	}
	if _, _, ok := r.next(); ok {
		r.t.Fatal("the sequence goes on behind an error")
	}
	return err
}

func put(t testing.TB, c *raftkv.Client, key, value string, options ...raftkv.PutOption) raftkv.Result {
	t.Helper()
	r, err := c.Put(within(t, time.Minute), key, []byte(value), options...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func remove(t testing.TB, c *raftkv.Client, key string) {
	t.Helper()
	if _, err := c.Delete(within(t, time.Minute), key); err != nil {
		t.Fatal(err)
	}
}

func TestWatch(t *testing.T) {
	_, client := open(t, 3, 1)
	ctx := within(t, time.Minute)
	put(t, client, "a/1", "old")
	now := read(t, client.Watch(ctx, raftkv.Prefix("a/"), raftkv.WithProgress(0), raftkv.Previous()))
	now.want("progress")
	put(t, client, "a/1", "new")
	put(t, client, "b", "other")
	remove(t, client, "a/1")
	now.want("put a/1=new@2 was old", "delete a/1=@4 was new")
	for name, c := range map[string]struct {
		what    raftkv.Watchable
		options []raftkv.WatchOption
		want    []string
	}{
		"key":     {raftkv.Key("a/1"), []raftkv.WatchOption{raftkv.FromRevision(1)}, []string{"put a/1=old@1", "put a/1=new@2", "delete a/1=@4"}},
		"range":   {raftkv.Range{Start: "a", End: "b"}, []raftkv.WatchOption{raftkv.FromRevision(2)}, []string{"put a/1=new@2", "delete a/1=@4"}},
		"all":     {raftkv.Range{}, []raftkv.WatchOption{raftkv.FromRevision(2)}, []string{"put a/1=new@2", "put b=other@3", "delete a/1=@4"}},
		"puts":    {raftkv.Range{}, []raftkv.WatchOption{raftkv.FromRevision(1), raftkv.WithoutDeletes()}, []string{"put a/1=old@1", "put a/1=new@2", "put b=other@3"}},
		"deletes": {raftkv.Range{}, []raftkv.WatchOption{raftkv.FromRevision(1), raftkv.WithoutPuts()}, []string{"delete a/1=@4"}},
		"initial": {raftkv.Range{}, []raftkv.WatchOption{raftkv.IncludeInitial()}, []string{"initial b=other@3", "initial done"}},
		"then":    {raftkv.Range{}, []raftkv.WatchOption{raftkv.IncludeInitial(), raftkv.FromRevision(3)}, []string{"initial a/1=new@2", "initial done", "put b=other@3"}},
	} {
		t.Run(name, func(t *testing.T) { read(t, client.Watch(ctx, c.what, c.options...)).want(c.want...) })
	}
}

// history writes at random on all shards, and returns the keys that are left.
func history(t testing.TB, client *raftkv.Client, seed uint64, writes int) {
	t.Helper()
	ctx := within(t, time.Minute)
	random := rand.New(rand.NewPCG(seed, 0))
	for i := range writes {
		tag := fmt.Sprintf("{%d}", random.IntN(8))
		switch random.IntN(3) {
		case 0:
			put(t, client, tag+fmt.Sprint(random.IntN(4)), fmt.Sprint(i))
		case 1:
			remove(t, client, tag+fmt.Sprint(random.IntN(4)))
		default:
			var ops []raftkv.Op
			for k := range 1 + random.IntN(7) {
				ops = append(ops, raftkv.PutOp(tag+fmt.Sprint(k), fmt.Append(nil, i)))
			}
			if _, err := client.Batch(ctx, ops...); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// byShard sorts what a watch tells into the shards, between which there is no order; marks are of shard 0.
func byShard(events []*raftkv.Event) map[int][]string {
	all := make(map[int][]string)
	for _, e := range events {
		shard := int(e.Shard)
		if e.Type == raftkv.EventInitialDone {
			shard = 0
		}
		all[shard] = append(all[shard], tell(e))
	}
	return all
}

// end makes a last change in every shard.
func end(t testing.TB, cluster *raftkvtest.Cluster, client *raftkv.Client) {
	t.Helper()
	for shard := 1; shard <= 3; shard++ {
		put(t, client, keyOn(t, cluster, shard), "end")
	}
}

// untilEnd reads up to the last change of every shard, and calls more behind each event. Marks of progress are left out.
func untilEnd(w *reader, more func()) (all []*raftkv.Event) {
	for ends := 0; ends < 3; {
		e := w.event()
		if e.Type != raftkv.EventProgress {
			all = append(all, e)
		}
		if string(e.Item.Value) == "end" && !e.Initial {
			ends++
		}
		more()
	}
	return all
}

// scatter leaves no node with a replica of every shard.
func scatter(cluster *raftkvtest.Cluster, apart bool) {
	if apart {
		cluster.SetReplicas(1, 0, 1)
		cluster.SetReplicas(2, 1, 2)
		cluster.SetReplicas(3, 0, 2)
	}
}

// Where no node has all shards, a watch is one of each. It begins when all have, tells the keys of all before any change, and refuses a revision.
func TestWatchOfShardsApart(t *testing.T) {
	cluster, client := open(t, 3, 3)
	scatter(cluster, true)
	ctx := within(t, time.Minute)
	var want []string
	for shard := 1; shard <= 3; shard++ {
		put(t, client, keyOn(t, cluster, shard), "1")
	}
	w := read(t, client.Watch(ctx, raftkv.Range{}, raftkv.IncludeInitial(), raftkv.WithProgress(time.Hour)))
	if e := w.event(); e.Type != raftkv.EventProgress || len(e.Progress) != 3 || e.Progress[2].Revision != 1 {
		t.Fatalf("%+v", e)
	}
	for shard := 1; shard <= 3; shard++ {
		put(t, client, keyOn(t, cluster, shard), "2")
		want = append(want, fmt.Sprintf("initial %s=1@1", keyOn(t, cluster, shard)))
	}
	var got []string
	for range want {
		got = append(got, tell(w.event()))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	w.want("initial done")
	for range 3 {
		if e := w.event(); e.Revision != 2 {
			t.Errorf("%+v", e)
		}
	}
	if err := read(t, client.Watch(ctx, raftkv.Range{}, raftkv.FromRevision(1))).fails(); !errors.As(err, new(*raftkv.InvalidError)) {
		t.Error(err)
	}
	read(t, client.Watch(ctx, raftkv.Key(keyOn(t, cluster, 2)), raftkv.FromRevision(2))).want(fmt.Sprintf("put %s=2@2", keyOn(t, cluster, 2)))
	cluster.Compact(3)
	put(t, client, keyOn(t, cluster, 3), "3")
	canceled, cancel := context.WithCancel(ctx)
	c := read(t, client.Watch(canceled, raftkv.Range{}))
	go cancel()
	if err := c.fails(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Behind the token of any event come exactly those that follow, whatever responses and revisions it fell into.
func TestWatchTokens(t *testing.T) {
	for i, split := range []int{1, 2, 3, 5, 100, 1, 2, 5, 100} {
		apart := i > 4
		t.Run(fmt.Sprint(split, " apart ", apart), func(t *testing.T) {
			cluster, client := open(t, 3, 3)
			scatter(cluster, apart)
			cluster.SplitWatches(split)
			ctx := within(t, time.Minute)
			history(t, client, uint64(split), 10)
			w := read(t, client.Watch(ctx, raftkv.Range{}, raftkv.IncludeInitial(), raftkv.WithProgress(time.Hour)))
			w.want("progress")
			history(t, client, uint64(split)+1, 20)
			end(t, cluster, client)
			all := untilEnd(w, func() {})
			cluster.SplitWatches(1 + split%4) // the next node cuts them otherwise
			for i := range all {
				again := read(t, client.Watch(ctx, raftkv.Range{}, raftkv.FromToken(all[i].Token())))
				var rest []*raftkv.Event
				for range all[i+1:] {
					rest = append(rest, again.event())
				}
				if got, want := byShard(rest), byShard(all[i+1:]); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Fatalf("behind %d of %d, %s:\n%v, want\n%v", i, len(all), all[i].Token(), got, want)
				}
			}
		})
	}
}

// However often the streams of a watch end, and whichever way, its user gets every event once and in order.
func TestWatchResumes(t *testing.T) {
	for i, split := range []int{1, 3, 100, 1, 3, 100} {
		apart := i > 2
		t.Run(fmt.Sprint(split, " apart ", apart), func(t *testing.T) {
			cluster, client := open(t, 3, 3)
			scatter(cluster, apart)
			cluster.SplitWatches(split)
			ctx := within(t, time.Minute)
			history(t, client, 7, 30)
			whole := read(t, client.Watch(ctx, raftkv.Range{}, raftkv.IncludeInitial(), raftkv.WithProgress(time.Hour)))
			whole.want("progress")
			torn := read(t, client.Watch(ctx, raftkv.Range{}, raftkv.IncludeInitial(), raftkv.WithProgress(time.Hour)))
			torn.want("progress")
			put(t, client, "{0}", "go")
			random, ended, writes := rand.New(rand.NewPCG(uint64(split), 1)), 0, 0
			got := untilEnd(torn, func() {
				if writes++; writes < 100 {
					history(t, client, uint64(writes), 1+random.IntN(2))
				} else if writes == 100 {
					end(t, cluster, client)
				}
				if random.IntN(2) == 0 {
					return
				}
				for node := range 3 {
					var e *raftkvtest.Error
					if random.IntN(2) == 0 {
						e = raftkvtest.CutOff(1, time.Second)
					}
					ended += cluster.EndWatches(node, e)
				}
			})
			if want := untilEnd(whole, func() {}); fmt.Sprint(byShard(got)) != fmt.Sprint(byShard(want)) {
				t.Fatalf("torn:\n%v\nwhole:\n%v", byShard(got), byShard(want))
			}
			if ended == 0 {
				t.Error("no stream was ended")
			}
		})
	}
}

// A watch goes on at another node when its own stops.
func TestWatchOutlivesItsNode(t *testing.T) {
	cluster, client := open(t, 3, 1)
	w := read(t, client.Watch(within(t, time.Minute), raftkv.Key("k"), raftkv.WithProgress(time.Hour)))
	w.want("progress")
	nodes := []int{0, 1, 2}
	for revision := 1; len(nodes) > 1; revision++ {
		serving := slices.IndexFunc(nodes, func(i int) bool { return cluster.Watches(i) == 1 })
		cluster.StopNode(nodes[serving])
		nodes = slices.Delete(nodes, serving, serving+1)
		cluster.SetLeader(1, nodes[0])
		put(t, client, "k", "v")
		e := w.event()
		for e.Type == raftkv.EventProgress { // the new stream has begun
			e = w.event()
		}
		if want := fmt.Sprintf("put k=v@%d", revision); tell(e) != want {
			t.Fatalf("%q, want %q", tell(e), want)
		}
	}
}

// Watches are spread over the nodes, and end there when their users leave.
func TestWatchesAreSpread(t *testing.T) {
	cluster, client := open(t, 3, 1)
	ctx, cancel := context.WithCancel(within(t, time.Minute))
	var all []*reader
	for range 9 {
		w := read(t, client.Watch(ctx, raftkv.Range{}, raftkv.WithProgress(time.Hour)))
		w.want("progress")
		all = append(all, w)
	}
	for node := range 3 {
		if n := cluster.Watches(node); n != 3 {
			t.Errorf("node %d serves %d watches", node, n)
		}
	}
	cancel()
	for _, w := range all {
		if err := w.fails(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

// What is forgotten is an error that says what is known.
func TestWatchCompacted(t *testing.T) {
	cluster, client := open(t, 3, 1)
	ctx := within(t, time.Minute)
	for i := range 5 {
		put(t, client, "k", fmt.Sprint(i))
	}
	w := read(t, client.Watch(ctx, raftkv.Key("k"), raftkv.FromRevision(1)))
	w.want("put k=0@1")
	cluster.Compact(1)
	put(t, client, "k", "5")
	err := read(t, client.Watch(ctx, raftkv.Key("k"), raftkv.FromRevision(3))).fails()
	var compacted *raftkv.CompactedError
	if !errors.As(err, &compacted) || compacted.Oldest != 6 || compacted.Revision != 3 || !strings.HasPrefix(err.Error(), `watch "k": revision 3 is forgotten`) {
		t.Fatal(err)
	}
	read(t, client.Watch(ctx, raftkv.Key("k"), raftkv.FromRevision(compacted.Oldest))).want("put k=5@6")
	read(t, client.Watch(ctx, raftkv.Key("k"), raftkv.IncludeInitial())).want("initial k=5@6", "initial done")
}

// A loop that is slow holds up its own watch and nothing else, and misses nothing.
func TestSlowWatch(t *testing.T) {
	cluster, client := open(t, 1, 1)
	ctx := within(t, time.Minute)
	slow := read(t, client.Watch(ctx, raftkv.Range{}, raftkv.WithProgress(time.Hour)))
	slow.want("progress")
	for range 20 { // others on the same connection, of which nobody reads more than the beginning
		read(t, client.Watch(ctx, raftkv.Range{}, raftkv.WithProgress(time.Hour))).want("progress")
	}
	value := strings.Repeat("x", 64<<10)
	for i := range 200 {
		put(t, client, fmt.Sprintf("k-%03d", i), value)
	}
	if cluster.Watches(0) != 21 {
		t.Error("a watch was given up")
	}
	if l, err := client.Grant(ctx, time.Minute); err != nil || l.KeepAlive(ctx) != nil { // has the same connection, too
		t.Error(err)
	}
	for i := range 200 {
		if e := slow.event(); e.Item.Key != fmt.Sprintf("k-%03d", i) || len(e.Item.Value) != len(value) {
			t.Fatalf("event %d is of %s", i, e.Item.Key)
		}
	}
}

// A node that takes the request and says nothing is left for another.
func TestWatchLeavesASilentNode(t *testing.T) {
	cluster, client := open(t, 2, 1, raftkv.WithTimeout(time.Second))
	put(t, client, "k", "v")
	never := make(chan struct{})
	cluster.SetCallHook(func(c raftkvtest.Call) raftkvtest.Action {
		if c.Node == 0 {
			return raftkvtest.Action{Wait: never}
		}
		return raftkvtest.Action{}
	})
	for range 2 { // one of them at least begins with the silent node
		read(t, client.Watch(t.Context(), raftkv.Key("k"), raftkv.FromRevision(1))).want("put k=v@1")
	}
}

// A watch that no node serves gives up: at the beginning after the timeout of the client, later WithPatience only.
func TestWatchGivesUp(t *testing.T) {
	cluster, client := open(t, 2, 1, raftkv.WithTimeout(300*time.Millisecond))
	ctx := within(t, time.Minute)
	w := read(t, client.Watch(ctx, raftkv.Range{}, raftkv.WithProgress(0), raftkv.WithPatience(200*time.Millisecond)))
	w.want("progress")
	cluster.SetCallHook(func(raftkvtest.Call) raftkvtest.Action {
		return raftkvtest.Action{Refuse: raftkvtest.NoLeader(1, time.Millisecond)}
	})
	cluster.EndWatches(0, nil)
	cluster.EndWatches(1, nil)
	for name, err := range map[string]error{"patience": w.fails(), "timeout": read(t, client.Watch(t.Context(), raftkv.Range{})).fails()} {
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, raftkv.ErrTimeout) != (name == "timeout") || !errors.As(err, new(*raftkv.NotLeaderError)) || !strings.HasPrefix(err.Error(), "watch all keys: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	unbounded := client.Watch(ctx, raftkv.Range{}, raftkv.WithPatience(time.Hour))
	ended := make(chan error, 1)
	go func() {
		for _, err := range unbounded {
			ended <- err
		}
	}()
	client.Close()
	if err := <-ended; !errors.Is(err, raftkv.ErrClosed) {
		t.Error(err)
	}
}

func TestWatchesThatCannotBe(t *testing.T) {
	_, client := open(t, 1, 2)
	ctx := within(t, time.Minute)
	for _, c := range []struct {
		what    raftkv.Watchable
		options []raftkv.WatchOption
		want    string
	}{
		{nil, nil, "watch: invalid request: nothing to watch: say Key, Prefix or a Range"},
		{raftkv.Key(""), nil, "key must not be empty"},
		{raftkv.Key(strings.Repeat("k", 4097)), nil, "key is 4097, the limit is 4096"},
		{raftkv.Prefix("\xff"), nil, "prefix must be valid UTF-8"},
		{raftkv.Range{Prefix: "a", End: "b"}, nil, "Prefix does not go with Start or End"},
		{raftkv.Range{Start: "b", End: "a"}, nil, "no key is from Start on and before End"},
		{raftkv.Range{Start: "a", End: "a"}, nil, "no key is from Start on and before End"},
		{raftkv.Prefix("a"), []raftkv.WatchOption{raftkv.WithoutPuts(), raftkv.WithoutDeletes()}, `watch prefix "a": invalid request: WithoutPuts and`},
		{raftkv.Prefix("a"), []raftkv.WatchOption{raftkv.WithProgress(99 * time.Millisecond)}, "the interval of WithProgress is 99ms"},
		{raftkv.Prefix("a"), []raftkv.WatchOption{raftkv.WithPatience(-1)}, "the time of WithPatience is -1ns"},
		{raftkv.Prefix("a"), []raftkv.WatchOption{raftkv.FromToken("x~1.0")}, "token is not one that an event of a watch has given"},
		{raftkv.Prefix("a"), []raftkv.WatchOption{raftkv.FromToken("x")}, "token"},
		{raftkv.Prefix("a"), []raftkv.WatchOption{raftkv.FromToken("2:x,1:x")}, "token is not one that an event of a watch has given"},
		{raftkv.Prefix("a"), []raftkv.WatchOption{raftkv.FromToken("1:")}, "token is not one that an event of a watch has given"},
		{raftkv.Prefix("a"), []raftkv.WatchOption{raftkv.FromToken("1+:x")}, "token"},
		{raftkv.Prefix("a"), []raftkv.WatchOption{raftkv.FromRevision(3)}, "each shard counts its own revisions"},
		{raftkv.Key("a"), []raftkv.WatchOption{raftkv.FromRevision(3)}, "revision 3 is not reached"},
		{raftkv.Range{Start: "a", End: "b"}, []raftkv.WatchOption{raftkv.FromRevision(3)}, `watch range "a" to "b": `},
	} {
		if err := read(t, client.Watch(ctx, c.what, c.options...)).fails(); !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}
