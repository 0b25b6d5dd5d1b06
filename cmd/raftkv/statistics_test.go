package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestQuantile(t *testing.T) {
	b := buckets{0.1: 50, 0.2: 90, 0.4: 99, math.Inf(1): 100}
	for q, want := range map[float64]float64{0.5: 0.1, 0.25: 0.05, 0.9: 0.2, 0.945: 0.3, 1: 0.4} {
		if got := b.quantile(q); math.Abs(got-want) > 1e-9 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if got := b.since(b).quantile(0.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
	if got := (buckets{}).quantile(0.5); got != 0 {
		t.Errorf("of no buckets: %v", got)
	}
}

// A line of statistics says what has happened since the one before.
func TestStatistics(t *testing.T) {
	r := prometheus.NewRegistry()
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "raftkv_requests_total"}, []string{"code"})
	durations := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "raftkv_request_duration_seconds", Buckets: []float64{0.001, 0.002}})
	r.MustRegister(requests, durations)
	var log bytes.Buffer
	began := time.Unix(1000, 0)
	s := &statistics{gatherer: r, log: slog.New(slog.NewJSONHandler(&log, nil)), at: began}
	line := func(at time.Time) (got struct {
		Requests float64 `json:"requests_per_second"`
		Failures float64 `json:"failures_per_second"`
		P99      float64 `json:"p99_ms"`
	},
	) {
		t.Helper()
		log.Reset()
		s.line(at)
		if err := json.Unmarshal(log.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	requests.WithLabelValues("ok").Add(50)
	requests.WithLabelValues("not_found").Add(30)
	requests.WithLabelValues("unavailable").Add(20)
	durations.Observe(0.0015)
	if got := line(began.Add(10 * time.Second)); got.Requests != 10 || got.Failures != 2 || got.P99 != 2 {
		t.Errorf("%+v", got)
	}
	requests.WithLabelValues("ok").Add(5)
	if got := line(began.Add(20 * time.Second)); got.Requests != 0.5 || got.Failures != 0 || got.P99 != 0 {
		t.Errorf("the second line: %+v", got)
	}
}

// The lines come by themselves, and end with the node.
func TestStatisticsGoOn(t *testing.T) {
	log := watch("msg=statistics")
	s := startStatistics(10*time.Millisecond, prometheus.NewRegistry(), slog.New(slog.NewTextHandler(log, nil)))
	log.wait(t)
	s.stop()
	if startStatistics(0, nil, nil) != nil {
		t.Error("lines that nobody wants are written")
	}
	(*statistics)(nil).stop()
}
