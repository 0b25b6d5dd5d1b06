package state

import "testing"

// Sessions that are pinned keep no more results than there is room for, beside one each, and go at the next revision.
func TestPinnedSessionsAreBounded(t *testing.T) {
	o := testOptions(newDisk())
	o.DedupResults, o.SessionResults = 16, 8
	m := newServing(t, o)
	m.commit(putCommand("a", "1"))
	for client := byte(1); client <= 8; client++ {
		expectOutcome(t, "fence", m.one(as(client, 1, 1, 0, fenceCommand("a"))), fenced)
		for s := uint64(2); s <= 8; s++ {
			m.commit(as(client, s, 1, 0, writeCommand(deleteOp("none"))))
		}
	}
	if n := m.shard.dedup.len(); n > 16+8 {
		t.Errorf("%d results are kept, the bound is 16, and one for each of 8 fences", n)
	}
	m.commit(as(99, 1, 1, 0, putCommand("a", "2"))) // a revision
	m.commit(as(99, 2, 2, 0, putCommand("a", "2")))
	if n := m.shard.dedup.len(); n > 16 {
		t.Errorf("%d results are kept when nothing is pinned", n)
	}
}

// An attempt may have seen more than the fence of its request says. It is fenced all the same.
func TestFencesHoldWhateverAttemptsHaveSeen(t *testing.T) {
	o := testOptions(newDisk())
	o.DedupResults, o.SessionResults = 4, 4
	m := newServing(t, o)
	for range 10 {
		m.commit(putCommand("a", "1"))
	}
	expectOutcome(t, "fence", m.one(as(1, 1, 0, 0, fenceCommand("a"))), fenced)
	for i := range 40 { // who would push the fence out, if it could go
		m.commit(as(byte(10+i), 1, 10, 0, writeCommand(deleteOp("none"))))
	}
	if r := m.one(as(1, 1, 10, 0, putCommand("a", "late"))); r.Outcome == applied {
		t.Errorf("applied after it was said not to be: %v", r)
	}
}

func TestDroppedShardsAreNotCounted(t *testing.T) {
	s := openStore(t, testOptions(newDisk()))
	for range 3 {
		newMachine(t, s, testShard).commit(bootstrapCommand())
		if err := s.Drop(testShard); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.loaded.Load(); n != 0 {
		t.Errorf("%d shards are counted", n)
	}
}
