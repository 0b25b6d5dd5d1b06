package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// nodes and shards are those of the cluster.
const (
	nodes  = 5
	shards = 4
)

// kind is a kind of fault.
type kind string

// The kinds of faults.
const (
	killOne      kind = "kill"
	killMany     kind = "kill-many"
	stopOne      kind = "stop"
	pauseOne     kind = "pause"
	partition    kind = "partition"
	slowLink     kind = "slow-link"
	powerOne     kind = "power-one"
	powerAll     kind = "power-all"
	diskError    kind = "disk-error"
	diskFull     kind = "disk-full"
	attackOne    kind = "attack"
	bitRot       kind = "bit-rot"
	emptyDisk    kind = "empty-disk"
	windowMin         = 6 * time.Second
	windowMax         = 10 * time.Second
	windowMean        = 12 * time.Second // with what comes after it
	ruinFromLast      = 2
)

// kinds are those of which windows are made, as often as they are to come; bitRot and emptyDisk happen at most once in a run.
var kinds = []kind{
	killOne, killOne, killOne, killMany, stopOne, stopOne, pauseOne, pauseOne, pauseOne, partition, partition, partition, partition, slowLink,
	slowLink, powerOne, powerOne, powerOne, powerAll, diskError, diskError, diskFull, diskFull, attackOne, attackOne,
}

// fault is one fault of a window. Its targets are the first of nodes that it can hit; with leader, the node that leads the shard comes before
// them.
type fault struct {
	kind kind
	// at and end are from the start of the window.
	at, end time.Duration
	nodes   []int
	leader  bool
	shard   int
	// shape is that of a partition, count how many nodes killMany ends.
	shape string
	count int
}

// window is a time of faults. Behind it all is healed, and the cluster has to show that it works.
type window struct {
	length time.Duration
	faults []fault
}

// plan is everything that is done to a cluster.
type plan struct {
	seed    uint64
	windows []window
}

// shapes are those of partitions.
var shapes = []string{"isolated", "halves", "deaf", "mute", "bridge", "ring"}

// cuts are the pairs of nodes between which packets vanish, for the nodes in their order.
func cuts(shape string, n []int) [][2]int {
	var out [][2]int
	for i := range n {
		for j := range n {
			lost := false
			switch shape {
			case "isolated": // the first and the others
				lost = i != j && (i == 0 || j == 0)
			case "halves":
				lost = (i < len(n)/2) != (j < len(n)/2)
			case "deaf": // the first hears nobody
				lost = j == 0 && i != 0
			case "mute": // nobody hears the first
				lost = i == 0 && j != 0
			case "bridge": // two halves, and the last sees both
				lost = i != len(n)-1 && j != len(n)-1 && (i < len(n)/2) != (j < len(n)/2)
			case "ring": // everyone sees the two beside it
				d := (i - j + len(n)) % len(n)
				lost = d != 0 && d != 1 && d != len(n)-1
			}
			if lost {
				out = append(out, [2]int{n[i], n[j]})
			}
		}
	}
	return out
}

// newPlan draws a plan for a run of a length. unable are kinds that this machine cannot do.
func newPlan(seed uint64, length time.Duration, unable map[kind]string) *plan {
	r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a plan is repeatable, not secret
	p := &plan{seed: seed}
	able := slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool { return unable[k] != "" })
	count := max(1, int(length/windowMean))
	for i := range count {
		p.windows = append(p.windows, drawWindow(r, able, i))
	}
	ruin := bitRot
	if r.IntN(2) == 0 {
		ruin = emptyDisk
	}
	if at := count - 1 - r.IntN(ruinFromLast); at > 0 && unable[ruin] == "" {
		// Not beside a loss of power of all, or a kill of many: some node must be well.
		few := slices.DeleteFunc(slices.Clone(able), func(k kind) bool { return k == powerAll || k == killMany })
		w := drawWindow(r, few, overlapping)
		w.faults = append(w.faults, fault{kind: ruin, at: time.Second, end: w.length, nodes: r.Perm(nodes)})
		p.windows[at] = w
	}
	return p
}

// overlapping is the number of a window of several faults.
const overlapping = 1

// drawWindow draws a window. The first, and every sixth, is the kill of a leader alone, which measures failover.
func drawWindow(r *rand.Rand, able []kind, number int) window {
	w := window{length: between(r, windowMin, windowMax)}
	if number%6 == 0 && slices.Contains(able, killOne) {
		w.faults = []fault{{kind: killOne, at: time.Second, end: 4 * time.Second, nodes: r.Perm(nodes), leader: true, shard: 1 + r.IntN(shards)}}
		return w
	}
	for _, k := range choose(r, able, 3+r.IntN(2)) {
		f := fault{
			kind: k, at: between(r, 0, w.length/2), nodes: r.Perm(nodes), leader: r.IntN(2) == 0, shard: 1 + r.IntN(shards),
			shape: shapes[r.IntN(len(shapes))], count: 2 + r.IntN(nodes-1),
		}
		f.end = between(r, f.at+time.Second, w.length)
		w.faults = append(w.faults, f)
	}
	slices.SortStableFunc(w.faults, func(a, b fault) int { return int(a.at - b.at) })
	return w
}

// choose draws kinds that are not the same, as many as wanted if there are.
func choose(r *rand.Rand, from []kind, want int) []kind {
	var out []kind
	for _, i := range r.Perm(len(from)) {
		if len(out) < want && !slices.Contains(out, from[i]) {
			out = append(out, from[i])
		}
	}
	return out
}

func between(r *rand.Rand, from, to time.Duration) time.Duration {
	return (from + time.Duration(r.Int64N(int64(to-from)+1))).Round(time.Millisecond)
}

// String lists the plan.
func (p *plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "plan of seed %d: %d windows\n", p.seed, len(p.windows))
	for i, w := range p.windows {
		fmt.Fprintf(&b, "  %2d, %s:", i+1, w.length)
		for j, f := range w.faults {
			if j > 0 {
				b.WriteString(";")
			}
			fmt.Fprintf(&b, " %s", f)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func (f fault) String() string {
	what := string(f.kind)
	switch f.kind {
	case partition:
		what += " " + f.shape
	case killMany:
		what += fmt.Sprintf(" %d", f.count)
	}
	if f.leader && f.kind != powerAll {
		what += fmt.Sprintf(" leader of %d", f.shard)
	}
	return fmt.Sprintf("%s %.1f–%.1f s", what, f.at.Seconds(), f.end.Seconds())
}
