package state

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

const testShard placement.ShardID = 7

// testOptions are those of a small store on a disk of its own.
func testOptions(fs vfs.FS) Options {
	return Options{FS: fs, CacheBytes: 1 << 20, MemTableBytes: 256 << 10, OnFatal: func(error) {}}
}

func newDisk() *simfs.FS { return simfs.New(simfs.Options{}) }

func openStore(t testing.TB, o Options) *Store {
	t.Helper()
	if o.FS == nil {
		o = testOptions(newDisk())
	}
	s, err := Open("state", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func shardOf(t testing.TB, s *Store, id placement.ShardID) *Shard {
	t.Helper()
	sh, err := s.Shard(id)
	if err != nil {
		t.Fatal(err)
	}
	return sh
}

// allSlots is a table that serves everything.
func allSlots() *storev1.SlotTable {
	return slotTable(0, placement.SlotCount-1, storev1.SlotState_SLOT_STATE_SERVING)
}

func slotTable(first, last uint32, state storev1.SlotState) *storev1.SlotTable {
	return &storev1.SlotTable{Epoch: 1, Runs: []*storev1.SlotTable_Run{{First: first, Last: last, State: state}}}
}

func entry(cs ...*storev1.Command) *storev1.Entry {
	return &storev1.Entry{CommandVersion: 1, Commands: cs}
}

func bootstrapCommand() *storev1.Command {
	return &storev1.Command{Body: &storev1.Command_Bootstrap{Bootstrap: &storev1.Bootstrap{Slots: allSlots()}}}
}

func writeCommand(ops ...*storev1.Operation) *storev1.Command {
	return &storev1.Command{Body: &storev1.Command_Write{Write: &storev1.Write{Operations: ops}}}
}

func putOp(key, value string) *storev1.Operation {
	return &storev1.Operation{Kind: put, Key: key, Value: []byte(value)}
}

func getOp(key string) *storev1.Operation {
	return &storev1.Operation{Kind: get, Key: key}
}

func deleteOp(key string) *storev1.Operation {
	return &storev1.Operation{Kind: deletion, Key: key}
}

func putCommand(key, value string) *storev1.Command { return writeCommand(putOp(key, value)) }

func trimCommand(below uint64, most uint32) *storev1.Command {
	return &storev1.Command{Body: &storev1.Command_TrimHistory{TrimHistory: &storev1.TrimHistory{Below: below, MaxRevisions: most}}}
}

// as gives a command a request id.
func as(client byte, sequence, seen, acked uint64, c *storev1.Command) *storev1.Command {
	c.RequestId = &storev1.RequestId{ClientId: bytes.Repeat([]byte{client}, clientIDLen), Sequence: sequence, Seen: seen, AckedBelow: acked}
	return c
}

// machine applies entries to one shard, one after the other.
type machine struct {
	t     testing.TB
	store *Store
	shard *Shard
	batch *Batch
	clock uint64
}

func newMachine(t testing.TB, s *Store, id placement.ShardID) *machine {
	return &machine{t: t, store: s, shard: shardOf(t, s, id), batch: s.NewBatch()}
}

// newServing has a bootstrapped shard at index 1.
func newServing(t testing.TB, o Options) *machine {
	m := newMachine(t, openStore(t, o), testShard)
	m.commit(bootstrapCommand())
	return m
}

// apply applies an entry into the open batch.
func (m *machine) apply(cs ...*storev1.Command) []*storev1.WriteResult {
	m.t.Helper()
	e := entry(cs...)
	e.ClockMs = m.clock
	rs, err := m.shard.Apply(m.batch, m.shard.meta.AppliedIndex+1, 1, e)
	if err != nil {
		m.t.Fatal(err)
	}
	return rs
}

// commit applies an entry and commits.
func (m *machine) commit(cs ...*storev1.Command) []*storev1.WriteResult {
	m.t.Helper()
	rs := m.apply(cs...)
	if err := m.batch.Commit(); err != nil {
		m.t.Fatal(err)
	}
	return rs
}

func (m *machine) one(c *storev1.Command) *storev1.WriteResult {
	m.t.Helper()
	return m.commit(c)[0]
}

// viewOf opens a view that ends with the test.
func viewOf(t testing.TB, s *Store) *View {
	v := s.View()
	t.Cleanup(func() { _ = v.Close() })
	return v
}

// export returns the snapshot stream of a shard.
func exportOf(t testing.TB, s *Store, id placement.ShardID) []byte {
	t.Helper()
	v := s.View()
	defer v.Close()
	var b bytes.Buffer
	if _, err := v.Export(id, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// checkDigests compares the digests that apply kept with those of the records.
func checkDigests(t testing.TB, s *Store, id placement.ShardID) {
	t.Helper()
	v := s.View()
	defer v.Close()
	kept, err := v.Digests(id)
	if err != nil {
		t.Fatal(err)
	}
	computed, err := v.Recompute(id)
	if err != nil {
		t.Fatal(err)
	}
	if *kept != *computed {
		t.Fatalf("shard %d: kept digest %v, computed %v", id, kept.Sum(), computed.Sum())
	}
}

func flush(t testing.TB, s *Store) {
	t.Helper()
	done, err := s.Flush()
	if err != nil {
		t.Fatal(err)
	}
	<-done
}

func keyName(i int) string { return fmt.Sprintf("key-%04d", i) }

func readFile(t testing.TB, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t testing.TB, fs vfs.FS, path string, content []byte) {
	t.Helper()
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
