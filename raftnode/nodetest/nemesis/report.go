package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/raftkv/raftkv/raftnode/nodetest"
)

// report is what a run has come to.
type report struct {
	seed    uint64
	skipped map[kind]string
	took    time.Duration
	// waited is how long, all the while, some process waited for a CPU.
	pressure pressure
	waited   string

	windows    int
	counts     map[kind]int
	gaps       []time.Duration
	gapsAlone  []time.Duration
	recoveries []time.Duration
	failures   []time.Duration
	refusals   []string

	done, failed, unknown, refused, read, unread, retried int
	otherwise, shown, stale, aged, tooStale               int
	watches, events, marks, resumed, forgotten, cutOff    int
	tally                                                 tally
	lives                                                 string
	finals, compared                                      int
	checked, searched                                     time.Duration
	unordered                                             *nodetest.LinearityError
	violations                                            []string
}

// take takes over what a conductor has counted.
func (r *report) take(c *conductor) {
	r.counts, r.windows = c.counts, len(c.recoveries)
	r.recoveries, r.failures, r.refusals = c.recoveries, c.failures, c.refusals
	for _, k := range c.kills {
		if k.until == 0 {
			continue // The run ended before it was healed.
		}
		gap := c.rec.gap(k)
		r.gaps = append(r.gaps, gap)
		if k.alone {
			r.gapsAlone = append(r.gapsAlone, gap)
		}
	}
}

// count takes over what clients have counted.
func (r *report) count(rec *recorder) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	r.done, r.failed, r.unknown, r.refused = rec.done, rec.failed, rec.unknown, rec.refused
	r.read, r.unread, r.retried = rec.read, rec.unread, rec.retried
	r.otherwise, r.shown, r.tally = rec.otherwise, rec.shown, rec.tally
	r.stale, r.aged, r.tooStale = rec.stale, rec.aged, rec.tooStale
}

// watched takes over what watchers have counted.
func (r *report) watched(ws *watchers, watches []*nodetest.Watch) {
	for _, w := range ws.all {
		r.resumed, r.forgotten, r.cutOff = r.resumed+w.resumed, r.forgotten+w.forgotten, r.cutOff+w.cutOff
	}
	r.watches = len(watches)
	for _, w := range watches {
		r.marks += len(w.Marks)
		for _, p := range w.Shards {
			r.events += len(p.Seen)
		}
	}
}

// String is the report as it is printed.
func (r *report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, %s; some process waited for a CPU %s\n", r.seed, r.took.Round(time.Second), r.waited)
	for _, k := range slices.Sorted(maps.Keys(r.skipped)) {
		fmt.Fprintf(&b, "skipped %s: %s\n", k, r.skipped[k])
	}
	if r.windows > 0 {
		fmt.Fprintf(&b, "faults in %d windows:", r.windows)
		for _, k := range slices.Sorted(maps.Keys(r.counts)) {
			fmt.Fprintf(&b, " %s %d", k, r.counts[k])
		}
		fmt.Fprintf(&b, "\nlive again after healing: %s\n", figures(r.recoveries))
		fmt.Fprintf(&b, "processes ended after their disk failed: %s\n", figures(r.failures))
		for _, what := range r.refusals {
			fmt.Fprintf(&b, "%.300s\n", what)
		}
	}
	fmt.Fprintf(&b, "gaps between acknowledged writes around kills of leaders: %s\n", figures(r.gaps))
	if r.windows > 0 {
		fmt.Fprintf(&b, "  of those with no other fault: %s\n", figures(r.gapsAlone))
	}
	fmt.Fprintf(&b, "operations checked: %d, of which writes acknowledged %d, stopped by their condition %d, unknown %d, and reads %d; answered after a retry %d\n",
		r.done+r.failed+r.unknown+r.read, r.done, r.failed, r.unknown, r.read, r.retried)
	fmt.Fprintf(&b, "refused and never to be seen: %d writes; without an answer: %d reads\n", r.refused, r.unread)
	if r.windows > 0 {
		fmt.Fprintf(&b, "writes that did something else than under their condition: %d; that have shown what they replaced: %d\n", r.otherwise, r.shown)
		t := &r.tally
		fmt.Fprintf(&b, "outcomes told: %d writes that were decided, %d that are not applied, of which %d late attempts were refused; answers given again: %d, to attempts sent together %d; "+
			"other writes refused under an idempotency key: %d\n", t.found, t.fenced, t.late, t.repeated, t.twins, t.reused)
		fmt.Fprintf(&b, "stale reads checked: %d, of a state that is not known to be the newest %d; too stale %d\n", r.stale, r.aged, r.tooStale)
		fmt.Fprintf(&b, "watches checked: %d, of %d events and %d marks of freshness; gone on by a token %d, begun anew for forgotten history %d, cut off %d\n",
			r.watches, r.events, r.marks, r.resumed, r.forgotten, r.cutOff)
		fmt.Fprintf(&b, "%s\n", r.lives)
	}
	fmt.Fprintf(&b, "final reads %d, states of replicas compared %d, checks %s, search of orders %s\n", r.finals, r.compared, short(r.checked), short(r.searched))
	if len(r.violations) == 0 {
		b.WriteString("verdict: clean\n")
		return b.String()
	}
	fmt.Fprintf(&b, "verdict: %d VIOLATIONS\n", len(r.violations))
	for _, v := range r.violations {
		fmt.Fprintf(&b, "  %s\n", v)
	}
	return b.String()
}
