package state

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/goleak"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

// TestDurableLagsUntilFlush shows that the memtables are not counted as durable, and that a crash leaves exactly what was.
func TestDurableLagsUntilFlush(t *testing.T) {
	disk := newDisk()
	m := newServing(t, testOptions(disk))
	durable := func() uint64 {
		t.Helper()
		n, err := m.store.DurableApplied(testShard)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := durable(); n != 0 {
		t.Fatalf("durable before any flush: %d", n)
	}
	m.commit(putCommand("a", "1"))
	flush(t, m.store)
	if n := durable(); n != 2 {
		t.Fatalf("durable after the flush: %d", n)
	}
	want := exportOf(t, m.store, testShard)
	m.commit(putCommand("a", "2"))
	m.commit(putCommand("b", "1"))
	if n := durable(); n != 2 {
		t.Fatalf("durable while applied is 4: %d", n)
	}
	m = newMachine(t, openStore(t, testOptions(disk.Crash(simfs.CrashOptions{Keep: simfs.KeepSynced}))), testShard)
	if n := durable(); n != 2 || m.shard.Position().Index != 2 {
		t.Fatalf("after the crash durable is %d, applied %d", n, m.shard.Position().Index)
	}
	if !bytes.Equal(want, exportOf(t, m.store, testShard)) {
		t.Error("the state is another than the flushed one")
	}
}

func TestCloseFlushes(t *testing.T) {
	o := testOptions(newDisk())
	m := newFull(t, o)
	want := exportOf(t, m.store, testShard)
	if err := m.store.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.store.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if _, err := m.store.Shard(testShard); !errors.Is(err, ErrClosed) {
		t.Errorf("after close: %v", err)
	}
	if !bytes.Equal(want, exportOf(t, openStore(t, o), testShard)) {
		t.Error("the state is another after opening again")
	}
}

func TestOnFlush(t *testing.T) {
	o := testOptions(newDisk())
	flushed := make(chan struct{}, 100)
	o.OnFlush = func() { flushed <- struct{}{} }
	m := newServing(t, o)
	for len(flushed) > 0 {
		<-flushed
	}
	flush(t, m.store)
	<-flushed
	if n, err := m.store.DurableApplied(testShard); err != nil || n != 1 {
		t.Error(n, err)
	}
}

func TestShardsAreSeparate(t *testing.T) {
	s := openStore(t, Options{})
	ids := []placement.ShardID{0, 1, 2, 255, 256, ^placement.ShardID(0)}
	batch := s.NewBatch()
	for _, id := range ids {
		m := newMachine(t, s, id)
		m.batch = batch
		m.apply(bootstrapCommand(), putCommand("a", fmt.Sprint(id)))
	}
	shardOf(t, s, 3) // without state
	if err := batch.Commit(); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Shards(); err != nil || !slices.Equal(got, ids) {
		t.Fatalf("shards %v, %v", got, err)
	}
	old := viewOf(t, s)
	dead := shardOf(t, s, 255)
	if err := s.Drop(255); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Shards(); err != nil || !slices.Equal(got, slices.DeleteFunc(slices.Clone(ids), func(i placement.ShardID) bool { return i == 255 })) {
		t.Fatalf("shards %v, %v", got, err)
	}
	if err := dead.ApplyEmpty(batch, 2, 1); !errors.Is(err, ErrDropped) {
		t.Errorf("apply to a dropped shard: %v", err)
	}
	if _, err := old.Position(255); !errors.Is(err, ErrReplaced) {
		t.Errorf("a view from before: %v", err)
	}
	if n, err := s.DurableApplied(255); n != 0 || err != nil {
		t.Errorf("durable of a dropped shard: %d, %v", n, err)
	}
	v := viewOf(t, s)
	for _, id := range ids {
		r, err := v.Get(id, "a")
		if err != nil || (string(r.GetValue()) != fmt.Sprint(id)) != (id == 255) {
			t.Errorf("shard %d: %v, %v", id, r, err)
		}
	}
	newMachine(t, s, 255).commit(bootstrapCommand())
}

func TestUnknownFormatsAreRefused(t *testing.T) {
	disk := newDisk()
	s := openStore(t, testOptions(disk))
	set := func(s *Store, key, value []byte) {
		t.Helper()
		if err := s.db.Set(key, value, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	var format *FormatError
	var version *VersionError
	meta := must(encode(&shardMeta{AppliedIndex: 1, HistoryFloor: 1, CommandVersion: CommandVersion + 1}))
	set(s, appendKey(nil, 1, sectionMeta), meta)
	if _, err := s.Shard(1); !errors.As(err, &version) {
		t.Errorf("a shard of a newer version: %v", err)
	}
	set(s, appendKey(nil, 2, sectionMeta), []byte{recordVersion + 1})
	if _, err := s.Shard(2); !errors.As(err, &format) {
		t.Errorf("meta of another format: %v", err)
	}
	set(s, formatKey, []byte{formatVersion + 1})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open("state", testOptions(disk)); !errors.As(err, &format) {
		t.Errorf("a store of a newer format: %v", err)
	}
	foreign := newDisk()
	db, err := pebble.Open("state", &pebble.Options{FS: foreign, FormatMajorVersion: pebble.FormatNewest})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Set([]byte("x"), nil, nil), db.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open("state", testOptions(foreign)); err == nil {
		t.Error("a Pebble of somebody else was opened")
	}
}

func TestReferencesAreRefused(t *testing.T) {
	m := newServing(t, Options{})
	key := appendRecordKey(nil, testShard, "a")
	stored := must(encode(&record{ModRevision: 1, Content: &storev1.Record_Reference{Reference: &storev1.Reference{Length: 1}}}))
	if err := m.store.db.Set(key, stored, pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	v := viewOf(t, m.store)
	if _, err := v.Get(testShard, "a"); !errors.Is(err, ErrReference) {
		t.Errorf("get: %v", err)
	}
	if _, _, err := v.Range(testShard, &peerv1.RangeRead{}); !errors.Is(err, ErrReference) {
		t.Errorf("range: %v", err)
	}
	if _, err := m.shard.Apply(m.batch, 2, 1, entry(putCommand("a", "1"))); !errors.Is(err, ErrReference) {
		t.Errorf("apply: %v", err)
	}
	if err := m.batch.Commit(); !errors.Is(err, ErrFatal) {
		t.Errorf("commit of half an entry: %v", err)
	}
}

// TestViewIsOneMoment reads everything through a view while the store goes on.
func TestViewIsOneMoment(t *testing.T) {
	m := newServing(t, Options{})
	m.commit(putCommand("a", "1"), putCommand("b", "1"))
	v := viewOf(t, m.store)
	m.commit(putCommand("a", "2"), writeCommand(deleteOp("b")), putCommand("c", "1"), trimCommand(9, 9))
	flush(t, m.store)
	if p, err := v.Position(testShard); err != nil || p.Revision != 2 || p.Index != 2 || p.Keys != 2 {
		t.Errorf("position %+v, %v", p, err)
	}
	page, more, err := v.Range(testShard, &peerv1.RangeRead{})
	if err != nil || more || len(page) != 2 || string(page[0].Record.GetValue()) != "1" || page[1].Key != "b" {
		t.Errorf("range %v, %v, %v", page, more, err)
	}
	if r, err := v.GetAt(testShard, "b", 2); err != nil || string(r.GetValue()) != "1" {
		t.Errorf("get at: %v, %v", r, err)
	}
	var compacted *CompactedError
	var future *FutureRevisionError
	now := viewOf(t, m.store)
	if _, err := now.GetAt(testShard, "b", 2); !errors.As(err, &compacted) || compacted.Floor != 5 {
		t.Errorf("get at a trimmed revision: %v", err)
	}
	if _, err := now.History(testShard, 2, 9, 1, nil); !errors.As(err, &compacted) {
		t.Errorf("trimmed history: %v", err)
	}
	if _, err := v.GetAt(testShard, "b", 3); !errors.As(err, &future) || future.Current != 2 {
		t.Errorf("get at a revision to come: %v", err)
	}
}

func TestRangePages(t *testing.T) {
	m := newServing(t, Options{})
	var all []string
	for i := range 20 {
		all = append(all, keyName(i))
		m.commit(putCommand(keyName(i), "0123456789"))
	}
	m.commit(writeCommand(deleteOp(keyName(3)), deleteOp(keyName(19))))
	all = slices.Delete(all[:19], 3, 4)
	v := viewOf(t, m.store)
	for _, c := range []struct {
		read *peerv1.RangeRead
		want []string
		more bool
	}{
		{&peerv1.RangeRead{}, all, false},
		{&peerv1.RangeRead{MaxItems: 18}, all, false},
		{&peerv1.RangeRead{MaxItems: 2}, all[:2], true},
		{&peerv1.RangeRead{MaxItems: 2, Reverse: true}, []string{all[17], all[16]}, true},
		{&peerv1.RangeRead{MaxBytes: 1}, all[:1], true},
		{&peerv1.RangeRead{MaxBytes: 19}, all[:2], true},
		{&peerv1.RangeRead{MaxBytes: 19, KeysOnly: true}, all[:3], true},
		{&peerv1.RangeRead{Start: all[2], End: all[4]}, all[2:4], false},
		{&peerv1.RangeRead{Start: all[2], End: all[4], Reverse: true, MaxItems: 1}, all[3:4], true},
		{&peerv1.RangeRead{Start: all[16]}, all[16:], false},
		{&peerv1.RangeRead{Start: "z"}, nil, false},
		{&peerv1.RangeRead{Start: "b", End: "a"}, nil, false},
		{&peerv1.RangeRead{Start: "a", End: "a"}, nil, false},
	} {
		page, more, err := v.Range(testShard, c.read)
		var got []string
		for _, r := range page {
			got = append(got, r.Key)
			if (r.Record.GetValue() == nil) != c.read.KeysOnly {
				t.Errorf("%v: value %q", c.read, r.Record.GetValue())
			}
		}
		if err != nil || more != c.more || !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, %v, %v; want %v, %v", c.read, got, more, err, c.want, c.more)
		}
	}
}

func TestHistoryPages(t *testing.T) {
	m := newServing(t, Options{})
	for i := range 10 {
		m.commit(putCommand(keyName(i), "0123456789"))
	}
	v := viewOf(t, m.store)
	read := func(from, to, size uint64) (got []string, next uint64) {
		t.Helper()
		next, err := v.History(testShard, from, to, size, func(_ uint64, h *storev1.History) error {
			got = append(got, h.Changes[0].Key)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return got, next
	}
	for _, c := range []struct{ from, to, size, n, next uint64 }{
		{1, 10, 1 << 20, 10, 11}, {3, 5, 1 << 20, 3, 6}, {1, 10, 1, 1, 2}, {1, 10, 0, 1, 2}, {10, 99, 9, 1, 11}, {11, 99, 9, 0, 11},
	} {
		if got, next := read(c.from, c.to, c.size); uint64(len(got)) != c.n || next != c.next || (c.n > 0 && got[0] != keyName(int(c.from)-1)) {
			t.Errorf("%+v: %v, %d", c, got, next)
		}
	}
	stop := errors.New("stop")
	if next, err := v.History(testShard, 2, 9, 99, func(uint64, *storev1.History) error { return stop }); next != 2 || !errors.Is(err, stop) {
		t.Errorf("stopped at %d: %v", next, err)
	}
}

func TestDigestTellsApart(t *testing.T) {
	seen := map[Digest]string{}
	for i, pairs := range [][]string{{"a", "1", "b", "2"}, {"a", "2", "b", "1"}, {"a", "1"}, {"b", "1"}, {"a", ""}, {"", "a"}, {}} {
		var d, reverse Digest
		for i := 0; i < len(pairs); i += 2 {
			d.add(hashRecord(pairs[i], []byte(pairs[i+1])))
			reverse.add(hashRecord(pairs[len(pairs)-2-i], []byte(pairs[len(pairs)-1-i])))
		}
		if d != reverse {
			t.Errorf("%v: the order matters", pairs)
		}
		if other, ok := seen[d]; ok {
			t.Errorf("%v and %v have one digest", pairs, other)
		}
		seen[d] = fmt.Sprint(i, pairs)
		for i := 0; i < len(pairs); i += 2 {
			d.remove(hashRecord(pairs[i], []byte(pairs[i+1])))
		}
		if d != (Digest{}) {
			t.Errorf("%v: removing all leaves %v", pairs, d)
		}
	}
}

func TestKeysKeepTheirOrderAndCanBeRead(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		shard, revision := placement.ShardID(random.Uint32()), random.Uint64()
		slot := placement.Slot(random.IntN(placement.SlotCount))
		if i, o, err := parseDedup(appendDedupKey(nil, shard, revision, uint32(slot))[sectionLen:]); err != nil || i != revision || o != uint32(slot) {
			t.Fatal(i, o, err)
		}
		if r, k, err := parseRevisionKey(appendRevisionKey(nil, shard, sectionTombstone, revision, "a\x00b")[sectionLen:]); err != nil || r != revision || string(k) != "a\x00b" {
			t.Fatal(r, k, err)
		}
		start, end := shardSpan(shard)
		for _, k := range [][]byte{appendRecordKey(nil, shard, "\xff"), appendHistoryKey(nil, shard, revision), appendSlotSummaryKey(nil, shard, slot)} {
			if got, ok := shardOfKey(k); !ok || got != shard || bytes.Compare(k, start) < 0 || bytes.Compare(k, end) >= 0 {
				t.Fatalf("%x is not in the span of shard %d", k, shard)
			}
		}
	}
}

func TestMetricsAndPressure(t *testing.T) {
	m := newServing(t, Options{})
	m.commit(putCommand("a", "1"))
	flush(t, m.store)
	if got := m.store.Metrics(); got.Bytes == 0 || got.Flushes == 0 || got.NewBytes == 0 || got.WrittenBytes < got.NewBytes || got.WriteAmplification < 1 {
		t.Errorf("%+v", got)
	}
	if what, limit, actual, high := m.store.Pressure(); high || limit == 0 || actual > limit {
		t.Error(what, limit, actual, high)
	}
	var p pebble.Metrics
	p.MemTable.Size = 3 << 20
	if what, _, _, high := pressure(&p, 1<<20); !high || what != "unflushed_bytes" {
		t.Error(what, high)
	}
	p.Levels[0].Sublevels = l0StopSublevels
	if what, _, _, high := pressure(&p, 1<<20); !high || what != "l0_sublevels" {
		t.Error(what, high)
	}
}

// TestNoGoroutineIsLeft opens, uses and closes a store.
func TestNoGoroutineIsLeft(t *testing.T) {
	// Pebble starts this one without waiting for it: it looks at the closed store, and ends.
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent(), goleak.IgnoreAnyFunction("github.com/cockroachdb/pebble/v2.(*DB).collectTableStats"))
	m := newFull(t, Options{})
	target := openStore(t, Options{})
	stageAndIngest(t, target, exportOf(t, m.store, testShard))
	if err := errors.Join(m.store.Close(), target.Close()); err != nil {
		t.Fatal(err)
	}
}
