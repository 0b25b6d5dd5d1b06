package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

const (
	// watchersMax keeps the watches of a client on the streams that a connection has.
	watchersMax = 1000
	// stampBytes begin every value of a run with watchers: when it was written.
	stampBytes = 8
	// settleTime is how long watchers may take behind the last write.
	settleTime = 10 * time.Second
)

// watchers see every write of a run, each of them all.
type watchers struct {
	seen   []atomic.Uint64
	mu     sync.Mutex // guards delays and err
	delays *hdrhistogram.Histogram
	err    error
	stop   context.CancelFunc
	done   sync.WaitGroup
}

// Watched is what the watchers of a run have seen.
type Watched struct {
	Watchers int `json:"watchers"`
	// Events that they have seen together, PerSecond of them on average.
	Events    uint64  `json:"events"`
	PerSecond float64 `json:"events_per_second"`
	// Missing are the events of writes that were answered which some watcher had not seen ten seconds after the last answer; Extra those that one has seen beyond the writes that were
	// answered, as those of writes whose outcome is unknown.
	Missing uint64 `json:"missing"`
	Extra   uint64 `json:"extra"`
	// Latency is from when a write was sent until a watcher had it.
	Latency Latency `json:"latency"`
}

// watch begins so many watches of all keys, each of which sees what is written from now on.
func watch(ctx context.Context, c *raftkv.Client, count int) (*watchers, error) {
	ctx, stop := context.WithCancel(ctx)
	w := &watchers{seen: make([]atomic.Uint64, count), delays: newHistogram(), stop: stop}
	var begun sync.WaitGroup
	begun.Add(count)
	for i := range count {
		w.done.Go(func() {
			first := sync.OnceFunc(begun.Done)
			defer first()
			for e, err := range c.Watch(ctx, raftkv.Prefix(keyPrefix), raftkv.WithProgress(time.Minute)) {
				switch {
				case err != nil:
					w.fail(ctx, err)
					return
				case e.Type == raftkv.EventProgress:
					first()
				case e.Type == raftkv.EventPut:
					w.note(i, e.Item.Value)
				}
			}
		})
	}
	begun.Wait()
	w.mu.Lock()
	err := w.err
	w.mu.Unlock()
	if err != nil {
		w.close()
		return nil, fmt.Errorf("watch: %w", err)
	}
	return w, nil
}

func (w *watchers) close() {
	w.stop()
	w.done.Wait()
}

func (w *watchers) fail(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return // the run is over
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = errors.Join(w.err, err)
}

// note counts an event. Histograms are costly to lock for each of a hundred thousand events a second, so one watcher in ten measures.
func (w *watchers) note(i int, value []byte) {
	w.seen[i].Add(1)
	if i%10 != 0 || len(value) < stampBytes {
		return
	}
	delay := time.Since(time.Unix(0, int64(binary.BigEndian.Uint64(value)))) //nolint:gosec // a time
	w.mu.Lock()
	record(w.delays, delay)
	w.mu.Unlock()
}

// end waits until all have seen as many writes as were answered, and sums up.
func (w *watchers) end(ctx context.Context, writes uint64, elapsed time.Duration) (*Watched, error) {
	deadline, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for !w.all(writes) && deadline.Err() == nil {
		select {
		case <-look.C:
		case <-deadline.Done():
		}
	}
	w.close()
	r := &Watched{Watchers: len(w.seen), Latency: latencyOf(w.delays)}
	for i := range w.seen {
		n := w.seen[i].Load()
		r.Events += n
		r.Missing += writes - min(n, writes)
		r.Extra += n - min(n, writes)
	}
	r.PerSecond = float64(r.Events) / elapsed.Seconds()
	return r, w.err
}

func (w *watchers) all(writes uint64) bool {
	for i := range w.seen {
		if w.seen[i].Load() < writes {
			return false
		}
	}
	return true
}

// stamp returns a copy of a value that begins with the time.
func stamp(value []byte) []byte {
	stamped := append([]byte(nil), value...)
	binary.BigEndian.PutUint64(stamped, uint64(time.Now().UnixNano())) //nolint:gosec // a time
	return stamped
}
