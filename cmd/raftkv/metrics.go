package main

import (
	"fmt"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/raftkv/raftkv/raftnode"
)

// docs/metrics.md lists every metric; a test compares it with what a node shows.

// newRegistry makes the registry of one node: what the process, the node and its certificates show. The service adds its own. steps were made before
// the node, which tells them.
func newRegistry(id string, n *raftnode.Node, steps *stepMetrics, certificates *identity) (*prometheus.Registry, error) {
	r := prometheus.NewRegistry()
	all := []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newBuildInfo(), newMemoryLimit(),
		nodeCollector{id, n},
		newKeptCollector(n),
		newStandingCollector(n),
	}
	if certificates != nil {
		all = append(all, certificateCollector{certificates})
	}
	for _, c := range append(all, steps.all()...) {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return r, nil
}

func newBuildInfo() prometheus.Collector {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "raftkv_build_info", Help: "1, with what the program was built of as labels.",
	}, []string{"version", "commit", "go_version"})
	g.WithLabelValues(version, commit, runtime.Version()).Set(1)
	return g
}

func newMemoryLimit() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "raftkv_memory_limit_bytes", Help: "Memory that the process can have: that of its control group, or of the machine.",
	}, func() float64 { return float64(memoryBytes()) })
}

// stepMetrics are what the steps of writes take.
type stepMetrics struct {
	syncBytes, writeDuration, syncDuration prometheus.Histogram
	commands, bytes                        prometheus.Histogram
	commitDuration                         prometheus.Histogram
	applyEntries, applyDuration            prometheus.Histogram
}

func newStepMetrics() *stepMetrics {
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "raftkv_" + name, Help: help, Buckets: buckets})
	}
	times := prometheus.ExponentialBuckets(50e-6, 2, 18) // 50 µs to 6.6 s
	counts := prometheus.ExponentialBuckets(1, 4, 7)     // to 4096
	sizes := prometheus.ExponentialBuckets(256, 4, 9)    // to 16 MiB
	return &stepMetrics{
		syncBytes:      histogram("log_sync_bytes", "Bytes that one fsync of the log makes durable, with padding.", sizes),
		writeDuration:  histogram("log_write_duration_seconds", "Time to write one round of the log, before its fsync.", times),
		syncDuration:   histogram("log_sync_duration_seconds", "Time of one fsync of the log.", times),
		commands:       histogram("proposal_commands", "Commands in one entry that the node has proposed.", counts),
		bytes:          histogram("proposal_bytes", "Bytes of one entry that the node has proposed.", sizes),
		commitDuration: histogram("commit_duration_seconds", "From the proposal of an entry to its commit, on the node that has proposed it.", times),
		applyEntries:   histogram("apply_entries", "Committed entries of a shard that are applied in one run.", counts),
		applyDuration:  histogram("apply_duration_seconds", "From the commit of a run of entries to the end of its apply, waiting included.", times),
	}
}

func (m *stepMetrics) all() []prometheus.Collector {
	return []prometheus.Collector{
		m.syncBytes, m.writeDuration, m.syncDuration, m.commands, m.bytes, m.commitDuration, m.applyEntries, m.applyDuration,
	}
}

// observer is what fills them.
func (m *stepMetrics) observer() raftnode.Observer {
	return raftnode.Observer{
		LogWritten: func(bytes int, write, sync time.Duration) {
			m.syncBytes.Observe(float64(bytes))
			m.writeDuration.Observe(write.Seconds())
			m.syncDuration.Observe(sync.Seconds())
		},
		Proposed: func(commands, bytes int) {
			m.commands.Observe(float64(commands))
			m.bytes.Observe(float64(bytes))
		},
		Committed: func(took time.Duration) { m.commitDuration.Observe(took.Seconds()) },
		Applied: func(entries int, took time.Duration) {
			m.applyEntries.Observe(float64(entries))
			m.applyDuration.Observe(took.Seconds())
		},
	}
}

// figure is a metric of which a source S has the value.
type figure[S any] struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(S) float64
}

func newFigure[S any](kind prometheus.ValueType, name, help string, value func(S) float64) figure[S] {
	return figure[S]{prometheus.NewDesc("raftkv_"+name, help, nil, nil), kind, value}
}

// show sends what of shows.
func (f figure[S]) show(of S, out chan<- prometheus.Metric) {
	out <- prometheus.MustNewConstMetric(f.desc, f.kind, f.value(of))
}

// oneIf is 1 for true, 0 for false.
func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
