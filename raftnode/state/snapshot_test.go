package state

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
)

// newFull has everything in it that a snapshot carries.
func newFull(t testing.TB, o Options) *machine {
	m := newServing(t, o)
	for i := range 60 {
		key := keyName(i % 25)
		m.commit(
			as(byte(1+i%3), uint64(i+1), m.shard.meta.Revision, 0, putCommand(key, fmt.Sprint(i))),
			as(4, uint64(i+1), m.shard.meta.Revision, 0, compares(putCommand(key, "no"), exists(key, false))),
		)
		if i%7 == 0 {
			m.commit(writeCommand(deleteOp(key)))
			m.commit(under(fmt.Sprintf("order-%d", i), 1, 1000, writeCommand(deleteOp("none"))), as(5, uint64(i+1), m.shard.meta.Revision, 0, fenceCommand("a")))
		}
		if i == 40 {
			m.commit(trimCommand(20, 100))
		}
	}
	c := &storev1.Configuration{Index: m.shard.meta.AppliedIndex + 1, Voters: []uint64{1, 2, 3}, Learners: []uint64{4}}
	if err := m.shard.ApplyConfiguration(m.batch, c.Index, 5, c); err != nil {
		t.Fatal(err)
	}
	if err := m.batch.Commit(); err != nil {
		t.Fatal(err)
	}
	return m
}

func stageAndIngest(t testing.TB, s *Store, stream []byte) *storev1.SnapshotHeader {
	t.Helper()
	h, err := s.Stage("staged", bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Ingest(placement.ShardID(h.Shard), "staged"); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestSnapshotRoundTrip(t *testing.T) {
	source := newFull(t, Options{})
	stream := exportOf(t, source.store, testShard)

	target := newMachine(t, openStore(t, Options{}), testShard)
	target.commit(bootstrapCommand())
	target.commit(as(77, 1, 0, 0, putCommand("gone after", "1")))
	other := newMachine(t, target.store, testShard+1)
	other.commit(bootstrapCommand(), putCommand("stays", "1"))
	untouched := exportOf(t, target.store, testShard+1)

	before := viewOf(t, target.store)
	h := stageAndIngest(t, target.store, stream)
	if h.Index != source.shard.Position().Index || h.Term != 5 || len(h.Configuration.Voters) != 3 {
		t.Errorf("header %v", h)
	}
	if got, want := target.shard.Position(), source.shard.Position(); got != want {
		t.Errorf("position %+v, want %+v", got, want)
	}
	if got := target.shard.Configuration(); len(got.GetVoters()) != 3 {
		t.Errorf("configuration %v", got)
	}
	if n, err := target.store.DurableApplied(testShard); err != nil || n != h.Index {
		t.Errorf("durable %d, %v; want %d", n, err, h.Index)
	}
	if !bytes.Equal(stream, exportOf(t, target.store, testShard)) {
		t.Error("the stream of the copy differs")
	}
	if !bytes.Equal(untouched, exportOf(t, target.store, testShard+1)) {
		t.Error("another shard changed")
	}
	if _, err := before.Get(testShard, "gone after"); !errors.Is(err, ErrReplaced) {
		t.Errorf("a view from before the ingest: %v", err)
	}
	if r, err := before.Get(testShard+1, "stays"); err != nil || r == nil {
		t.Errorf("a view from before, another shard: %v, %v", r, err)
	}
	checkDigests(t, target.store, testShard)

	// Both go on alike, retries of what the source answered included.
	for i := range 60 {
		c := func() *storev1.Command {
			return as(4, uint64(i+1), 1000, 0, compares(putCommand(keyName(i), "no"), exists(keyName(i), false)))
		}
		a, b := source.one(c()), target.one(c())
		if !bytes.Equal(must(a.MarshalVT()), must(b.MarshalVT())) {
			t.Errorf("retry %d: %v and %v", i, a, b)
		}
	}
	if !bytes.Equal(exportOf(t, source.store, testShard), exportOf(t, target.store, testShard)) {
		t.Error("the copies went apart")
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestIngestIsIdempotent(t *testing.T) {
	source := newFull(t, Options{})
	stream := exportOf(t, source.store, testShard)
	target := openStore(t, Options{})
	h := stageAndIngest(t, target, stream)
	m := newMachine(t, target, testShard)
	m.commit(putCommand("later", "1"))
	if err := target.Ingest(testShard, "staged"); err != nil {
		t.Fatal(err)
	}
	if got := m.shard.Position().Index; got != h.Index+1 {
		t.Errorf("the repetition took the shard to %d", got)
	}
	// Of a shard that got there by itself, it makes what is there durable.
	again := newFull(t, Options{})
	if _, err := again.store.Stage("staged", bytes.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	if n, _ := again.store.DurableApplied(testShard); n >= h.Index {
		t.Fatal("durable already")
	}
	if err := again.store.Ingest(testShard, "staged"); err != nil {
		t.Fatal(err)
	}
	if n, err := again.store.DurableApplied(testShard); err != nil || n != h.Index {
		t.Errorf("durable %d, %v", n, err)
	}
}

func TestIngestRefusals(t *testing.T) {
	source := newFull(t, Options{})
	stream := exportOf(t, source.store, testShard)
	m := newServing(t, Options{})
	if _, err := m.store.Stage("staged", bytes.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	if err := m.store.Ingest(testShard+1, "staged"); !errors.Is(err, ErrBadSnapshot) {
		t.Errorf("another shard: %v", err)
	}
	if err := m.store.Ingest(testShard, "nowhere"); err == nil {
		t.Error("no directory")
	}
	m.apply(putCommand("a", "1"))
	if err := m.store.Ingest(testShard, "staged"); !errors.Is(err, ErrBatchOpen) {
		t.Errorf("with an open batch: %v", err)
	}
	if err := m.store.Drop(testShard); !errors.Is(err, ErrBatchOpen) {
		t.Errorf("drop with an open batch: %v", err)
	}
}

// oneByte gives a reader as little at a time as it may.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return o.r.Read(p[:1])
}

func TestBadStreamsAreRefused(t *testing.T) {
	source := newFull(t, Options{})
	stream := exportOf(t, source.store, testShard)
	m := newServing(t, Options{})
	before := exportOf(t, m.store, testShard)
	refused := func(what string, bad []byte) {
		t.Helper()
		_, err := m.store.Stage("staged", bytes.NewReader(bad))
		var format *FormatError
		if !errors.Is(err, ErrBadSnapshot) && !errors.As(err, &format) {
			t.Fatalf("%s: %v", what, err)
		}
		if err := m.store.Ingest(testShard, "staged"); err == nil {
			t.Fatalf("%s was ingested", what)
		}
	}
	for n := 0; n < len(stream); n += 1 + n/40 {
		refused(fmt.Sprintf("cut to %d", n), stream[:n])
	}
	for i := 0; i < len(stream); i += 1 + i/40 {
		bad := bytes.Clone(stream)
		bad[i] ^= 1 << (i % 8)
		refused(fmt.Sprintf("bit flipped in byte %d", i), bad)
	}
	refused("longer", append(bytes.Clone(stream), 0))
	if !bytes.Equal(before, exportOf(t, m.store, testShard)) {
		t.Error("a bad stream changed the state")
	}
	if _, err := m.store.Stage("staged", oneByte{bytes.NewReader(stream)}); err != nil {
		t.Errorf("byte by byte: %v", err)
	}
}

// TestWrongContentIsRefused stages streams that are well formed and hold what no shard can be.
func TestWrongContentIsRefused(t *testing.T) {
	source := newFull(t, Options{})
	type kv struct{ key, value []byte }
	var pairs []kv
	var header *storev1.SnapshotHeader
	err := readStream(bytes.NewReader(exportOf(t, source.store, testShard)),
		func(h *storev1.SnapshotHeader) error { header = h; return nil },
		func(k, v []byte) error { pairs = append(pairs, kv{bytes.Clone(k), bytes.Clone(v)}); return nil })
	if err != nil {
		t.Fatal(err)
	}
	m := openStore(t, Options{})
	stage := func(h *storev1.SnapshotHeader, pairs []kv) error {
		var b bytes.Buffer
		sw, err := newStreamWriter(&b, h)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pairs {
			if err := sw.pair(p.key, p.value); err != nil {
				t.Fatal(err)
			}
		}
		if err := sw.close(); err != nil {
			t.Fatal(err)
		}
		_, err = m.Stage("staged", &b)
		return err
	}
	if err := stage(header, pairs); err != nil {
		t.Fatal(err)
	}
	seen := map[section]bool{}
	for i, p := range pairs {
		s := section(p.key[0])
		if seen[s] || s == sectionDedup || s == sectionSlotTable {
			continue // a result less is a state that can be
		}
		seen[s] = true
		without := append(append([]kv{}, pairs[:i]...), pairs[i+1:]...)
		if err := stage(header, without); !errors.Is(err, ErrBadSnapshot) {
			t.Errorf("without key %x: %v", p.key, err)
		}
	}
	if len(seen) != 8 {
		t.Errorf("the snapshot has %d sections to try", len(seen))
	}
	h := &storev1.SnapshotHeader{Shard: header.Shard, Index: header.Index + 1, Term: header.Term, Configuration: header.Configuration}
	if err := stage(h, pairs); !errors.Is(err, ErrBadSnapshot) {
		t.Errorf("another index: %v", err)
	}
	if err := stage(header, append(append([]kv{}, pairs...), kv{[]byte{'z'}, nil})); !errors.Is(err, ErrBadSnapshot) {
		t.Errorf("an unknown section: %v", err)
	}
	if err := stage(header, append([]kv{pairs[1], pairs[0]}, pairs[2:]...)); !errors.Is(err, ErrBadSnapshot) {
		t.Errorf("out of order: %v", err)
	}
}

func TestExportOfNothing(t *testing.T) {
	s := openStore(t, Options{})
	if _, err := viewOf(t, s).Export(testShard, io.Discard); err == nil {
		t.Error("an empty shard was exported")
	}
}

func TestManyTables(t *testing.T) {
	source := newServing(t, Options{FS: newDisk(), OnFatal: func(error) {}})
	value := string(bytes.Repeat([]byte("0123456789abcdef"), 1<<16))
	for i := range 40 {
		source.commit(putCommand(keyName(i), value))
	}
	disk := newDisk()
	target := openStore(t, testOptions(disk))
	stream := exportOf(t, source.store, testShard)
	if _, err := target.Stage("staged", bytes.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	if names, _ := disk.List("staged"); len(names) < 3 {
		t.Errorf("staged as %v", names)
	}
	if err := target.Ingest(testShard, "staged"); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(stream, exportOf(t, target, testShard)) {
		t.Error("the copy differs")
	}
}

func TestStageDiskErrors(t *testing.T) {
	source := newFull(t, Options{})
	stream := exportOf(t, source.store, testShard)
	disk := newDisk()
	s := openStore(t, testOptions(disk))
	flush(t, s)
	for n := 1; ; n++ {
		count := 0
		disk.SetFaults(func(op simfs.Op) simfs.Fault {
			if count++; count == n {
				return simfs.EIO
			}
			return simfs.NoFault
		})
		_, err := s.Stage("staged", bytes.NewReader(stream))
		done := count < n
		disk.SetFaults(nil)
		if done {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		// Where the failing operation was only a cleanup, Stage may have succeeded.
		if err != nil && s.Ingest(testShard, "staged") == nil {
			t.Fatalf("ingested after operation %d failed", n)
		}
	}
}
