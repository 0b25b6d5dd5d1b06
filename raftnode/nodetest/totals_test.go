package nodetest

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// seedOutcome is what a seed came to, as one process tells another.
type seedOutcome struct {
	Seed, Trace, Steps  uint64
	Operations, Unknown int
	Time                time.Duration
	Faults, Events      map[string]uint64
	Recoveries          []time.Duration
	Failure             string
}

func outcomeOf(seed uint64, r *Report, err error) *seedOutcome {
	o := &seedOutcome{
		Seed: seed, Trace: r.Trace, Steps: r.Steps, Operations: len(r.History.Operations), Time: r.Time,
		Faults: r.Faults, Events: make(map[string]uint64), Recoveries: r.Recoveries,
	}
	for e, n := range r.Events {
		o.Events[e.String()] = n
	}
	for _, op := range r.History.Operations {
		if op.Outcome == Unknown {
			o.Unknown++
		}
	}
	if err != nil {
		o.Failure = err.Error()
	}
	return o
}

// append adds the outcome to a file, one line each.
func (o *seedOutcome) append(path string) error {
	if path == "" {
		return nil
	}
	line, err := json.Marshal(o)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(append(line, '\n')); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// totals are the outcomes of many seeds together.
type totals struct {
	seeds               int
	operations, unknown int
	steps               uint64
	time                time.Duration
	faults, events      map[string]uint64
	recoveries          []time.Duration
}

func (t *totals) add(o *seedOutcome) {
	if t.faults == nil {
		t.faults, t.events = make(map[string]uint64), make(map[string]uint64)
	}
	t.seeds++
	t.operations += o.Operations
	t.unknown += o.Unknown
	t.steps += o.Steps
	t.time += o.Time
	for k, n := range o.Faults {
		t.faults[k] += n
	}
	for k, n := range o.Events {
		t.events[k] += n
	}
	t.recoveries = append(t.recoveries, o.Recoveries...)
}

// neverSeen are the events that no seed has shown.
func (t *totals) neverSeen() []string {
	var never []string
	for e := range eventCount {
		if t.events[e.String()] == 0 {
			never = append(never, e.String())
		}
	}
	return never
}

func (t *totals) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d seeds, %s simulated, %d events, %d operations checked, %d of them of unknown outcome\n",
		t.seeds, t.time.Round(time.Second), t.steps, t.operations, t.unknown)
	if slices.Sort(t.recoveries); len(t.recoveries) > 0 {
		at := func(q float64) time.Duration {
			return t.recoveries[int(q*float64(len(t.recoveries)-1))].Round(time.Millisecond)
		}
		fmt.Fprintf(&b, "recovery, from a fault to the first write of a shard: p50 %s, p99 %s, max %s\n", at(0.5), at(0.99), at(1))
	}
	b.WriteString("faults:\n")
	for _, k := range slices.Sorted(maps.Keys(t.faults)) {
		fmt.Fprintf(&b, "%8d × %s\n", t.faults[k], k)
	}
	b.WriteString("seen:\n")
	for e := range eventCount {
		fmt.Fprintf(&b, "%8d × %s\n", t.events[e.String()], e)
	}
	return b.String()
}
