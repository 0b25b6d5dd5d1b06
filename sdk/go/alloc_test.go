package raftkv_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	raftkv "github.com/raftkv/raftkv/sdk/go"
)

// The allocations include those of the stand-in cluster in this process.
func BenchmarkPut(b *testing.B)         { benchmark(b, 1, 256, true) }
func BenchmarkPutParallel(b *testing.B) { benchmark(b, 100, 256, true) }
func BenchmarkGetParallel(b *testing.B) { benchmark(b, 100, 256, false) }
func BenchmarkPut4KiB(b *testing.B)     { benchmark(b, 100, 4096, true) }
func BenchmarkGet(b *testing.B)         { benchmark(b, 1, 256, false) }

func benchmark(b *testing.B, callers, valueBytes int, put bool) {
	_, client := open(b, 1, 1)
	value := make([]byte, valueBytes)
	if _, err := client.Put(b.Context(), "key-0", value); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetParallelism(callers)
	var caller atomic.Int64
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		key := fmt.Sprintf("key-%d", caller.Add(1))
		for pb.Next() {
			var err error
			if put {
				_, err = client.Put(b.Context(), key, value)
			} else {
				_, err = client.Get(b.Context(), "key-0")
			}
			if err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkPutAsync(b *testing.B) {
	value := make([]byte, 256)
	benchmarkAsync(b, func(c *raftkv.Client) *raftkv.Future[raftkv.Result] {
		return c.Async().Put(b.Context(), "key-0", value)
	})
}

func BenchmarkGetAsync(b *testing.B) {
	benchmarkAsync(b, func(c *raftkv.Client) *raftkv.Future[raftkv.Item] { return c.Async().Get(b.Context(), "key-0") })
}

// benchmarkAsync keeps 100 calls of one goroutine under way.
func benchmarkAsync[T any](b *testing.B, start func(*raftkv.Client) *raftkv.Future[T]) {
	_, client := open(b, 1, 1)
	if _, err := client.Put(b.Context(), "key-0", make([]byte, 256)); err != nil {
		b.Fatal(err)
	}
	var window [100]*raftkv.Future[T]
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N + len(window) {
		slot := &window[i%len(window)]
		if *slot != nil {
			if _, err := (*slot).Wait(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		if *slot = nil; i < b.N {
			*slot = start(client)
		}
	}
}
