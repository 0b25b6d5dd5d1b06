package state

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
)

const (
	crashEntries  = 36 // of each shard
	crashIngestAt = 18 // where the second shard jumps
	crashIngestTo = 22 // and to where
)

var crashShards = []placement.ShardID{testShard, testShard + 1}

// crashEntry is the entry of the script at an index; the same on every run.
func crashEntry(index int) []*storev1.Command {
	if index == 1 {
		return []*storev1.Command{bootstrapCommand()}
	}
	value := string(bytes.Repeat([]byte{byte(index)}, 1200))
	cs := []*storev1.Command{
		as(1, uint64(index), 0, 0, putCommand(keyName(index%7), value)),
		as(2, uint64(index), uint64(index), uint64(max(index, 5)-5), compares(putCommand(keyName(index%5), "x"), exists(keyName(index%3), true))),
		writeCommand(deleteOp(keyName(index%11)), putOp(fmt.Sprintf("{t}%d", index%4), value)),
	}
	switch index % 4 { // the clock is the index
	case 0:
		cs = append(cs, grantCommand(uint64(index), uint64(index%7)+2), writeCommand(putOn("leased-"+keyName(index), uint64(index)), putFor(keyName(index%6), 3)))
	case 1:
		cs = append(cs, keepAliveCommand(uint64(index-1)), expireCommand(2))
	case 2:
		cs = append(cs, expireCommand(uint32(index%3)+1), revokeCommand(uint64(max(index, 7)-6), 1))
	}
	switch index % 5 {
	case 0:
		cs = append(cs, as(3, uint64(index), 0, uint64(index), fenceCommand("a")), as(3, uint64(index), 0, 0, putCommand("fenced", value)))
	case 1, 2:
		cs = append(cs, under(fmt.Sprintf("i%d", index%4), byte(index%2), uint64(index%7)+1, putCommand(keyName(index%3), value)))
	}
	if index%9 == 0 {
		cs = append(cs, trimCommand(uint64(index), 12))
	}
	return cs
}

func crashOptions(disk *simfs.FS) Options {
	o := testOptions(disk)
	o.MemTableBytes, o.DedupResults = 128<<10, 20
	return o
}

// crashReference has the export of each shard at each index, of a run that nothing disturbs.
type crashReference map[placement.ShardID][][]byte

func newCrashReference(t *testing.T) crashReference {
	ref := crashReference{}
	s := openStore(t, crashOptions(newDisk()))
	for _, id := range crashShards {
		m := newMachine(t, s, id)
		ref[id] = [][]byte{nil}
		for i := 1; i <= crashEntries; i++ {
			m.clock = uint64(i)
			m.commit(crashEntry(i)...)
			ref[id] = append(ref[id], exportOf(t, s, id))
		}
	}
	return ref
}

// crashRun is one run of the script. durable has the index that each shard was promised to be durable at.
type crashRun struct {
	t       *testing.T
	ref     crashReference
	disk    *simfs.FS
	durable [2]atomic.Uint64
	staged  atomic.Bool
	// flushing flushes before every write, so that a batch that is written in two parts shows (R1).
	flushing bool
}

// run executes the script: both shards in common batches, flushes now and then, and one ingest.
func (r *crashRun) run() {
	s := openStore(r.t, crashOptions(r.disk))
	if r.flushing {
		s.beforeWrite = func() { flush(r.t, s) }
	}
	a, b := newMachine(r.t, s, crashShards[0]), newMachine(r.t, s, crashShards[1])
	b.batch = a.batch
	for i := 1; i <= crashEntries; i++ {
		a.clock, b.clock = uint64(i), uint64(i)
		a.apply(crashEntry(i)...)
		if i <= crashIngestAt || i > crashIngestTo {
			b.apply(crashEntry(i)...)
		}
		if i%3 == 0 || i == crashIngestAt || i == crashEntries || i == crashIngestTo {
			if err := a.batch.Commit(); err != nil {
				r.t.Fatal(err)
			}
		}
		if i%8 == 0 {
			flush(r.t, s)
			r.promise(s)
		}
		if i == crashIngestTo {
			r.install(s)
		}
	}
	if err := s.Close(); err != nil {
		r.t.Fatal(err)
	}
}

// install lets the second shard jump, while there are changes of it that are not flushed. Both steps are durable when they return.
func (r *crashRun) install(s *Store) {
	if _, err := s.Stage("staged", bytes.NewReader(r.ref[crashShards[1]][crashIngestTo])); err != nil {
		r.t.Fatal(err)
	}
	r.staged.Store(true)
	if n, err := s.DurableApplied(crashShards[1]); !r.flushing && (err != nil || n >= crashIngestAt) {
		r.t.Fatalf("all changes up to %d are flushed: %v", n, err)
	}
	if err := s.Ingest(crashShards[1], "staged"); err != nil {
		r.t.Fatal(err)
	}
	r.durable[1].Store(crashIngestTo)
}

func (r *crashRun) promise(s *Store) {
	for i, id := range crashShards {
		n, err := s.DurableApplied(id)
		if err != nil {
			r.t.Fatal(err)
		}
		r.durable[i].Store(n)
	}
}

// crashImage is a disk as a crash left it, and what must be on it.
type crashImage struct {
	disk    *simfs.FS
	durable [2]uint64
	staged  bool
	when    string
}

// TestCrashAtEveryOperation takes the power away before every operation that changes the disk, keeps of what was not synced as much as the
// seed says, and opens the store again. Each shard must be exactly at one of its entries, not before what was promised, and must get from
// there to where the undisturbed run got, redoing the ingest if it was staged.
func TestCrashAtEveryOperation(t *testing.T) {
	ref := newCrashReference(t)
	for _, flushing := range []bool{false, true} {
		r := &crashRun{t: t, ref: ref, disk: simfs.New(simfs.Options{Seed: 1}), flushing: flushing}
		images := r.images()
		t.Logf("%d crashes", len(images))
		for _, im := range images {
			recoverCrash(t, ref, im)
		}
	}
}

// images runs the script and collects the disks.
func (r *crashRun) images() []crashImage {
	var mu sync.Mutex
	var images []crashImage
	keeps := []simfs.Survival{simfs.KeepSynced, simfs.KeepSome, simfs.KeepOrdered}
	r.disk.SetFaults(func(op simfs.Op) simfs.Fault {
		switch op.Kind {
		case simfs.OpOpen, simfs.OpRead, simfs.OpList, simfs.OpStat, simfs.OpLock, simfs.OpPreallocate:
			return simfs.NoFault
		}
		im := crashImage{staged: r.staged.Load(), durable: [2]uint64{r.durable[0].Load(), r.durable[1].Load()}}
		mu.Lock()
		defer mu.Unlock()
		some := keeps
		if op.Kind == simfs.OpWrite || op.Kind == simfs.OpSyncTo {
			some = keeps[len(images)%len(keeps):][:1] // there are many, and they differ little
		}
		for _, keep := range some {
			n := uint64(len(images))
			im.disk = r.disk.Image(simfs.CrashOptions{Seed: n, Keep: keep})
			im.when = fmt.Sprintf("crash %d, before %v %d of %s, keeping %v", n, op.Kind, op.N, op.Path, keep)
			images = append(images, im)
		}
		return simfs.NoFault
	})
	r.run()
	r.disk.SetFaults(nil)
	mu.Lock()
	defer mu.Unlock()
	return images
}

func recoverCrash(t *testing.T, ref crashReference, im crashImage) {
	t.Helper()
	s, err := Open("state", crashOptions(im.disk))
	if err != nil {
		t.Fatalf("%s: %v", im.when, err)
	}
	defer s.Close()
	if _, _, err := readStaged(im.disk, "staged"); im.staged && err != nil {
		t.Fatalf("%s: the snapshot was staged: %v", im.when, err)
	}
	for i, id := range crashShards {
		m := newMachine(t, s, id)
		at := m.shard.Position().Index
		if durable, err := s.DurableApplied(id); err != nil || durable != at {
			t.Fatalf("%s: shard %d: durable %d, %v; recovered %d", im.when, id, durable, err, at)
		}
		if at < im.durable[i] {
			t.Fatalf("%s: shard %d is at %d, %d was promised", im.when, id, at, im.durable[i])
		}
		if at > 0 && !bytes.Equal(exportOf(t, s, id), ref[id][at]) {
			t.Fatalf("%s: shard %d at %d is not what it was", im.when, id, at)
		}
		if h, _, err := readStaged(im.disk, "staged"); err == nil && placement.ShardID(h.Shard) == id {
			if err := s.Ingest(id, "staged"); err != nil {
				t.Fatalf("%s: redo the ingest: %v", im.when, err)
			}
			if got := m.shard.Position().Index; got != max(at, crashIngestTo) {
				t.Fatalf("%s: ingested from %d to %d", im.when, at, got)
			}
		}
		for n := int(m.shard.Position().Index) + 1; n <= crashEntries; n++ {
			m.clock = uint64(n)
			m.commit(crashEntry(n)...)
		}
		if !bytes.Equal(exportOf(t, s, id), ref[id][crashEntries]) {
			t.Fatalf("%s: shard %d ends elsewhere", im.when, id)
		}
		checkDigests(t, s, id)
	}
}

// TestCrashWhileOpening is about the names of the files that Pebble makes when it opens, with many outcomes of each crash.
func TestCrashWhileOpening(t *testing.T) {
	disk := simfs.New(simfs.Options{Seed: 2})
	var mu sync.Mutex
	var images []crashImage
	disk.SetFaults(func(op simfs.Op) simfs.Fault {
		mu.Lock()
		defer mu.Unlock()
		for range 8 {
			if op.Kind == simfs.OpDirSync || op.Kind == simfs.OpRemove {
				when := fmt.Sprintf("crash %d, before %v %d of %s", len(images), op.Kind, op.N, op.Path)
				images = append(images, crashImage{when: when, disk: disk.Image(simfs.CrashOptions{Seed: uint64(len(images)), Keep: simfs.KeepSome})})
			}
		}
		return simfs.NoFault
	})
	for i := range 3 {
		s := openStore(t, crashOptions(disk))
		newMachine(t, s, testShard).commit(crashEntry(i + 1)...)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	disk.SetFaults(nil)
	for _, im := range images {
		s, err := Open("state", crashOptions(im.disk))
		if err != nil {
			t.Fatalf("%s: %v\n%v", im.when, err, im.disk)
		}
		shardOf(t, s, testShard)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFirstDiskErrorIsTheLast fails one operation of a run after the other. The store must either not have needed it, or refuse everything
// from then on, and what it promised before must be on the disk (R6).
func TestFirstDiskErrorIsTheLast(t *testing.T) {
	for n := 1; ; n++ {
		disk := simfs.New(simfs.Options{Seed: uint64(n)})
		s := openStore(t, crashOptions(disk))
		var count atomic.Int64
		disk.SetFaults(func(op simfs.Op) simfs.Fault {
			switch op.Kind {
			case simfs.OpWrite, simfs.OpSync, simfs.OpDirSync, simfs.OpCreate:
				if count.Add(1) == int64(n) {
					return simfs.EIO
				}
			}
			return simfs.NoFault
		})
		promised := failingRun(t, s)
		fired := count.Load() >= int64(n)
		disk.SetFaults(nil)
		after, err := Open("state", crashOptions(disk.Crash(simfs.CrashOptions{Seed: uint64(n), Keep: simfs.KeepSynced})))
		if err != nil {
			t.Fatalf("operation %d: %v", n, err)
		}
		if got := shardOf(t, after, testShard).Position().Index; got < promised {
			t.Fatalf("operation %d: at %d, %d was promised", n, got, promised)
		}
		if err := after.Close(); err != nil {
			t.Fatal(err)
		}
		if !fired {
			return
		}
	}
}

// failingRun applies and flushes until the store refuses, and returns the last index that was durable.
func failingRun(t *testing.T, s *Store) (promised uint64) {
	defer s.Close()
	sh, batch := shardOf(t, s, testShard), s.NewBatch()
	for i := 1; i <= 12; i++ {
		_, err := sh.Apply(batch, uint64(i), 1, entry(crashEntry(i)...))
		if err == nil {
			err = batch.Commit()
		}
		if err != nil {
			break
		}
		if i%4 != 0 {
			continue
		}
		done, err := s.Flush()
		if err != nil {
			break
		}
		select {
		case <-done:
		case <-s.fatal.failed:
		}
		if s.fatal.err() != nil {
			break
		}
		if promised, err = s.DurableApplied(testShard); err != nil {
			t.Fatal(err)
		}
	}
	return promised
}
