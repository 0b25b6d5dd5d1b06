package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Report is what a run measured.
type Report struct {
	// The options of the run, defaults filled in.
	Transport    Transport `json:"transport"`
	Op           Op        `json:"operation"`
	ReadPercent  int       `json:"read_percent,omitempty"`
	ValueBytes   int       `json:"value_bytes"`
	Compressible bool      `json:"compressible,omitempty"`
	KeySpace     int       `json:"key_space"`
	Clients      int       `json:"clients"`
	// Rate is 0 in a closed loop.
	Rate float64 `json:"rate,omitempty"`

	// Seconds is how long the run took, until the last answer.
	Seconds float64 `json:"seconds"`
	// Operations were answered without an error; PerSecond of them on average.
	Operations uint64  `json:"operations"`
	PerSecond  float64 `json:"operations_per_second"`
	// Unstarted operations of an open loop were due, but no client was free for them before the end. They are part of
	// Latency, as slow as they were at the end.
	Unstarted uint64 `json:"unstarted,omitempty"`
	// Latency is that of Operations and Unstarted together, Reads and Writes of Operations by kind. Failed operations
	// are in none of them.
	Latency Latency  `json:"latency"`
	Reads   *Latency `json:"reads,omitempty"`
	Writes  *Latency `json:"writes,omitempty"`
	// Watched is what the watchers have seen; nil without.
	Watched *Watched `json:"watched,omitempty"`
	// Definite are the failed operations that were not applied, by kind; Unknown are the failed writes that may have been.
	Definite map[string]uint64 `json:"errors_definite,omitempty"`
	Unknown  map[string]uint64 `json:"errors_unknown,omitempty"`
}

// Latency is a distribution, in milliseconds.
type Latency struct {
	Count uint64  `json:"count"`
	Mean  float64 `json:"mean_ms"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p99_9_ms"`
	Max   float64 `json:"max_ms"`
}

func latencyOf(h *hdrhistogram.Histogram) Latency {
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	return Latency{
		Count: uint64(h.TotalCount()),
		Mean:  h.Mean() / 1000,
		P50:   at(50), P90: at(90), P99: at(99), P999: at(99.9),
		Max: float64(h.Max()) / 1000,
	}
}

// report sums up. The clients have ended.
func (r *recorder) report(o *Options, elapsed time.Duration) Report {
	reads, writes, late, all := newHistogram(), newHistogram(), newHistogram(), newHistogram()
	report := Report{
		Transport: o.Transport, Op: o.Op, ValueBytes: o.ValueBytes, Compressible: o.Compressible, KeySpace: o.KeySpace,
		Clients: o.Clients, Rate: o.Rate, Seconds: elapsed.Seconds(),
		Definite: make(map[string]uint64), Unknown: make(map[string]uint64),
	}
	if o.Op == Mixed {
		report.ReadPercent = o.ReadPercent
	}
	for i := range r.shards {
		s := &r.shards[i]
		reads.Merge(s.reads)
		writes.Merge(s.writes)
		late.Merge(s.late)
		for kind, n := range s.definite {
			report.Definite[kind] += n
		}
		for kind, n := range s.unknown {
			report.Unknown[kind] += n
		}
	}
	for _, h := range []*hdrhistogram.Histogram{reads, writes, late} {
		all.Merge(h)
	}
	report.Operations = uint64(reads.TotalCount() + writes.TotalCount())
	report.Unstarted = uint64(late.TotalCount())
	report.PerSecond = float64(report.Operations) / elapsed.Seconds()
	report.Latency = latencyOf(all)
	if o.Op == Mixed {
		r, w := latencyOf(reads), latencyOf(writes)
		report.Reads, report.Writes = &r, &w
	}
	return report
}

// Failed is how many operations failed.
func (r *Report) Failed() (definite, unknown uint64) {
	for _, n := range r.Definite {
		definite += n
	}
	for _, n := range r.Unknown {
		unknown += n
	}
	return definite, unknown
}

// WriteJSON writes the report as one indented JSON object.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteTable writes the report for people.
func (r *Report) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	op := string(r.Op)
	if r.Op == Mixed {
		op = fmt.Sprintf("%d %% get, %d %% put", r.ReadPercent, 100-r.ReadPercent)
	}
	loop := "closed loop"
	if r.Rate > 0 {
		loop = fmt.Sprintf("open loop at %.0f/s", r.Rate)
	}
	content := "random"
	if r.Compressible {
		content = "compressible"
	}
	fmt.Fprintf(t, "workload\t%s, %d B values (%s), %d keys\n", op, r.ValueBytes, content, r.KeySpace)
	fmt.Fprintf(t, "load\t%d clients over %s, %s\n", r.Clients, r.Transport, loop)
	fmt.Fprintf(t, "throughput\t%.0f/s (%d in %.1f s)\n", r.PerSecond, r.Operations, r.Seconds)
	definite, unknown := r.Failed()
	fmt.Fprintf(t, "errors\t%d not applied, %d unknown\n", definite, unknown)
	for _, kind := range slices.Sorted(maps.Keys(r.Definite)) {
		fmt.Fprintf(t, "  %s\t%d\n", kind, r.Definite[kind])
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Unknown)) {
		fmt.Fprintf(t, "  %s, outcome unknown\t%d\n", kind, r.Unknown[kind])
	}
	if w := r.Watched; w != nil {
		fmt.Fprintf(t, "watched\t%.0f events/s by %d watchers (%d), %d missing, %d extra\n", w.PerSecond, w.Watchers, w.Events, w.Missing, w.Extra)
	}
	if r.Unstarted > 0 {
		fmt.Fprintf(t, "not started\t%d: the cluster cannot sustain the rate with %d clients\n", r.Unstarted, r.Clients)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "latency, ms\tcount\tmean\tp50\tp90\tp99\tp99.9\tmax\t\n")
	row := func(name string, l *Latency) {
		if l != nil {
			fmt.Fprintf(t, "%s\t%d\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", name, l.Count, l.Mean, l.P50, l.P90, l.P99, l.P999, l.Max)
		}
	}
	row("all", &r.Latency)
	row("get", r.Reads)
	row("put", r.Writes)
	if r.Watched != nil {
		row("seen", &r.Watched.Latency)
	}
	return t.Flush()
}
