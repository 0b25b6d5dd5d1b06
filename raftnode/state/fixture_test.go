package state

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
)

// fixtureFlag writes the fixture of a new format. Those of released formats are never written again.
var fixtureFlag = flag.Bool("write-fixture", false, "write testdata/v1")

const (
	fixtureDir    = "testdata/v1/store"
	fixtureStream = "testdata/v1/snapshot"
)

// fixtureScript makes a state with something in every section.
func fixtureScript(m *machine) {
	long := strings.Repeat("long", 500)
	m.commit(bootstrapCommand())
	if err := m.shard.ApplyConfiguration(m.batch, 2, 1, &storev1.Configuration{Index: 2, Voters: []uint64{1}, Replicas: []*storev1.Replica{{Id: 1, NodeId: "n1", Incarnation: 7}}}); err != nil {
		m.t.Fatal(err)
	}
	m.commit(putCommand("a", "1"), putCommand("long", long), as(1, 1, 0, 0, putCommand("b", "2")))
	m.commit(putCommand("a", "2"), putCommand("long", "short"), writeCommand(deleteOp("b")), putCommand("longer", long), trimCommand(3, 9))
}

// TestFormatFixture opens what earlier versions of raftkv have left: every later build must read it as it was.
func TestFormatFixture(t *testing.T) {
	if *fixtureFlag {
		writeFixture(t)
	}
	want := newMachine(t, openStore(t, Options{}), testShard)
	fixtureScript(want)
	stream, err := os.ReadFile(fixtureStream)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(stream, exportOf(t, want.store, testShard)) {
		t.Error("the same commands make another state than they did")
	}
	dir := t.TempDir()
	if ok, err := vfs.Clone(vfs.Default, vfs.Default, fixtureDir, dir); err != nil || !ok {
		t.Fatal(ok, err)
	}
	s, err := Open(dir, Options{OnFatal: func(error) {}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !bytes.Equal(stream, exportOf(t, s, testShard)) {
		t.Error("the store does not hold what it held")
	}
	checkDigests(t, s, testShard)
	v := viewOf(t, s)
	for _, c := range []struct {
		key      string
		revision uint64
		want     string
	}{{"a", 3, "1"}, {"a", 7, "2"}, {"b", 3, "2"}, {"b", 7, ""}, {"long", 4, "longlong"}, {"long", 7, "short"}, {"longer", 7, "longlong"}} {
		r, err := v.GetAt(testShard, c.key, c.revision)
		if err != nil || !strings.HasPrefix(string(r.GetValue()), c.want) || (r == nil) != (c.want == "") {
			t.Errorf("%s at %d: %.9q, %v", c.key, c.revision, r.GetValue(), err)
		}
	}
	again := newMachine(t, openStore(t, Options{}), testShard)
	if _, err := again.store.Stage("staged", bytes.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	if err := again.store.Ingest(testShard, "staged"); err != nil {
		t.Fatal(err)
	}
	if r := again.one(as(1, 1, 0, 0, putCommand("b", "2"))); r.Revision != 3 {
		t.Errorf("a retry was not recognised: %v", r)
	}
}

func writeFixture(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(filepath.Dir(fixtureDir)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(fixtureDir), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := Open(fixtureDir, Options{MemTableBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, s, testShard)
	fixtureScript(m)
	stream := exportOf(t, s, testShard)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fixtureStream, stream, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("wrote %d bytes", len(stream))
}

// TestRecomputeReadsSeparatedValues loses a value behind the back of its record.
func TestRecomputeReadsSeparatedValues(t *testing.T) {
	m := newServing(t, Options{})
	m.commit(putCommand("a", strings.Repeat("x", separateBytes)))
	at := appendRevisionKey(nil, testShard, sectionValue, 1, "a")
	for name, spoil := range map[string]func() error{
		"another": func() error { return m.store.db.Set(at, bytes.Repeat([]byte("y"), separateBytes), pebble.NoSync) },
		"none":    func() error { return m.store.db.Delete(at, pebble.NoSync) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		v := m.store.View()
		if _, err := v.Recompute(testShard); err == nil {
			t.Errorf("%s: not noticed", name)
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
