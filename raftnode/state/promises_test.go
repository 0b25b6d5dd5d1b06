package state

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

// TestABatchIsThereAsAWhole takes the power away before and behind everything that a commit writes, flushed: the shard is as before the entry
// or as after it, with its records, its history, the results of its requests and its position (R1).
func TestABatchIsThereAsAWhole(t *testing.T) {
	disk := newDisk()
	m := newServing(t, testOptions(disk))
	m.commit(as(1, 1, 0, 0, putCommand("a", "1")))
	flush(t, m.store)
	before := exportOf(t, m.store, testShard)
	var images []*simfs.FS
	picture := func() {
		flush(t, m.store)
		images = append(images, disk.Image(simfs.CrashOptions{Keep: simfs.KeepSynced}))
	}
	m.store.beforeWrite = picture
	m.commit(as(1, 2, 1, 0, putCommand("a", strings.Repeat("2", separateBytes))), as(1, 3, 1, 0, writeCommand(deleteOp("a"), putOp("b", "3"))))
	picture()
	after := exportOf(t, m.store, testShard)
	for i, image := range images {
		got := exportOf(t, openStore(t, testOptions(image)), testShard)
		if !bytes.Equal(got, before) && !bytes.Equal(got, after) {
			t.Errorf("crash %d of %d shows a part of a batch", i+1, len(images))
		}
	}
}

// TestAShardStandsWhereItStood opens a store again: index, revision, clock and membership are those that were committed, also when no history
// is left to infer a revision from (R2, R9, R10).
func TestAShardStandsWhereItStood(t *testing.T) {
	o := testOptions(newDisk())
	m := newServing(t, o)
	m.commit(putCommand("a", "1"))
	m.commit(writeCommand(deleteOp("a")))
	if err := m.shard.ApplyConfiguration(m.batch, m.shard.meta.AppliedIndex+1, 1, &storev1.Configuration{Index: 4, Voters: []uint64{1}}); err != nil {
		t.Fatal(err)
	}
	m.commit(trimCommand(1000, 1000))
	want := m.shard.Position()
	if want.HistoryBytes != 0 || want.Keys != 0 {
		t.Fatalf("%+v: something is left, so the test shows little", want)
	}
	if err := m.store.Close(); err != nil {
		t.Fatal(err)
	}
	again := newMachine(t, openStore(t, o), testShard)
	if got := again.shard.Position(); got != want {
		t.Errorf("position %+v, it was %+v", got, want)
	}
	if c := again.shard.Configuration(); !slices.Equal(c.GetVoters(), []uint64{1}) {
		t.Errorf("configuration %v", c)
	}
	if r := again.one(putCommand("a", "2")); r.Revision != want.Revision+1 {
		t.Errorf("revision %d follows %d", r.Revision, want.Revision)
	}
}

// TestHistoryIsWhole reads what revisions have left after it was replaced: every key of a write, and large values, which go with the history
// of what replaced them and no earlier (R22).
func TestHistoryIsWhole(t *testing.T) {
	m := newServing(t, Options{})
	keys := []string{"a", "b", "c"}
	values := []string{"small", strings.Repeat("l", separateBytes), strings.Repeat("x", 3*separateBytes)}
	all := func(f func(key string) *storev1.Operation) *storev1.Command {
		var ops []*storev1.Operation
		for _, key := range keys {
			ops = append(ops, f(key))
		}
		return writeCommand(ops...)
	}
	for _, value := range values {
		m.commit(all(func(key string) *storev1.Operation { return putOp(key, value) }))
	}
	m.commit(all(deleteOp))
	check := func(from uint64) {
		t.Helper()
		v := viewOf(t, m.store)
		for _, key := range keys {
			for revision := uint64(1); revision <= 4; revision++ {
				r, err := v.GetAt(testShard, key, revision)
				var compacted *CompactedError
				switch {
				case revision+1 < from:
					if !errors.As(err, &compacted) {
						t.Errorf("%s at revision %d of the past: %v", key, revision, err)
					}
				case err != nil:
					t.Errorf("%s at revision %d: %v", key, revision, err)
				case revision == 4:
					if r != nil {
						t.Errorf("%s exists at revision 4", key)
					}
				case string(r.GetValue()) != values[revision-1]:
					t.Errorf("%s at revision %d is %.10q", key, revision, r.GetValue())
				}
			}
		}
		next, err := v.History(testShard, from, 4, 1<<30, func(revision uint64, h *storev1.History) error {
			if len(h.GetChanges()) != len(keys) {
				t.Errorf("revision %d has changed %d keys, want %d", revision, len(h.GetChanges()), len(keys))
			}
			return nil
		})
		if err != nil || next != 5 {
			t.Errorf("history ends before revision %d: %v", next, err)
		}
	}
	check(1)
	m.commit(trimCommand(3, 1000))
	check(3)
}
