package raftnode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// sealed puts the checksum over all but the last four bytes right.
func sealed(b []byte) []byte {
	if len(b) < 4 {
		return b
	}
	b = bytes.Clone(b[:len(b)-4])
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func soundFormation(t testing.TB) *storev1.Formation {
	o := Options{Members: []Member{{ID: "n1"}, {ID: "n2"}, {ID: "n3"}}, Shards: 2, Replicas: 3}
	next := uint64(0)
	f, err := plan(o, map[placement.NodeID]uint64{"n1": 1, "n2": 2, "n3": 3}, func() uint64 { next++; return next })
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func encoded(t testing.TB, m interface{ MarshalVT() ([]byte, error) }) []byte {
	b, err := m.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// unsound are formations that no plan makes.
func unsound(t testing.TB) map[string]*storev1.Formation {
	all := make(map[string]*storev1.Formation)
	for name, spoil := range map[string]func(*storev1.Formation){
		"no cluster":      func(f *storev1.Formation) { f.ClusterId = f.ClusterId[:3] },
		"no member":       func(f *storev1.Formation) { f.Members = nil },
		"no shard":        func(f *storev1.Formation) { f.Shards = nil },
		"meta shard only": func(f *storev1.Formation) { f.Shards = f.Shards[:1] },
		"no meta shard":   func(f *storev1.Formation) { f.Shards = f.Shards[1:] },
		"shard twice":     func(f *storev1.Formation) { f.Shards = append(f.Shards, f.Shards[2]) },
		"no replica":      func(f *storev1.Formation) { f.Shards[1].Replicas = nil },
		"replica 0":       func(f *storev1.Formation) { f.Shards[1].Replicas[0].Id = 0 },
		"replica twice":   func(f *storev1.Formation) { f.Shards[1].Replicas[1].Id = f.Shards[1].Replicas[0].Id },
		"node twice":      func(f *storev1.Formation) { f.Shards[1].Replicas[1].NodeId = f.Shards[1].Replicas[0].NodeId },
		"another disk":    func(f *storev1.Formation) { f.Shards[1].Replicas[1].Incarnation = 9 },
		"slots missing":   func(f *storev1.Formation) { f.Shards[1].Slots.Runs = f.Shards[1].Slots.Runs[1:] },
		"slots twice":     func(f *storev1.Formation) { f.Shards[1].Slots = f.Shards[2].Slots },
		"slot 4096":       func(f *storev1.Formation) { f.Shards[1].Slots.Runs[0].Last = placement.SlotCount },
		"slots of meta":   func(f *storev1.Formation) { f.Shards[0].Slots = f.Shards[2].Slots },
		"slots frozen":    func(f *storev1.Formation) { f.Shards[1].Slots.Runs[0].State = storev1.SlotState_SLOT_STATE_FROZEN },
		"member twice":    func(f *storev1.Formation) { f.Members[1].NodeId = f.Members[0].NodeId },
		"member no disk":  func(f *storev1.Formation) { f.Members[1].Incarnation = 0 },
	} {
		f := soundFormation(t)
		spoil(f)
		all[name] = f
	}
	return all
}

// An unsound formation is refused before it is durable: the node could not start with it, now or ever.
func TestUnsoundFormations(t *testing.T) {
	if err := checkFormation(soundFormation(t)); err != nil {
		t.Fatal(err)
	}
	for name, f := range unsound(t) {
		if checkFormation(f) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// founding is a node that has not formed.
func founding(fs vfs.FS) *Node {
	n := &Node{options: Options{FS: fs, Dir: "data", NodeID: "n1"}, log: slog.New(slog.DiscardHandler)}
	n.seed(1)
	return n
}

// serves looks at what the node takes for granted of a formation.
func serves(t *testing.T, f *storev1.Formation) {
	t.Helper()
	s := newShardMap(f)
	for slot := range placement.Slot(placement.SlotCount) {
		if id := s.of(slot); id == placement.MetaShard || len(s.replicas(id)) == 0 {
			t.Fatalf("slot %d is in shard %d with %d replicas", slot, id, len(s.replicas(id)))
		}
	}
	for _, id := range s.data() {
		if _, ok := s.holder(id, func(node placement.NodeID) bool { return s.members[node] != nil }); !ok {
			t.Fatalf("nobody holds shard %d", id)
		}
	}
}

// FuzzFormation lets another node propose anything. What is accepted is durable, and can be served.
func FuzzFormation(f *testing.F) {
	f.Add(encoded(f, soundFormation(f)))
	for _, u := range unsound(f) {
		f.Add(encoded(f, u))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		formation := new(storev1.Formation)
		if formation.UnmarshalVT(b) != nil {
			return
		}
		n := founding(vfs.NewMem())
		if err := n.options.FS.MkdirAll("data", 0o700); err != nil {
			t.Fatal(err)
		}
		n.identity.Store(&storev1.Identity{NodeId: "n1", Incarnation: 1})
		if n.acceptFormation(formation) != nil {
			return
		}
		serves(t, n.identity.Load().GetFormation())
		again := founding(n.options.FS)
		if err := again.openDir(); err != nil {
			t.Fatalf("what was accepted cannot be opened: %v", err)
		}
		if err := again.lock.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzIdentity puts bytes over an identity file. A node refuses it, or has an identity that it can serve with; damage it always refuses.
func FuzzIdentity(f *testing.F) {
	file := func(id *storev1.Identity) []byte {
		return sealed(append(append([]byte{identityFormat}, encoded(f, id)...), 0, 0, 0, 0))
	}
	sound := file(&storev1.Identity{NodeId: "n1", Incarnation: 1, Formation: soundFormation(f), Formed: true})
	f.Add(uint16(0), sound, false)
	f.Add(uint16(0), file(&storev1.Identity{NodeId: "n1", Incarnation: 1}), true)
	f.Add(uint16(0), []byte{}, false)
	f.Add(uint16(0), sound[:len(sound)-5], false)
	f.Add(uint16(9), []byte{0xff}, false)
	f.Add(uint16(9), []byte{0xff}, true)
	for _, u := range unsound(f) {
		f.Add(uint16(0), file(&storev1.Identity{NodeId: "n1", Incarnation: 1, Formation: u}), true)
	}
	f.Fuzz(func(t *testing.T, at uint16, over []byte, seal bool) {
		content := over
		if at > 0 {
			content = bytes.Clone(sound)
			copy(content[min(int(at), len(content)):], over)
		}
		if seal {
			content = sealed(content)
		}
		n := founding(vfs.NewMem())
		if err := n.options.FS.MkdirAll("data", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := writeDurably(n.options.FS, "data", "data/"+identityName, content); err != nil {
			t.Fatal(err)
		}
		err := n.openDir()
		if n.lock != nil {
			defer n.lock.Close()
		}
		if err != nil {
			return
		}
		if at > 0 && !seal && !bytes.Equal(content, sound) {
			t.Fatal("a damaged identity was taken")
		}
		if formation := n.identity.Load().GetFormation(); formation != nil {
			serves(t, formation)
		}
	})
}

// sponge is a state machine that takes anything.
type sponge struct{ content []byte }

func (s *sponge) Apply(_ uint64, command []byte) []byte { return command }

func (s *sponge) WriteSnapshot(w io.Writer) error {
	_, err := w.Write(s.content)
	return err
}

func (s *sponge) ReadSnapshot(r io.Reader) (err error) {
	s.content, err = io.ReadAll(r)
	return err
}

// FuzzImage gives anything to a node with a state machine of its own as an image. It refuses it, or has the state that the image says, and
// makes an image of that which another node takes.
func FuzzImage(f *testing.F) {
	open := func(t testing.TB) *ownEngine {
		e, err := openOwn("own", Options{FS: vfs.NewMem(), Machine: func(placement.ShardID) StateMachine { return &sponge{} }}, func() {})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.open(DataShard); err != nil {
			t.Fatal(err)
		}
		return e.(*ownEngine)
	}
	imageOf := func(t testing.TB, e *ownEngine) []byte {
		i, err := e.image(DataShard)
		if err != nil {
			t.Fatal(err)
		}
		return i.(*ownImage).content.Bytes()
	}
	e := open(f)
	e.shard(DataShard).at = position{index: 9, term: 2, revision: 3, clockMs: 4}
	e.shard(DataShard).machine.(*sponge).content = bytes.Repeat([]byte("state"), 20<<10)
	sound := imageOf(f, e)
	f.Add(sound, false)
	f.Add(imageOf(f, open(f)), false)
	f.Add(sound[:len(sound)/2], false)
	f.Add([]byte{imageFormat, 0xff, 0xff, 0xff, 0xff}, false)
	f.Add(append([]byte{imageFormat, 0, 0, 0, 0}, make([]byte, 24)...), true)
	f.Add(append(append([]byte{imageFormat, 0, 0, 0, 0}, make([]byte, 16)...), 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0), true)
	f.Add([]byte{2}, false)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal {
			b = sealed(b)
		}
		e := open(t)
		h, err := e.stage("staged", bytes.NewReader(b))
		if err != nil {
			return
		}
		err = e.ingest(DataShard, "staged")
		if h.GetShard() != uint32(DataShard) {
			if err == nil {
				t.Fatalf("an image of shard %d was taken", h.GetShard())
			}
			return
		}
		if at := e.position(DataShard); err != nil || at.index != h.GetIndex() || at.term != h.GetTerm() {
			t.Fatalf("%v; the image is at %d, the state at %d", err, h.GetIndex(), at.index)
		}
		other := open(t)
		if _, err := other.stage("staged", bytes.NewReader(imageOf(t, e))); err != nil {
			t.Fatal(err)
		}
		if err := other.ingest(DataShard, "staged"); err != nil {
			t.Fatal(err)
		}
		mine, theirs := e.shard(DataShard).machine.(*sponge), other.shard(DataShard).machine.(*sponge)
		if !bytes.Equal(mine.content, theirs.content) || other.position(DataShard) != e.position(DataShard) {
			t.Fatal("the other node has another state")
		}
		reopened, err := openOwn("own", Options{FS: e.fs, Machine: e.make}, func() {})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := reopened.open(DataShard); errors.Join(err, reopened.close()) != nil {
			t.Fatalf("what was taken cannot be opened: %v", err)
		}
	})
}
