package main

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/raftkv/raftkv/raftnode"
)

// keptCollector shows what shards keep for a time: keys that expire, leases, answers under idempotency keys.
type keptCollector struct {
	shards func() []raftnode.ShardMetrics
}

func newKeptCollector(n *raftnode.Node) keptCollector {
	return keptCollector{func() []raftnode.ShardMetrics { return n.Metrics().Shards }}
}

// keptFigure is one of every replica that the node has.
type keptFigure struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*raftnode.ShardMetrics) uint64
}

var keptFigures = []keptFigure{
	kept(prometheus.CounterValue, "expired_keys_total", "Keys that have gone because their time had passed or their lease had ended.",
		func(m *raftnode.ShardMetrics) uint64 { return m.ExpiredKeys }),
	kept(prometheus.GaugeValue, "leased_keys", "Keys that hang on a lease.", func(m *raftnode.ShardMetrics) uint64 { return m.LeasedKeys }),
	kept(prometheus.GaugeValue, "leases", "Leases that live in the shard.", func(m *raftnode.ShardMetrics) uint64 { return m.Leases }),
	kept(prometheus.GaugeValue, "keyed_results", "Answers that the shard keeps under idempotency keys.",
		func(m *raftnode.ShardMetrics) uint64 { return m.KeyedResults }),
	kept(prometheus.GaugeValue, "keyed_results_bytes", "What those answers take.", func(m *raftnode.ShardMetrics) uint64 { return m.KeyedBytes }),
}

func kept(kind prometheus.ValueType, name, help string, value func(*raftnode.ShardMetrics) uint64) keptFigure {
	return keptFigure{prometheus.NewDesc("raftkv_shard_"+name, help, []string{"shard"}, nil), kind, value}
}

// Describe tells what there is.
func (keptCollector) Describe(out chan<- *prometheus.Desc) {
	for _, f := range keptFigures {
		out <- f.desc
	}
}

// Collect tells how much.
func (c keptCollector) Collect(out chan<- prometheus.Metric) {
	for _, m := range c.shards() {
		shard := strconv.FormatUint(uint64(m.ID), 10)
		for _, f := range keptFigures {
			out <- prometheus.MustNewConstMetric(f.desc, f.kind, float64(f.value(&m)), shard)
		}
	}
}
