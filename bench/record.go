package bench

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	// recordShards keeps clients out of each other's way; a histogram for each client would take too much memory.
	recordShards = 16
	// latencyMax is the highest that histograms tell apart; what is slower counts as that.
	latencyMax = 5 * time.Minute
	// errorKindsMax bounds the table of errors.
	errorKindsMax = 32
)

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, latencyMax.Microseconds(), 3)
}

// recorder takes the outcome of every operation, in microseconds.
type recorder struct{ shards [recordShards]recordShard }

type recordShard struct {
	// mu guards everything below.
	mu       sync.Mutex
	reads    *hdrhistogram.Histogram
	writes   *hdrhistogram.Histogram
	late     *hdrhistogram.Histogram // operations that were due and never started
	definite map[string]uint64
	unknown  map[string]uint64
}

func (r *recorder) reset() {
	for i := range r.shards {
		s := &r.shards[i]
		s.reads, s.writes, s.late = newHistogram(), newHistogram(), newHistogram()
		s.definite, s.unknown = make(map[string]uint64), make(map[string]uint64)
	}
}

func (r *recorder) pick() *recordShard { return &r.shards[rand.IntN(recordShards)] }

func record(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(max(1, min(d, latencyMax).Microseconds())) // always in range
}

func (r *recorder) success(read bool, took time.Duration) {
	s := r.pick()
	s.mu.Lock()
	defer s.mu.Unlock()
	if read {
		record(s.reads, took)
	} else {
		record(s.writes, took)
	}
}

func (r *recorder) unstarted(late time.Duration) {
	s := r.pick()
	s.mu.Lock()
	defer s.mu.Unlock()
	record(s.late, late)
}

func (r *recorder) failure(kind string, unknown bool) {
	s := r.pick()
	s.mu.Lock()
	defer s.mu.Unlock()
	table := s.definite
	if unknown {
		table = s.unknown
	}
	if _, known := table[kind]; !known && len(table) >= errorKindsMax {
		kind = "other"
	}
	table[kind]++
}
