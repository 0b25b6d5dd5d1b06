package state

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
)

// BenchmarkApply applies batches to a store on disk; ns/op is for one put, flushes and compactions included.
func BenchmarkApply(b *testing.B) {
	for _, c := range []struct{ value, batch int }{{256, 256}, {4096, 64}} {
		for _, retried := range []bool{false, true} {
			b.Run(fmt.Sprintf("value=%d/batch=%d/requestid=%v", c.value, c.batch, retried), func(b *testing.B) {
				benchmarkApply(b, c.value, c.batch, retried)
			})
		}
	}
}

func benchmarkApply(b *testing.B, valueBytes, batch int, retried bool) {
	s, err := Open(b.TempDir()+"/state", Options{FS: vfs.Default})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	m := newMachine(b, s, testShard)
	m.commit(bootstrapCommand())
	random := rand.New(rand.NewPCG(1, 2))
	keys := make([]string, 100_000)
	for i := range keys {
		keys[i] = fmt.Sprintf("bench/%08d", i)
	}
	value := make([]byte, valueBytes)
	for i := range value {
		value[i] = byte(random.Uint32())
	}
	e := entry()
	for range batch {
		e.Commands = append(e.Commands, writeCommand(&storev1.Operation{Kind: put, Value: value}))
	}
	sequence := uint64(0)
	b.SetBytes(int64(valueBytes))
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += batch {
		for i, c := range e.Commands {
			c.GetWrite().Operations[0].Key = keys[random.IntN(len(keys))]
			if retried {
				sequence++
				as(byte(i%100), sequence, m.shard.meta.Revision, max(sequence, 1000)-1000, c)
			}
		}
		if _, err := m.shard.Apply(m.batch, m.shard.meta.AppliedIndex+1, 1, e); err != nil {
			b.Fatal(err)
		}
		if err := m.batch.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
}
