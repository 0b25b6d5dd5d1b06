package state

import (
	"bytes"
	"fmt"
	"testing"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

// reopened is the same shard in a store that was closed and opened again, or that took a snapshot of it.
func (m *machine) reopened(o Options, bySnapshot bool) *machine {
	m.t.Helper()
	if !bySnapshot {
		if err := m.store.Close(); err != nil {
			m.t.Fatal(err)
		}
		next := newMachine(m.t, openStore(m.t, o), testShard)
		next.clock = m.clock
		return next
	}
	o.FS = newDisk()
	next := newMachine(m.t, openStore(m.t, o), testShard)
	if _, err := next.store.Stage("staged", bytes.NewReader(exportOf(m.t, m.store, testShard))); err != nil {
		m.t.Fatal(err)
	}
	if err := next.store.Ingest(testShard, "staged"); err != nil {
		m.t.Fatal(err)
	}
	next.clock = m.clock
	return next
}

func expectOutcome(t *testing.T, what string, r *storev1.WriteResult, want storev1.WriteOutcome) {
	t.Helper()
	if r.Outcome != want {
		t.Errorf("%s: %v, want %s", what, r, want)
	}
}

// A request is applied or fenced, whichever comes first in the log, and stays so through restarts and snapshots.
func TestFenceOrWrite(t *testing.T) {
	for _, bySnapshot := range []bool{false, true} {
		o := testOptions(newDisk())
		m := newServing(t, o)
		m.commit(putCommand("other", "1"))
		late := func() *storev1.Command { return as(1, 1, 1, 0, putCommand("a", "late")) }
		ask := func(sequence uint64) *storev1.Command { return as(1, sequence, 1, 0, fenceCommand("a")) }
		rs := m.commit(ask(1), late()) // in one batch
		expectOutcome(t, "fence", rs[0], fenced)
		expectOutcome(t, "late", rs[1], fenced)
		first := m.one(as(1, 2, 1, 0, putCommand("a", "first")))
		broken := m.one(as(1, 3, 1, 0, compares(putCommand("a", "x"), exists("a", false))))
		m = m.reopened(o, bySnapshot)
		expectOutcome(t, "late", m.one(late()), fenced)
		expectOutcome(t, "fence again", m.one(ask(1)), fenced)
		if r := m.one(ask(2)); r.Outcome != applied || r.Revision != first.Revision || len(r.Operations) != 1 || r.Operations[0].Version != 1 {
			t.Errorf("asked for a write that was applied as %v: %v", first, r)
		}
		if r := m.one(ask(3)); r.Outcome != failed || r.FailedModRevision != first.Revision {
			t.Errorf("asked for a write whose condition failed as %v: %v", broken, r)
		}
		if at := m.shard.Position(); at.Revision != first.Revision {
			t.Errorf("revision %d, want %d", at.Revision, first.Revision)
		}
	}
}

// What the client has acknowledged, or the shard forgotten, cannot be told any more. Nor is it ever executed.
func TestFenceOfTheForgotten(t *testing.T) {
	o := testOptions(newDisk())
	o.DedupResults, o.SessionResults = 4, 2
	m := newServing(t, o)
	m.commit(as(1, 1, 0, 0, putCommand("a", "1")), as(1, 2, 0, 2, putCommand("a", "2")))
	expectOutcome(t, "acknowledged", m.one(as(1, 1, 0, 0, fenceCommand("a"))), expired)
	for client := byte(2); client < 6; client++ {
		m.commit(as(client, 1, m.shard.meta.Revision, 0, putCommand("a", "x")), as(client, 2, m.shard.meta.Revision, 0, putCommand("a", "y")))
	}
	r := m.one(as(1, 2, 0, 0, fenceCommand("a")))
	expectOutcome(t, "of a client that is forgotten", r, expired)
	if r.SessionFloor == 0 {
		t.Error("the floor is not told")
	}
	expectOutcome(t, "seen what the shard has not made", m.one(as(9, 1, 1000, 0, fenceCommand("a"))), expired)
	expectOutcome(t, "new", m.one(as(9, 1, m.shard.meta.Revision, 0, fenceCommand("a"))), fenced)
	expectOutcome(t, "no slot here", newBare(t).one(as(9, 1, 0, 0, fenceCommand("a"))), notServed)
}

// newBare has a shard that serves nothing.
func newBare(t *testing.T) *machine {
	return newMachine(t, openStore(t, testOptions(newDisk())), testShard)
}

// A fence is stronger than what forgets clients: other clients come and go, and the shard makes no revision meanwhile, so that the floor would let the late
// attempt pass. It must not, neither then nor when revisions come.
func TestFenceOutlivesItsSession(t *testing.T) {
	for _, reopen := range []bool{false, true} {
		o := testOptions(newDisk())
		o.DedupResults, o.SessionResults = 4, 4
		m := newServing(t, o)
		m.commit(putCommand("a", "1"))
		late := func() *storev1.Command { return as(1, 1, 1, 0, putCommand("a", "late")) }
		expectOutcome(t, "fence", m.one(as(1, 1, 1, 0, fenceCommand("a"))), fenced)
		m.commit(as(1, 2, 1, 2, writeCommand(deleteOp("none")))) // acknowledges the fence
		for i := range 40 {
			client := byte(10 + i)
			m.commit(as(client, 1, 1, 0, writeCommand(deleteOp("none"))))
			if reopen && i == 20 {
				m = m.reopened(o, false)
			}
			if r := m.one(late()); r.Outcome == applied {
				t.Fatalf("a fenced write is applied after %d others: %v", i, r)
			}
		}
		if m.shard.dedup.len() > 4 {
			t.Errorf("%d results are kept", m.shard.dedup.len())
		}
		for i := range 8 {
			m.commit(as(byte(60+i), 1, m.shard.meta.Revision, 0, putCommand("b", "1")))
			if r := m.one(late()); r.Outcome == applied {
				t.Fatalf("a fenced write is applied after %d revisions: %v", i, r)
			}
		}
		if m.shard.dedup.sessions[[clientIDLen]byte(bytes.Repeat([]byte{1}, clientIDLen))] != nil {
			t.Error("the client is never forgotten")
		}
	}
}

// As many clients as may be pinned are, and no more. A revision lets all go.
func TestFencesAreBounded(t *testing.T) {
	o := testOptions(newDisk())
	o.DedupResults, o.SessionResults = 8, 2
	m := newServing(t, o)
	for client := byte(1); client <= 4; client++ {
		expectOutcome(t, "fence", m.one(as(client, 1, 0, 0, fenceCommand("a"))), fenced)
	}
	expectOutcome(t, "one more of a client that has one", m.one(as(1, 2, 0, 0, fenceCommand("a"))), fenced)
	expectOutcome(t, "one client too many", m.one(as(5, 1, 0, 0, fenceCommand("a"))), fencesFull)
	expectOutcome(t, "more than a client may have", m.one(as(1, 3, 0, 0, fenceCommand("a"))), sessionFull)
	m = m.reopened(o, false)
	expectOutcome(t, "one client too many", m.one(as(5, 1, 0, 0, fenceCommand("a"))), fencesFull)
	m.commit(putCommand("a", "1"))
	expectOutcome(t, "after a revision", m.one(as(5, 1, 0, 0, fenceCommand("a"))), fenced)
	expectOutcome(t, "of what was seen since", m.one(as(6, 1, 1, 0, fenceCommand("a"))), fenced)
}

// The same write under an idempotency key gets the first answer for the whole window, and another write is refused; wherever the state has gone meanwhile.
func TestIdempotencyKeys(t *testing.T) {
	for _, bySnapshot := range []bool{false, true} {
		o := testOptions(newDisk())
		m := newServing(t, o)
		m.clock = 100
		write := func() *storev1.Command { return under("order-1", 1, 1000, putCommand("a", "1")) }
		rs := m.commit(write(), write()) // in one batch
		first, again := rs[0], rs[1]
		if first.Outcome != applied || first.Replayed || !again.Replayed || again.Revision != first.Revision || again.Operations[0].Version != 1 {
			t.Fatalf("%v, then %v", first, again)
		}
		expectOutcome(t, "another write", m.one(under("order-1", 2, 1000, putCommand("b", "1"))), keyReused)
		cond := func() *storev1.Command {
			return under("order-2", 3, 1000, compares(putCommand("a", "x"), exists("a", false)))
		}
		expectOutcome(t, "condition", m.one(cond()), failed)
		m.commit(writeCommand(deleteOp("a")))
		m = m.reopened(o, bySnapshot)
		m.clock = 1100
		m.commit(expireCommand(100))
		if r := m.one(write()); !r.Replayed || r.Revision != first.Revision {
			t.Errorf("within the window: %v", r)
		}
		if r := m.one(cond()); r.Outcome != failed || !r.Replayed {
			t.Errorf("a condition that had failed: %v", r)
		}
		if d := m.shard.NextDeadline(); d != 1101 {
			t.Errorf("the next deadline is %d", d)
		}
		m.clock = 1101
		m.commit(expireCommand(1))
		if r := m.shard.Position(); r.KeyedResults != 1 {
			t.Errorf("%d results after one was to go", r.KeyedResults)
		}
		m.commit(expireCommand(1))
		if r := m.shard.Position(); r.KeyedResults != 0 || r.KeyedBytes != 0 || m.shard.NextDeadline() != 0 {
			t.Errorf("%d results of %d bytes after the window, %d due", r.KeyedResults, r.KeyedBytes, m.shard.NextDeadline())
		}
		if r := m.one(write()); r.Replayed || r.Revision != 3 {
			t.Errorf("after the window: %v", r)
		}
	}
}

// Nothing is removed before its time to make room: what is new is refused.
func TestIdempotencyKeysAreBounded(t *testing.T) {
	for name, o := range map[string]Options{"results": {KeyedResults: 5}, "bytes": {KeyedBytes: 200}} {
		o.FS, o.CacheBytes, o.MemTableBytes, o.OnFatal = simfs.New(simfs.Options{}), 1<<20, 256<<10, func(error) {}
		m := newServing(t, o)
		kept := 0
		for ; kept < 100; kept++ {
			if r := m.one(under(fmt.Sprintf("k%d", kept), 1, 50, putCommand("a", "1"))); r.Outcome == keysFull {
				break
			}
		}
		at := m.shard.Position()
		if kept == 100 || at.KeyedResults != uint64(kept) || at.Revision != uint64(kept) {
			t.Fatalf("%s: %d are kept, %+v", name, kept, at)
		}
		if r := m.one(under("k0", 1, 50, putCommand("a", "1"))); !r.Replayed {
			t.Errorf("%s: what is kept is not found: %v", name, r)
		}
		m.clock = 51
		m.commit(expireCommand(100))
		expectOutcome(t, name+" after the window", m.one(under("new", 1, 50, putCommand("a", "1"))), applied)
	}
}

func TestInvalidIdentities(t *testing.T) {
	for name, c := range map[string]*storev1.Command{
		"fence without id":       fenceCommand("a"),
		"fence in no slot":       as(1, 1, 0, 0, &storev1.Command{Body: &storev1.Command_Fence{Fence: &storev1.Fence{Slot: 1 << 20}}}),
		"key on a fence":         under("k", 1, 1, as(1, 1, 0, 0, fenceCommand("a"))),
		"key and id":             under("k", 1, 1, as(1, 1, 0, 0, putCommand("a", "1"))),
		"no key":                 under("", 1, 1, putCommand("a", "1")),
		"key with a space":       under("a b", 1, 1, putCommand("a", "1")),
		"key of other letters":   under("é", 1, 1, putCommand("a", "1")),
		"key too long":           under(string(bytes.Repeat([]byte("k"), 256)), 1, 1, putCommand("a", "1")),
		"no window":              under("k", 1, 0, putCommand("a", "1")),
		"window of many days":    under("k", 1, IdempotencyWindowMax+1, putCommand("a", "1")),
		"key on a trim":          under("k", 1, 1, trimCommand(1, 1)),
		"key without print":      {Idempotency: &storev1.Idempotency{Key: "k", WindowMs: 1}, Body: putCommand("a", "1").Body},
		"lease grant with a key": under("k", 1, 1, grantCommand(1, 1)),
	} {
		if err := CheckCommand(c); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if err := CheckCommand(under("k", 1, 1, putCommand("a", "1"))); err != nil {
		t.Error(err)
	}
}
