package raftnode_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/raftkv/raftkv/raftnode"
)

// heap is what is in memory, goroutines included.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// Ten thousand watches that see nothing cost little, hold no goroutine, and leave nothing behind.
func TestIdleWatchesAreCheap(t *testing.T) {
	const count, bytesMost = 10_000, 2 << 10
	c := newCluster(t, 1, nil)
	n := c.nodes["n1"]
	before, goroutines := heap(), runtime.NumGoroutine()
	streams := make([]*raftnode.WatchStream, count)
	for i := range streams {
		s, err := n.Watch(t.Context(), raftnode.WatchRequest{Key: fmt.Sprintf("key-%05d", i)})
		if err != nil {
			t.Fatal(err)
		}
		for b, err := s.TryNext(1 << 20); b != nil || err != nil; b, err = s.TryNext(1 << 20) {
			if err != nil {
				t.Fatal(err)
			}
		}
		streams[i] = s
	}
	each := (heap() - before) / count
	t.Logf("%d bytes for each watch", each)
	if each > bytesMost {
		t.Errorf("%d bytes for each watch, at most %d", each, bytesMost)
	}
	if more := runtime.NumGoroutine() - goroutines; more > 100 {
		t.Errorf("%d goroutines more", more)
	}
	// A change finds the one that it concerns.
	c.mustPut(t, "key-07777", "v")
	ctx, cancel := context.WithTimeout(t.Context(), longTimeout)
	defer cancel()
	for b := (&raftnode.WatchBatch{}); len(b.Events) == 0; {
		var err error
		if b, err = streams[7777].Next(ctx, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range streams {
		s.Close()
	}
	runtime.KeepAlive(streams)
}

// BenchmarkWatchers has a thousand watchers of one prefix; each sees every write.
func BenchmarkWatchers(b *testing.B) {
	const count = 1000
	c := newCluster(b, 1, nil)
	value := string(make([]byte, 100))
	var wait sync.WaitGroup
	for range count {
		s, err := c.nodes["n1"].Watch(b.Context(), raftnode.WatchRequest{Prefix: "k"})
		if err != nil {
			b.Fatal(err)
		}
		wait.Go(func() {
			defer s.Close()
			for seen := 0; seen < b.N; {
				batch, err := s.Next(context.Background(), 256<<10)
				if err != nil {
					b.Error(err)
					return
				}
				seen += len(batch.Events)
			}
		})
	}
	b.ResetTimer()
	b.ReportAllocs()
	for i := range b.N {
		if _, err := c.put("n1", fmt.Sprintf("k%d", i%100), value); err != nil {
			b.Fatal(err)
		}
	}
	wait.Wait()
	b.ReportMetric(float64(b.N*count)/b.Elapsed().Seconds(), "events/s")
}
