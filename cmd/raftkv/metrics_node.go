package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/raftkv/raftkv/raftnode"
)

// nodeCollector shows the counts of a node. Nothing of it waits for the disk or a worker, so it is there whatever hangs.
type nodeCollector struct {
	id   string
	node *raftnode.Node
}

// nodeFigures are counts since the node was opened, and gauges as they are now.
var nodeFigures = []figure[raftnode.Metrics]{
	nodeCount("proposals_total", "Entries proposed to the logs of the node's shards.", func(m raftnode.Metrics) uint64 { return m.Proposals }),
	nodeCount("proposed_commands_total", "Commands in those entries.", func(m raftnode.Metrics) uint64 { return m.ProposedCommands }),
	nodeCount("read_rounds_total", "Confirmed rounds that made reads linearizable.", func(m raftnode.Metrics) uint64 { return m.ReadRounds }),
	nodeCount("leader_changes_total", "Changes of the leader of any shard of the node.", func(m raftnode.Metrics) uint64 { return m.LeaderChanges }),
	nodeCount("snapshots_sent_total", "Images of shards sent to nodes that lag.", func(m raftnode.Metrics) uint64 { return m.SnapshotsSent }),
	nodeCount("snapshots_installed_total", "Images of shards taken over.", func(m raftnode.Metrics) uint64 { return m.SnapshotsInstalled }),
	nodeCount("replicas_rebuilt_total", "Replicas that began anew in place of damaged ones.", func(m raftnode.Metrics) uint64 { return m.Rebuilds }),
	nodeCount("digests_compared_total", "Comparisons of the state of a replica with that of another at the same index.", func(m raftnode.Metrics) uint64 { return m.DigestsCompared }),
	nodeCount("digest_mismatches_total", "Those that found the states to differ.", func(m raftnode.Metrics) uint64 { return m.DigestMismatches }),
	nodeCount("peer_answers_lost_total", "Answers to other nodes that could not be sent in time.", func(m raftnode.Metrics) uint64 { return m.LostAnswers }),
	nodeCount("peer_messages_rejected_total", "Messages of peers that were not heard.", func(m raftnode.Metrics) uint64 { return m.RejectedMessages }),
	nodeCount("peer_messages_dropped_total", "Messages of peers for which there was no room.", func(m raftnode.Metrics) uint64 { return m.DroppedMessages }),
	nodeCount("writes_refused_total", "Writes refused because the state engine was behind.", func(m raftnode.Metrics) uint64 { return m.RefusedWrites }),
	nodeCount("writes_refused_disk_full_total", "Writes refused because a disk of their shard was nearly full.", func(m raftnode.Metrics) uint64 { return m.RefusedGrowth }),
	nodeCount("leads_yielded_total", "Leads given up because the disk of the node stalled.", func(m raftnode.Metrics) uint64 { return m.Yields }),

	nodeCount("peer_messages_sent_total", "Messages written to connections with peers.", func(m raftnode.Metrics) uint64 { return m.Transport.MessagesSent }),
	nodeCount("peer_messages_received_total", "Messages that came from peers.", func(m raftnode.Metrics) uint64 { return m.Transport.MessagesReceived }),
	nodeCount("peer_messages_lost_total", "Messages that fell with their connection before they were written.", func(m raftnode.Metrics) uint64 { return m.Transport.MessagesLost }),
	nodeCount("peer_sent_bytes_total", "Bytes of the messages sent to peers.", func(m raftnode.Metrics) uint64 { return m.Transport.BytesSent }),
	nodeCount("peer_received_bytes_total", "Bytes of the messages that came from peers.", func(m raftnode.Metrics) uint64 { return m.Transport.BytesReceived }),
	nodeCount("peer_connections_refused_total", "Connections to the peer port that ended at a bound, in TLS or with their first word.", func(m raftnode.Metrics) uint64 { return m.Transport.ConnectionsRefused }),
	nodeCount("peer_connections_broken_total", "Connections of peers that ended because of an error or silence.", func(m raftnode.Metrics) uint64 { return m.Transport.ConnectionsBroken }),

	nodeGauge("disk_free_bytes", "Bytes that are free on the disk of the node.", func(m raftnode.Metrics) float64 { return float64(m.DiskFree) }),
	nodeGauge("disk_reserve_bytes", "Bytes of the disk that are kept for deletes, reads and recovery.", func(m raftnode.Metrics) float64 { return float64(m.DiskReserve) }),
	nodeGauge("disk_full", "1 while the free bytes have fallen into the reserve, so that the shards of the node take no puts.", func(m raftnode.Metrics) float64 { return oneIf(m.DiskFull) }),
	nodeGauge("disk_stalled", "1 while the disk does not come back from what it was asked.", func(m raftnode.Metrics) float64 { return oneIf(m.DiskStalled) }),
	nodeGauge("watchers", "Watches of single shards: a watch of several shards is several.", func(m raftnode.Metrics) float64 { return float64(m.Watchers) }),
	nodeGauge("watch_waiting_bytes", "Changes in memory that wait for watches to take them.", func(m raftnode.Metrics) float64 { return float64(m.WatchBytes) }),
}

// nodeQueues are the depths of what queueDepth shows.
var nodeQueues = map[string]func(raftnode.Queues) int{
	"worker":    func(q raftnode.Queues) int { return q.Worker },
	"log":       func(q raftnode.Queues) int { return q.Log },
	"apply":     func(q raftnode.Queues) int { return q.Apply },
	"forwarded": func(q raftnode.Queues) int { return q.Forwarded },
}

var (
	rebuilding = prometheus.NewDesc("raftkv_replicas_rebuilding", "Replicas that were damaged and are not voters again yet.", nil, nil)
	queueDepth = prometheus.NewDesc("raftkv_queue_depth",
		"What waits: events of the workers, updates of the log, runs of entries to apply, requests passed on to other nodes.", []string{"queue"}, nil)
	unansweredBytes = prometheus.NewDesc("raftkv_unanswered_request_bytes", "Bytes of the requests that the node has taken and not answered.", nil, nil)
	peerReachable   = prometheus.NewDesc("raftkv_peer_reachable", "1 if this node hears the peer, else 0.", []string{"peer"}, nil)
)

func nodeCount(name, help string, value func(raftnode.Metrics) uint64) figure[raftnode.Metrics] {
	return newFigure(prometheus.CounterValue, name, help, func(m raftnode.Metrics) float64 { return float64(value(m)) })
}

func nodeGauge(name, help string, value func(raftnode.Metrics) float64) figure[raftnode.Metrics] {
	return newFigure(prometheus.GaugeValue, name, help, value)
}

// Describe tells what there is.
func (nodeCollector) Describe(out chan<- *prometheus.Desc) {
	out <- rebuilding
	out <- queueDepth
	out <- unansweredBytes
	out <- peerReachable
	for _, f := range nodeFigures {
		out <- f.desc
	}
}

// Collect tells how much.
func (c nodeCollector) Collect(out chan<- prometheus.Metric) {
	out <- prometheus.MustNewConstMetric(rebuilding, prometheus.GaugeValue, float64(len(c.node.Rebuilding())))
	m := c.node.Metrics()
	for _, f := range nodeFigures {
		f.show(m, out)
	}
	q := c.node.Queues()
	for name, depth := range nodeQueues {
		out <- prometheus.MustNewConstMetric(queueDepth, prometheus.GaugeValue, float64(depth(q)), name)
	}
	out <- prometheus.MustNewConstMetric(unansweredBytes, prometheus.GaugeValue, float64(q.RequestBytes))
	for _, n := range c.node.Nodes() {
		if string(n.ID) != c.id {
			out <- prometheus.MustNewConstMetric(peerReachable, prometheus.GaugeValue, oneIf(n.Reachable), string(n.ID))
		}
	}
}
