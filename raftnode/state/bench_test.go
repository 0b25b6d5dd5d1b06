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

// BenchmarkTrim applies batches while the history is at its bound: every revision that is made has another one trimmed. An op is a batch;
// what is said per put has the flushes and compactions in it.
func BenchmarkTrim(b *testing.B) {
	for _, size := range []int{256, 4096} {
		b.Run(fmt.Sprintf("value=%d/batch=64", size), func(b *testing.B) { benchmarkTrim(b, size, 64) })
	}
}

func benchmarkTrim(b *testing.B, valueBytes, batch int) {
	const keys, kept, run = 20_000, 40_000, 4096
	s, err := Open(b.TempDir()+"/state", Options{FS: vfs.Default})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	m := newMachine(b, s, testShard)
	m.commit(bootstrapCommand())
	random := rand.New(rand.NewPCG(1, 2))
	value := make([]byte, valueBytes)
	for i := range value {
		value[i] = byte(random.Uint32())
	}
	e := entry()
	for range batch {
		e.Commands = append(e.Commands, writeCommand(&storev1.Operation{Kind: put, Value: value}))
	}
	step := func() {
		for _, c := range e.Commands {
			c.GetWrite().Operations[0].Key = fmt.Sprintf("bench/%08d", random.IntN(keys))
		}
		cs := e.Commands
		if below := m.shard.meta.Revision + 1 - min(m.shard.meta.Revision, kept); below >= m.shard.meta.HistoryFloor+run {
			cs = append(cs[:batch:batch], trimCommand(below, run))
		}
		m.commit(cs...)
	}
	for m.shard.meta.Revision < 2*kept {
		step()
	}
	done := m.shard.meta.Revision
	b.ReportAllocs()
	for b.Loop() {
		step()
	}
	b.ReportMetric(float64(m.shard.meta.Revision-done)/b.Elapsed().Seconds(), "puts/s")
}
