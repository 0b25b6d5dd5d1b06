package service

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"google.golang.org/grpc"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// BenchmarkWatch has a thousand watchers of one prefix over native gRPC, clients and node in one process, and a write of 100 B each iteration.
func BenchmarkWatch(b *testing.B) {
	const watchers, connections = 1000, 8
	f := newNodeFixture(b)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var wait sync.WaitGroup
	conns := make([]*grpc.ClientConn, connections)
	for i := range conns {
		conns[i] = f.dial(b)
	}
	for i := range watchers {
		stream, err := raftkvv1.NewWatchServiceClient(conns[i%connections]).Watch(ctx, &raftkvv1.WatchRequest{Prefix: "k"})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			b.Fatal(err)
		}
		wait.Go(func() {
			for seen := 0; seen < b.N; {
				res, err := stream.Recv()
				if err != nil {
					b.Error(err)
					return
				}
				seen += len(res.GetEvents())
			}
		})
	}
	client := raftkvv1.NewKvServiceClient(conns[0])
	value := make([]byte, 100)
	b.ResetTimer()
	for i := range b.N {
		if _, err := client.Put(ctx, &raftkvv1.PutRequest{Key: fmt.Sprintf("k%d", i%100), Value: value}); err != nil {
			b.Fatal(err)
		}
	}
	wait.Wait()
	b.ReportMetric(float64(b.N*watchers)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkIdleWatches opens ten thousand watches over native gRPC and says what they take in memory, clients included. It fails if that is more than
// 200 MiB.
func BenchmarkIdleWatches(b *testing.B) {
	const watchers, connections, mostMiB = 10_000, 16, 200
	f := newNodeFixture(b)
	for b.Loop() {
		ctx, cancel := context.WithCancel(b.Context())
		before := memoryInUse()
		for range connections {
			client := raftkvv1.NewWatchServiceClient(f.dial(b))
			for i := range watchers / connections {
				stream, err := client.Watch(ctx, &raftkvv1.WatchRequest{Key: fmt.Sprintf("key-%d", i)})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := stream.Recv(); err != nil {
					b.Fatal(err)
				}
			}
		}
		took := (memoryInUse() - before) / (1 << 20)
		cancel()
		b.ReportMetric(took, "MiB")
		if took > mostMiB {
			b.Fatalf("%d idle watches take %.0f MiB, more than %d", watchers, took, mostMiB)
		}
	}
}

func memoryInUse() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse)
}
