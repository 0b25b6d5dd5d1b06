package logstore

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

func shardsOf(ids ...placement.ShardID) []placement.ShardID { return ids }

// fillSegments appends to a shard, and truncates behind itself, until n segments were opened.
func fillSegments(t testing.TB, l *Log, shard placement.ShardID, n int) {
	t.Helper()
	for until := l.Metrics().Rotations + uint64(n); l.Metrics().Rotations < until; {
		st, _ := l.State(shard)
		mustAppend(t, l, Update{
			Shard: shard, HardState: hard(1, 1, st.LastIndex), Entries: entries(st.LastIndex+1, 20, 1), Truncate: st.LastIndex,
		})
	}
}

func names(t testing.TB, fs vfs.FS, suffix string) []string {
	t.Helper()
	all, err := fs.List("/log")
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(slices.Values(slices.DeleteFunc(all, func(n string) bool { return !strings.HasSuffix(n, suffix) })))
}

// TestIdleShardsDoNotHoldSegments: states and short logs of idle shards are written again when their segment goes (V7).
func TestIdleShardsDoNotHoldSegments(t *testing.T) {
	fs := simfs.New(simfs.Options{})
	l := open(t, fs, small)
	idle := []Update{
		{Shard: 5, HardState: hard(3, 2, 7), Entries: entries(1, 8, 3), Truncate: 3},
		{Shard: 6, HardState: hard(4, 1, 0)},
		{Shard: 7, Reset: &Reset{Index: 40, Term: 2}, HardState: hard(2, 0, 40)},
		{Shard: 8, Intent: &Intent{Index: 11, Term: 2, Dir: "staged"}},
	}
	mustAppend(t, l, idle...)
	fillSegments(t, l, 1, 12)
	if m := l.Metrics(); m.Segments > 3 || m.Pinned != 0 || m.BytesMoved == 0 || m.Free == 0 {
		t.Errorf("%+v", m)
	}
	if got := names(t, fs, segmentSuffix); len(got) > 3 || len(names(t, fs, freeSuffix)) > small.RecycleSegments {
		t.Errorf("files %v and %v", got, names(t, fs, freeSuffix))
	}
	st, _ := l.State(1)
	mustAppend(t, l, Update{Shard: 1, Truncate: st.LastIndex})
	for range 3 {
		for id, s := range (model{}).with(idle) {
			if err := s.diff(l, id); err != nil {
				t.Errorf("shard %d: %v", id, err)
			}
		}
		closed(t, l)
		l = open(t, fs, small)
	}
	if m := l.Metrics(); m.Segments != 1 {
		t.Errorf("restarts leave %d segments", m.Segments)
	}
}

// TestReclaim gives back the space of a log that has been truncated, at once, and does nothing if that would not pay.
func TestReclaim(t *testing.T) {
	fs := simfs.New(simfs.Options{})
	l := open(t, fs, small)
	for last := uint64(0); l.Metrics().Segments < 6; last += 20 {
		mustAppend(t, l, Update{Shard: 1, HardState: hard(1, 1, last), Entries: entries(last+1, 20, 1)})
	}
	before := l.Metrics()
	if err := l.Reclaim(); err != nil || l.Metrics().Rotations != before.Rotations {
		t.Errorf("%v; a segment is started though nothing goes with it: %+v", err, l.Metrics())
	}
	st, _ := l.State(1)
	mustAppend(t, l, Update{Shard: 1, Truncate: st.LastIndex - 1})
	if err := l.Reclaim(); err != nil || l.Metrics().Segments != 1 {
		t.Errorf("%v; segments of a truncated log remain: %+v", err, l.Metrics())
	}
	after := l.Metrics()
	if err := l.Reclaim(); err != nil || l.Metrics().Rotations != after.Rotations {
		t.Errorf("%v; it is done again: %+v", err, l.Metrics())
	}
	if st, _ := l.State(1); st.TruncatedIndex != st.LastIndex-1 {
		t.Errorf("the log holds %d to %d", st.TruncatedIndex+1, st.LastIndex)
	}
	closed(t, l)
}

// TestLongIdleLogIsPinned: a log that is too long to move keeps its segments, and only those.
func TestLongIdleLogIsPinned(t *testing.T) {
	fs := simfs.New(simfs.Options{})
	l := open(t, fs, small)
	long := []Update{{Shard: 5, HardState: hard(3, 2, 7), Entries: entries(1, 100, 3)}}
	mustAppend(t, l, long...)
	fillSegments(t, l, 1, 12)
	if m := l.Metrics(); m.Pinned != 1 || m.Segments > 4 || m.BytesMoved != 0 {
		t.Errorf("%+v", m)
	}
	closed(t, l)
	l = open(t, fs, small)
	if err := (model{}).with(long)[5].diff(l, 5); err != nil {
		t.Error(err)
	}
	mustAppend(t, l, Update{Shard: 5, Truncate: 98})
	fillSegments(t, l, 1, 3)
	if m := l.Metrics(); m.Pinned != 0 {
		t.Errorf("after truncation: %+v", m)
	}
}

// TestSegmentIsNotRecycledUnderReader holds a reader in a segment that everybody else has given up.
func TestSegmentIsNotRecycledUnderReader(t *testing.T) {
	fs := simfs.New(simfs.Options{})
	l := open(t, fs, small)
	want := entries(1, 100, 1)
	mustAppend(t, l, Update{Shard: 5, Entries: want})
	reads, n, err := l.locate(5, 1, 101, ^uint64(0))
	if err != nil || n != 100 {
		t.Fatal(n, err)
	}
	mustAppend(t, l, Update{Shard: 5, Truncate: 100})
	fillSegments(t, l, 1, 6)
	held := reads[0].segment
	if !slices.Contains(names(t, fs, segmentSuffix), fileName(held.number, segmentSuffix)) || l.segments[held.number] != nil {
		t.Fatal("the segment is still part of the log, or gone from the disk")
	}
	boxes := make([]entryBox, n)
	for _, r := range reads {
		if err := r.read(5, boxes[:len(r.wants)]); err != nil {
			t.Fatal(err)
		}
		for i := range r.wants {
			if !bytes.Equal(boxes[i].entry.GetData(), want[i].GetData()) {
				t.Fatalf("entry %d is not what it was", i+1)
			}
		}
		want, boxes = want[len(r.wants):], boxes[len(r.wants):]
		if err := l.release(r.segment); err != nil {
			t.Fatal(err)
		}
	}
	fillSegments(t, l, 1, 1)
	if slices.Contains(names(t, fs, segmentSuffix), fileName(held.number, segmentSuffix)) {
		t.Error("the segment is kept though nobody reads it")
	}
}

// TestStaleGeneration plants a batch that fits in every respect but its generation behind the end of a segment: one of the right
// generation is taken, one that an earlier use of the file left behind is not (V6).
func TestStaleGeneration(t *testing.T) {
	for name, stale := range map[string]bool{"of this generation": false, "of an earlier one": true} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			l := open(t, fs, small)
			start := []Update{{Shard: 5, Entries: entries(1, 3, 1)}}
			more := []Update{{Shard: 5, Entries: entries(4, 3, 1)}}
			mustAppend(t, l, start...)
			seed := l.active.seed
			if stale {
				seed = seedOf(12345)
			}
			var b batch
			b.begin(seed, l.seq+1, l.off, nil)
			for _, e := range more[0].Entries {
				b.entry(&shardLog{id: 5}, e)
			}
			if _, err := l.active.file.WriteAt(b.finish(l.seq), l.off); err != nil {
				t.Fatal(err)
			}
			want := model{}.with(start)
			if !stale {
				want = want.with(more)
			}
			want.check(t, open(t, fs, small))
		})
	}
}

// TestRecycledFilesKeepNothing goes through many uses of the same files with restarts, and crashes that leave the old content.
func TestRecycledFilesKeepNothing(t *testing.T) {
	fs := simfs.New(simfs.Options{})
	l := open(t, fs, small)
	fillSegments(t, l, 1, 5)
	if len(names(t, fs, freeSuffix)) == 0 {
		t.Fatal("no file waits to be recycled")
	}
	creates := fs.Stats().Creates
	fillSegments(t, l, 1, 10)
	if n := fs.Stats().Creates - creates; n > 2 {
		t.Errorf("%d files were created though there were some to recycle", n)
	}
	want, _ := l.State(1)
	fs = fs.Crash(simfs.CrashOptions{Keep: simfs.KeepSynced})
	if got, _ := open(t, fs, small).State(1); got.LastIndex != want.LastIndex || got.TruncatedIndex != want.TruncatedIndex {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
