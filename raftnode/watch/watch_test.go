package watch

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/raftkv/raftkv/raftnode/state"
)

func TestFilters(t *testing.T) {
	for _, row := range []struct {
		filter Filter
		want   string
	}{
		{Filter{}, "1:a 1:b 2:-a 3:ab 3:b/c"},
		{Filter{Key: "a"}, "1:a 2:-a"},
		{Filter{Prefix: "a"}, "1:a 2:-a 3:ab"},
		{Filter{Prefix: "b/"}, "3:b/c"},
		{Filter{Start: "ab", End: "b"}, "3:ab"},
		{Filter{Start: "ab"}, "1:b 3:ab 3:b/c"},
		{Filter{End: "ab"}, "1:a 2:-a"},
		{Filter{NoPuts: true}, "2:-a"},
		{Filter{Key: "a", NoDeletes: true}, "1:a"},
	} {
		w := newWorld(t, Options{})
		live, late := w.watch(row.filter), (*seer)(nil)
		live.drain()
		w.put("a", "b")
		w.put("-a")
		w.put("ab", "b/c")
		late = w.watchFrom(row.filter, 1)
		if got := live.drain(); got != row.want || live.behind {
			t.Errorf("%+v live: %s, want %s; behind %t", row.filter, got, row.want, live.behind)
		}
		if got := late.drain(); got != row.want || !late.behind {
			t.Errorf("%+v from history: %s, want %s; behind %t", row.filter, got, row.want, late.behind)
		}
		if live.complete != 3 || late.complete != 3 {
			t.Errorf("%+v: complete to %d and %d", row.filter, live.complete, late.complete)
		}
	}
}

// A watcher whom a change does not concern is not woken, and costs no read.
func TestOnlyThoseConcernedAreNotified(t *testing.T) {
	w := newWorld(t, Options{})
	a, b, p := w.watch(Filter{Key: "a"}), w.watch(Filter{Key: "b"}), w.watch(Filter{Prefix: "b"})
	for _, s := range []*seer{a, b, p} {
		s.drain()
		s.notified = false
	}
	w.put("b")
	if a.notified || !b.notified || !p.notified {
		t.Error(a.notified, b.notified, p.notified)
	}
	if a.drain(); a.complete != 1 {
		t.Error("an idle watcher is not complete:", a.complete)
	}
}

func TestNobodyWatches(t *testing.T) {
	w := newWorld(t, Options{})
	w.put("a")
	s := w.watch(Filter{})
	s.watcher.Close()
	s.watcher.Close()
	w.woken = false
	w.put("a")
	if n, bytes := w.hub.Watchers(); w.woken || w.reads != 0 || n != 0 || bytes != 0 {
		t.Error(w.woken, w.reads, n, bytes)
	}
	// The revisions in which nobody watched are not read when somebody does.
	late := w.watch(Filter{})
	late.drain()
	w.put("b")
	if got := late.drain(); got != "3:b" || w.reads != 1 {
		t.Error(got, w.reads)
	}
}

// What waits for a watcher that does not read is bounded, and nothing of it is lost.
func TestAWatcherThatDoesNotRead(t *testing.T) {
	for name, o := range map[string]Options{
		"parts": {QueueParts: 4}, "bytes": {QueueBytes: 1000}, "hub": {HubBytes: 1000},
	} {
		w := newWorld(t, o)
		s := w.watch(Filter{Before: true})
		s.drain()
		var want []string
		for i := range 100 {
			want = append(want, fmt.Sprintf("%d:k%d", w.put(fmt.Sprintf("k%d", i)), i))
			if _, bytes := w.hub.Watchers(); bytes > 1000 {
				t.Fatalf("%s: %d bytes wait", name, bytes)
			}
		}
		if got := s.drain(); got != strings.Join(want, " ") || !s.behind {
			t.Errorf("%s: %s", name, got)
		}
		w.put("end")
		s.behind = false
		if got := s.drain(); !strings.HasSuffix(got, " 101:end") || s.behind {
			t.Errorf("%s: it does not catch up: %s", name, got)
		}
		s.watcher.Close()
		if n, bytes := w.hub.Watchers(); n != 0 || bytes != 0 {
			t.Errorf("%s: %d watchers and %d bytes are left", name, n, bytes)
		}
	}
}

// What waits for many watchers is in memory once.
func TestWaitingIsShared(t *testing.T) {
	w := newWorld(t, Options{})
	var all []*seer
	for range 100 {
		s := w.watch(Filter{Prefix: "k"})
		s.drain()
		all = append(all, s)
	}
	w.writeValue(strings.Repeat("x", 1000), "k")
	w.publish()
	if _, bytes := w.hub.Watchers(); bytes > 2000 || bytes < 1000 || w.reads != 1 {
		t.Errorf("%d bytes wait after %d reads", bytes, w.reads)
	}
	for _, s := range all {
		if got := s.drain(); got != "1:k" {
			t.Fatal(got)
		}
	}
	if _, bytes := w.hub.Watchers(); bytes != 0 {
		t.Errorf("%d bytes are left", bytes)
	}
}

func TestCompacted(t *testing.T) {
	w := newWorld(t, Options{QueueParts: 1})
	slow, quick := w.watch(Filter{}), w.watch(Filter{})
	slow.drain()
	quick.drain()
	for range 5 {
		w.put("k")
		quick.drain()
	}
	w.trim(4)
	var compacted *state.CompactedError
	slow.poll(1 << 20) // what waits
	if _, err := slow.watcher.Poll(1 << 20); !errors.As(err, &compacted) || compacted.Floor != 4 {
		t.Error(err)
	}
	if got := w.watchFrom(Filter{}, 4).drain(); got != "4:k 5:k" {
		t.Error(got)
	}
	// An image that has come begins behind what was published.
	for range 5 {
		w.write("k")
	}
	w.trim(8)
	w.publish()
	if _, err := quick.watcher.Poll(1 << 20); !errors.As(err, &compacted) || compacted.Floor != 8 {
		t.Error(err)
	}
}

// While the image is replaced nothing can be read; it goes on behind that.
func TestReplacedImage(t *testing.T) {
	w := newWorld(t, Options{})
	live, late := w.watch(Filter{}), w.watchFrom(Filter{}, 1)
	live.drain()
	w.write("a")
	w.replaced = true
	w.publish()
	if !live.poll(1) || !late.poll(1) {
		t.Error("not idle")
	}
	w.replaced, late.notified, w.woken = false, false, false
	if w.hub.Nudge(); !w.woken {
		t.Error("what was not read is not tried again")
	}
	if err := w.hub.Publish(); err != nil {
		t.Fatal(err)
	}
	if got := live.drain(); got != "1:a" {
		t.Error(got)
	}
	w.put("b")
	if got := live.drain(); got != "1:a 2:b" {
		t.Error(got)
	}
	if got := late.drain(); got != "1:a 2:b" || !late.notified {
		t.Error(got)
	}
}

// A revision that is larger than a page is read by those alone who want some of it, and comes to them in marked parts.
func TestALargeRevision(t *testing.T) {
	w := newWorld(t, Options{PageBytes: 100})
	all, one, other := w.watch(Filter{}), w.watch(Filter{Key: "b"}), w.watch(Filter{Key: "x"})
	for _, s := range []*seer{all, one, other} {
		s.drain()
		s.notified = false
	}
	w.put("x")
	w.writeValue(strings.Repeat("v", 60), "a", "b", "c", "d", "e")
	w.publish()
	w.put("x")
	parts := 0
	for !all.poll(1 << 20) {
		if all.more {
			parts++
		}
	}
	if got := all.drain(); got != "1:x 2:a 2:b 2:c 2:d 2:e 3:x" || parts < 2 {
		t.Error(got, parts)
	}
	if got := one.drain(); got != "2:b" || !one.behind {
		t.Error(got, one.behind)
	}
	if got := other.drain(); got != "1:x 3:x" || other.behind {
		t.Error(got, other.behind)
	}
}

// Who comes while the hub reads misses nothing, though the hub did not read for it.
func TestAWatcherComesDuringARead(t *testing.T) {
	for _, before := range []bool{false, true} {
		w := newWorld(t, Options{})
		first := w.watch(Filter{Prefix: "k", Before: before})
		first.drain()
		var same, both, other *seer
		w.during = func() {
			for s, f := range map[**seer]Filter{&same: {Prefix: "k"}, &both: {Prefix: "k", Before: true}, &other: {Key: "o"}} {
				*s = w.watchFrom(f, 1)
				(*s).watcher.Poll(1) //nolint:errcheck // it becomes live, if it may
			}
		}
		w.put("k", "o")
		w.put("k", "o")
		for s, want := range map[*seer]string{first: "1:k 2:k", same: "1:k 2:k", both: "1:k 2:k", other: "1:o 2:o"} {
			if before && s == other {
				continue // It has taken its first event out of the history above.
			}
			if got := s.drain(); !strings.HasSuffix(want, got) {
				t.Errorf("%s, want %s", got, want)
			}
		}
	}
}

// chaos does everything in any order.
type chaos struct {
	*world
	r     *rand.Rand
	seers map[*seer]Filter
	// publishing: one goroutine publishes, so nothing does within.
	publishing bool
}

func (c *chaos) filter() Filter {
	f := Filter{Before: c.r.IntN(3) == 0, NoDeletes: c.r.IntN(5) == 0, NoPuts: c.r.IntN(9) == 0}
	key := fmt.Sprintf("k%d", c.r.IntN(20))
	switch c.r.IntN(4) {
	case 0:
		f.Key = key
	case 1:
		f.Prefix = key[:1+c.r.IntN(len(key))]
	case 2:
		f.Start, f.End = "k1", key
	}
	return f
}

func (c *chaos) step() {
	switch c.r.IntN(7) {
	case 0, 1:
		var keys []string
		for i := range 1 + c.r.IntN(6) {
			sign := ""
			if c.r.IntN(3) == 0 {
				sign = "-"
			}
			keys = append(keys, fmt.Sprintf("%sk%d", sign, (c.r.IntN(3)*7+i)%20))
		}
		c.writeValue(strings.Repeat("v", c.r.IntN(40)), keys...)
		c.hub.Applied(1, c.revision())
	case 2:
		if c.publishing {
			return
		}
		if c.publishing = true; c.r.IntN(2) == 0 {
			c.during = c.step
		}
		c.publish()
		c.publishing, c.during = false, nil
	case 3:
		if len(c.seers) > 15 {
			return
		}
		f := c.filter()
		c.seers[c.watchFrom(f, c.revision()+1-uint64(c.r.IntN(int(min(20, c.revision()+1)))))] = f
	default:
		for _, s := range c.sorted() {
			if c.r.IntN(2) == 0 {
				s.poll(uint64(1 + c.r.IntN(200)))
			}
		}
	}
}

func (c *chaos) sorted() []*seer {
	var all []*seer
	for s := range c.seers {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *seer) int { return int(a.first) - int(b.first) })
	return all
}

// slice is what a watcher must see.
func (c *chaos) slice(f Filter, from uint64) (want []string) {
	for _, p := range c.revisions[from-1:] {
		for i := range p.Changes {
			if change := &p.Changes[i]; f.Want(change.Key, change.Deleted) != state.WantNothing {
				want = append(want, eventName(p.Revision, change))
			}
		}
	}
	return want
}

// Whatever happens in whatever order, a watcher sees the filtered slice of the history from where it began.
func TestEveryWatcherSeesItsSlice(t *testing.T) {
	for seed := range uint64(60) {
		c := &chaos{r: rand.New(rand.NewPCG(seed, 1)), seers: make(map[*seer]Filter)}
		c.world = newWorld(t, Options{PageBytes: uint64(30 + c.r.IntN(300)), QueueParts: 1 + c.r.IntN(5), HubBytes: 2000})
		for range 300 {
			c.step()
		}
		c.publish()
		for s, f := range c.seers {
			want := c.slice(f, s.first)
			s.drain()
			if diff := cmp.Diff(want, s.seen); diff != "" || s.complete != c.revision() || s.more {
				t.Fatalf("seed %d, %+v from %d: complete to %d of %d, more %t\n%s", seed, f, s.first, s.complete, c.revision(), s.more, diff)
			}
			s.watcher.Close()
		}
		if n, bytes := c.hub.Watchers(); n != 0 || bytes != 0 {
			t.Fatalf("seed %d: %d watchers and %d bytes are left", seed, n, bytes)
		}
	}
}

// TestWatchersInGoroutines is for the race detector.
func TestWatchersInGoroutines(t *testing.T) {
	const revisions = 300
	h := newHistory()
	wake := make(chan struct{}, 1)
	hub := New(Options{Read: h.read, PageBytes: 200, QueueParts: 3, Wake: func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	}})
	done := make(chan struct{})
	var publisher, watchers sync.WaitGroup
	publisher.Go(func() {
		for {
			select {
			case <-wake:
				if err := hub.Publish(); err != nil {
					t.Error(err)
				}
			case <-done:
				return
			}
		}
	})
	for range 8 {
		watchers.Go(func() {
			ready := make(chan struct{}, 1)
			w := hub.Watch(1, Filter{Prefix: "k"}, 1, h.revision(), func() {
				select {
				case ready <- struct{}{}:
				default:
				}
			})
			defer w.Close()
			hub.Applied(1, h.revision())
			for next := uint64(1); next <= revisions; {
				b, err := w.Poll(100)
				if err != nil {
					t.Error(err)
					return
				}
				for _, e := range b.Events {
					if e.Revision != next {
						t.Errorf("revision %d, expected %d", e.Revision, next)
						return
					}
					next++
				}
				if b.Idle && next <= revisions {
					<-ready
				}
			}
		})
	}
	for range revisions {
		hub.Applied(1, h.write("k"))
	}
	watchers.Wait()
	close(done)
	publisher.Wait()
}
