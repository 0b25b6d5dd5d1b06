package logstore

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// BenchmarkAppend measures synced appends on the real disk, with files that are new and with files that are recycled.
func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct{ count, bytes, shards int }{{64, 4 << 10, 1}, {256, 256, 1}, {256, 256, 16}, {1, 256, 1}} {
		for _, recycled := range []bool{false, true} {
			files := "fresh"
			if recycled {
				files = "recycled"
			}
			b.Run(fmt.Sprintf("%dx%dB/%dshards/%s", c.count, c.bytes, c.shards, files), func(b *testing.B) {
				benchmarkAppend(b, c.count, c.bytes, c.shards, recycled)
			})
		}
	}
}

func benchmarkAppend(b *testing.B, count, bytes, shards int, recycled bool) {
	o := Options{RecycleSegments: -1}
	if recycled {
		o.RecycleSegments = 4
	}
	l, err := Open(b.TempDir(), o)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	}()
	data := testData(1, bytes)
	next := make([]uint64, shards)
	round := func() {
		us := make([]Update, shards)
		for s := range us {
			es := make([]*raftpb.Entry, count/shards)
			for i := range es {
				next[s]++
				es[i] = &raftpb.Entry{Index: new(next[s]), Term: new(uint64(1)), Data: data}
			}
			us[s] = Update{Shard: placement.ShardID(s), HardState: hard(1, 1, next[s]), Entries: es, Truncate: next[s] - min(next[s], 1000)}
		}
		if err := l.Append(us, true); err != nil {
			b.Fatal(err)
		}
	}
	for recycled && l.Metrics().Rotations < 4 {
		// Large appends, to have files of full size soon.
		first := next[0] + 1
		next[0]++
		es := []*raftpb.Entry{{Index: new(first), Term: new(uint64(1)), Data: make([]byte, 8<<20)}}
		if err := l.Append([]Update{{Entries: es, Truncate: next[0]}}, true); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(count * bytes))
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		round()
	}
	b.ReportMetric(float64(count)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

// BenchmarkEntries measures reading entries back, from the page cache.
func BenchmarkEntries(b *testing.B) {
	l, err := Open(b.TempDir(), Options{FS: vfs.Default})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for i := range uint64(100) {
		if err := l.Append([]Update{{Entries: entries(i*64+1, 64, 1)}}, false); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if es, err := l.Entries(0, 1000, 1256, 1<<20); err != nil || len(es) != 256 {
			b.Fatal(len(es), err)
		}
	}
}
