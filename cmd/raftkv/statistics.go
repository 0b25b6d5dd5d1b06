package main

import (
	"log/slog"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// statistics writes a line to the log from time to time, for those who have the log alone. It says what the metrics say, of the time since the line
// before.
type statistics struct {
	gatherer prometheus.Gatherer
	log      *slog.Logger
	stopping chan struct{}
	stopped  chan struct{}

	// The line before; the goroutine's.
	at     time.Time
	before counts
}

// counts are what the rates of a line come from.
type counts struct {
	requests, failures, writes, entries, fsyncs float64
	durations                                   buckets
}

// startStatistics starts the goroutine that writes the lines; nil if there shall be none.
func startStatistics(every time.Duration, g prometheus.Gatherer, log *slog.Logger) *statistics {
	if every == 0 {
		return nil
	}
	s := &statistics{gatherer: g, log: log, stopping: make(chan struct{}), stopped: make(chan struct{}), at: time.Now()}
	go func() {
		defer close(s.stopped)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case now := <-tick.C:
				s.line(now)
			case <-s.stopping:
				return
			}
		}
	}()
	return s
}

// stop ends it. A line that is being written is finished.
func (s *statistics) stop() {
	if s != nil {
		close(s.stopping)
		<-s.stopped
	}
}

// line writes one.
func (s *statistics) line(now time.Time) {
	families, err := s.gatherer.Gather()
	if err != nil {
		s.log.Warn("some metrics cannot be gathered", "err", err) // the others are there
	}
	m := gathered{}
	for _, f := range families {
		m[f.GetName()] = f.GetMetric()
	}
	c, seconds := m.counts(), now.Sub(s.at).Seconds()
	rate := func(now, before float64) float64 { return round((now - before) / seconds) }
	during := c.durations.since(s.before.durations)
	s.log.Info("statistics",
		"requests_per_second", rate(c.requests, s.before.requests), "failures_per_second", rate(c.failures, s.before.failures),
		"p50_ms", round(1000*during.quantile(0.5)), "p99_ms", round(1000*during.quantile(0.99)),
		"writes_per_second", rate(c.writes, s.before.writes), "entries_per_second", rate(c.entries, s.before.entries),
		"fsyncs_per_second", rate(c.fsyncs, s.before.fsyncs),
		"leads", m.sum("raftkv_shard_leads"), "shards", len(m["raftkv_shard_leads"]), "leader_changes", m.sum("raftkv_leader_changes_total"),
		"log_bytes", m.sum("raftkv_log_bytes"), "state_bytes", m.sum("raftkv_state_bytes"), "disk_free_bytes", m.sum("raftkv_disk_free_bytes"),
		"memory_bytes", m.sum("process_resident_memory_bytes"), "goroutines", m.sum("go_goroutines"),
		"watches", m.sum("raftkv_watch_streams"), "streams", m.sum("raftkv_exec_streams"))
	s.at, s.before = now, c
}

// gathered are metrics by the name of their family.
type gathered map[string][]*dto.Metric

func (g gathered) counts() counts {
	c := counts{
		entries: g.sum("raftkv_proposals_total"), writes: g.sum("raftkv_proposed_commands_total"), fsyncs: g.sum("raftkv_log_syncs_total"),
		durations: make(buckets),
	}
	for _, m := range g["raftkv_requests_total"] {
		c.requests += m.GetCounter().GetValue()
		for _, l := range m.GetLabel() {
			if l.GetName() == "code" && serverFault[l.GetValue()] {
				c.failures += m.GetCounter().GetValue()
			}
		}
	}
	for _, m := range g["raftkv_request_duration_seconds"] {
		for _, b := range m.GetHistogram().GetBucket() {
			c.durations[b.GetUpperBound()] += float64(b.GetCumulativeCount())
		}
		c.durations[math.Inf(1)] += float64(m.GetHistogram().GetSampleCount())
	}
	return c
}

// serverFault are the codes of answers that a cluster in good order does not give; the others are answers to what was asked.
var serverFault = map[string]bool{"unavailable": true, "deadline_exceeded": true, "resource_exhausted": true, "unknown": true, "internal": true, "data_loss": true}

// sum adds up the metrics of a family.
func (g gathered) sum(name string) (total float64) {
	for _, m := range g[name] {
		total += m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return total
}

func round(v float64) float64 { return math.Round(v*10) / 10 }
