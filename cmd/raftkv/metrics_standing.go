package main

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/raftkv/raftkv/raftnode"
)

// standingPatience is how long a scrape waits for a node to say how it stands. Workers and disk have a part in that; of a node whose disk hangs, the rest
// of the metrics comes in time.
const standingPatience = 2 * time.Second

// standing is how a node stands: its shards, its log, its state.
type standing struct {
	status  raftnode.Status
	storage raftnode.Storage
}

// standingCollector shows it. A question that is under way is not asked again, so a disk that hangs holds one goroutine, which ends with the node.
type standingCollector struct {
	ask func() standing

	// mu guards asking. A leaf.
	mu     sync.Mutex
	asking *question // nil if none is under way
}

// question is one whose answer is there when done is closed.
type question struct {
	done   chan struct{}
	answer standing
}

func newStandingCollector(n *raftnode.Node) *standingCollector {
	return &standingCollector{ask: func() standing { return standing{status: n.Status(), storage: n.Storage()} }}
}

// now returns how the node stands, unless it does not say within a time.
func (c *standingCollector) now(patience time.Duration) (standing, bool) {
	c.mu.Lock()
	q := c.asking
	if q == nil {
		q = &question{done: make(chan struct{})}
		c.asking = q
		go func() {
			q.answer = c.ask()
			c.mu.Lock()
			c.asking = nil
			c.mu.Unlock()
			close(q.done)
		}()
	}
	c.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-q.done:
		return q.answer, true
	case <-timer.C:
		return standing{}, false
	}
}

var standingFigures = []figure[standing]{
	standingGauge("ready", "1 if /readyz is 200, apart from a node that is stopping.", func(s standing) float64 { return oneIf(len(s.status.NotReady) == 0) }),

	standingGauge("log_bytes", "What the segments of the log take on the disk.", func(s standing) float64 { return float64(s.storage.Log.Bytes) }),
	standingGauge("log_segments", "Segments of the log.", func(s standing) float64 { return float64(s.storage.Log.Segments) }),
	standingGauge("log_pinned_segments", "Segments that are kept though a newer one is gone: some shard has a log there that is not cut.", func(s standing) float64 { return float64(s.storage.Log.Pinned) }),
	standingCount("log_written_bytes_total", "Bytes written to the log, with headers, padding and what was moved.", func(s standing) float64 { return float64(s.storage.Log.BytesWritten) }),
	standingCount("log_moved_bytes_total", "The part of them that was written again so that an old segment could go.", func(s standing) float64 { return float64(s.storage.Log.BytesMoved) }),
	standingCount("log_syncs_total", "Fsyncs of the log, those of new segments included.", func(s standing) float64 { return float64(s.storage.Log.Syncs) }),

	standingGauge("state_bytes", "What the state takes on the disk.", func(s standing) float64 { return float64(s.storage.State.Bytes) }),
	standingGauge("state_memtable_bytes", "Bytes of the state that are not flushed.", func(s standing) float64 { return float64(s.storage.State.MemTableBytes) }),
	standingGauge("state_l0_sublevels", "Sublevels that a read of the state looks through before the ordered levels.", func(s standing) float64 { return float64(s.storage.State.L0Sublevels) }),
	standingGauge("state_compaction_debt_bytes", "Bytes of the state that are left to compact.", func(s standing) float64 { return float64(s.storage.State.CompactionDebtBytes) }),
	standingGauge("state_write_amplification", "How often a byte that came into the files of the state has been written since the node was opened.", func(s standing) float64 { return s.storage.State.WriteAmplification }),
	standingCount("state_new_bytes_total", "Bytes that came into the files of the state, by flushes and ingests.", func(s standing) float64 { return float64(s.storage.State.NewBytes) }),
	standingCount("state_written_bytes_total", "Those, and what compactions have written.", func(s standing) float64 { return float64(s.storage.State.WrittenBytes) }),
	standingCount("state_flushes_total", "Flushes of the state, after which the log can be cut.", func(s standing) float64 { return float64(s.storage.State.Flushes) }),
	standingCount("state_compactions_total", "Compactions of the state.", func(s standing) float64 { return float64(s.storage.State.Compactions) }),
	standingGauge("state_cache_bytes", "Blocks of the state in memory.", func(s standing) float64 { return float64(s.storage.State.CacheBytes) }),
	standingCount("state_cache_hits_total", "Blocks of the state that were found in memory.", func(s standing) float64 { return float64(s.storage.State.CacheHits) }),
	standingCount("state_cache_misses_total", "Blocks of the state that were read from the disk.", func(s standing) float64 { return float64(s.storage.State.CacheMisses) }),
}

func standingGauge(name, help string, value func(standing) float64) figure[standing] {
	return newFigure(prometheus.GaugeValue, name, help, value)
}

func standingCount(name, help string, value func(standing) float64) figure[standing] {
	return newFigure(prometheus.CounterValue, name, help, value)
}

// shardFigure is one of every replica that the node holds.
type shardFigure struct {
	desc  *prometheus.Desc
	value func(s *raftnode.ShardStatus, self string) float64
}

var shardFigures = []shardFigure{
	shardGauge("has_leader", "1 if the node knows a leader of the shard, else 0.", func(s *raftnode.ShardStatus, _ string) float64 { return oneIf(s.Leader != "") }),
	shardGauge("leads", "1 if the node leads the shard, else 0.", func(s *raftnode.ShardStatus, self string) float64 { return oneIf(string(s.Leader) == self) }),
	shardGauge("term", "Raft term of the replica.", func(s *raftnode.ShardStatus, _ string) float64 { return float64(s.Term) }),
	shardGauge("commit_index", "Index of the last entry that the replica knows to be committed.", func(s *raftnode.ShardStatus, _ string) float64 { return float64(s.Commit) }),
	shardGauge("applied_index", "Index of the last entry applied.", func(s *raftnode.ShardStatus, _ string) float64 { return float64(s.Applied) }),
	shardGauge("durable_index", "Index up to which the state is flushed, so that the log below it can go.", func(s *raftnode.ShardStatus, _ string) float64 { return float64(s.Durable) }),
	shardGauge("last_index", "Index of the last entry in the log.", func(s *raftnode.ShardStatus, _ string) float64 { return float64(s.LastIndex) }),
	shardGauge("log_entries", "Entries in the log.", func(s *raftnode.ShardStatus, _ string) float64 {
		return float64(s.LastIndex + 1 - min(s.LastIndex+1, s.FirstLogIndex))
	}),
	shardGauge("revision", "Revision of the shard.", func(s *raftnode.ShardStatus, _ string) float64 { return float64(s.Revision) }),
	shardGauge("keys", "Keys that exist.", func(s *raftnode.ShardStatus, _ string) float64 { return float64(s.Keys) }),
	shardGauge("history_bytes", "What the history of the shard takes.", func(s *raftnode.ShardStatus, _ string) float64 { return float64(s.HistoryBytes) }),
	shardGauge("sessions", "Clients that the shard remembers for their retries.", func(s *raftnode.ShardStatus, _ string) float64 { return float64(s.Sessions) }),
	shardGauge("session_results", "Answers that it keeps for them.", func(s *raftnode.ShardStatus, _ string) float64 { return float64(s.Results) }),
	shardGauge("waiting_writes", "Writes that wait to be proposed.", func(s *raftnode.ShardStatus, _ string) float64 { return float64(s.WaitingWrites) }),
	shardGauge("waiting_reads", "Reads that wait for a round, for the applier or for a reader.", func(s *raftnode.ShardStatus, _ string) float64 { return float64(s.WaitingReads) }),
}

var replicaLag = prometheus.NewDesc("raftkv_shard_replica_lag_entries",
	"Entries that a replica on another node has not acknowledged; its leader shows it.", []string{"shard", "peer"}, nil)

func shardGauge(name, help string, value func(*raftnode.ShardStatus, string) float64) shardFigure {
	return shardFigure{prometheus.NewDesc("raftkv_shard_"+name, help, []string{"shard"}, nil), value}
}

// Describe tells what there is.
func (c *standingCollector) Describe(out chan<- *prometheus.Desc) {
	for _, f := range standingFigures {
		out <- f.desc
	}
	for _, f := range shardFigures {
		out <- f.desc
	}
	out <- replicaLag
}

// Collect tells how much, or nothing if the node does not say in time.
func (c *standingCollector) Collect(out chan<- prometheus.Metric) {
	now, ok := c.now(standingPatience)
	if !ok {
		return
	}
	for _, f := range standingFigures {
		f.show(now, out)
	}
	self := string(now.status.NodeID)
	for i := range now.status.Shards {
		s := &now.status.Shards[i]
		id := strconv.Itoa(int(s.ID))
		for _, f := range shardFigures {
			out <- prometheus.MustNewConstMetric(f.desc, prometheus.GaugeValue, f.value(s, self), id)
		}
		if string(s.Leader) != self {
			continue
		}
		for _, r := range s.Replicas {
			if string(r.NodeID) != self {
				lag := s.LastIndex - min(s.LastIndex, r.Match)
				out <- prometheus.MustNewConstMetric(replicaLag, prometheus.GaugeValue, float64(lag), id, string(r.NodeID))
			}
		}
	}
}
