package main

import (
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/raftkv/raftkv/raftnode"
)

// newRegistry makes the registry of one node: what the process and the node count. The service adds its own.
func newRegistry(n *raftnode.Node) (*prometheus.Registry, error) {
	r := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		nodeCollector{n},
		newKeptCollector(n),
	} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return r, nil
}

// nodeCollector shows the counts of a node.
type nodeCollector struct{ node *raftnode.Node }

// nodeCounter is one of them.
type nodeCounter struct {
	desc  *prometheus.Desc
	value func(raftnode.Metrics) uint64
}

var nodeCounters = []nodeCounter{
	counter("proposals_total", "Entries proposed to the logs of the node's shards.", func(m raftnode.Metrics) uint64 { return m.Proposals }),
	counter("proposed_commands_total", "Commands in those entries.", func(m raftnode.Metrics) uint64 { return m.ProposedCommands }),
	counter("read_rounds_total", "Confirmed rounds that made reads linearizable.", func(m raftnode.Metrics) uint64 { return m.ReadRounds }),
	counter("leader_changes_total", "Changes of the leader of any shard of the node.", func(m raftnode.Metrics) uint64 { return m.LeaderChanges }),
	counter("snapshots_sent_total", "Images of shards sent to nodes that lag.", func(m raftnode.Metrics) uint64 { return m.SnapshotsSent }),
	counter("snapshots_installed_total", "Images of shards taken over.", func(m raftnode.Metrics) uint64 { return m.SnapshotsInstalled }),
	counter("replicas_rebuilt_total", "Replicas that began anew in place of damaged ones.", func(m raftnode.Metrics) uint64 { return m.Rebuilds }),
	counter("digests_compared_total", "Comparisons of the state of a replica with that of another at the same index.", func(m raftnode.Metrics) uint64 { return m.DigestsCompared }),
	counter("digest_mismatches_total", "Those that found the states to differ.", func(m raftnode.Metrics) uint64 { return m.DigestMismatches }),
	counter("peer_answers_lost_total", "Answers to other nodes that could not be sent in time.", func(m raftnode.Metrics) uint64 { return m.LostAnswers }),
	counter("peer_messages_rejected_total", "Messages of peers that were not heard.", func(m raftnode.Metrics) uint64 { return m.RejectedMessages }),
	counter("peer_messages_dropped_total", "Messages of peers for which there was no room.", func(m raftnode.Metrics) uint64 { return m.DroppedMessages }),
	counter("writes_refused_total", "Writes refused because the state engine was behind.", func(m raftnode.Metrics) uint64 { return m.RefusedWrites }),
	counter("writes_refused_disk_full_total", "Writes refused because a disk of their shard was nearly full.", func(m raftnode.Metrics) uint64 { return m.RefusedGrowth }),
	counter("leads_yielded_total", "Leads given up because the disk of the node stalled.", func(m raftnode.Metrics) uint64 { return m.Yields }),
}

// nodeGauges are figures as they are now.
var nodeGauges = []nodeCounter{
	counter("disk_free_bytes", "Bytes that are free on the disk of the node.", func(m raftnode.Metrics) uint64 { return m.DiskFree }),
	counter("disk_reserve_bytes", "Bytes of the disk that are kept for deletes, reads and recovery.", func(m raftnode.Metrics) uint64 { return m.DiskReserve }),
	counter("disk_full", "1 while the free bytes have fallen into the reserve, so that the shards of the node take no puts.", func(m raftnode.Metrics) uint64 {
		if m.DiskFull {
			return 1
		}
		return 0
	}),
}

func counter(name, help string, value func(raftnode.Metrics) uint64) nodeCounter {
	return nodeCounter{prometheus.NewDesc("raftkv_"+name, help, nil, nil), value}
}

// rebuilding is the one figure that is not a count.
var rebuilding = prometheus.NewDesc("raftkv_replicas_rebuilding", "Replicas that were damaged and are not voters again yet.", nil, nil)

// Describe tells what there is.
func (nodeCollector) Describe(out chan<- *prometheus.Desc) {
	out <- rebuilding
	for _, c := range slices.Concat(nodeCounters, nodeGauges) {
		out <- c.desc
	}
}

// Collect tells how much.
func (c nodeCollector) Collect(out chan<- prometheus.Metric) {
	out <- prometheus.MustNewConstMetric(rebuilding, prometheus.GaugeValue, float64(len(c.node.Rebuilding())))
	m := c.node.Metrics()
	for _, n := range nodeCounters {
		out <- prometheus.MustNewConstMetric(n.desc, prometheus.CounterValue, float64(n.value(m)))
	}
	for _, n := range nodeGauges {
		out <- prometheus.MustNewConstMetric(n.desc, prometheus.GaugeValue, float64(n.value(m)))
	}
}
