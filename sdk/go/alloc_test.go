package raftkv_test

import (
	"fmt"
	"sync/atomic"
	"testing"
)

// The allocations include those of the stand-in cluster in this process.
func BenchmarkPut(b *testing.B)         { benchmark(b, 1, 256, true) }
func BenchmarkPutParallel(b *testing.B) { benchmark(b, 100, 256, true) }
func BenchmarkGetParallel(b *testing.B) { benchmark(b, 100, 256, false) }
func BenchmarkPut4KiB(b *testing.B)     { benchmark(b, 100, 4096, true) }

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
