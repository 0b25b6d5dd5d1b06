package state

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

func putFor(key string, ttlMs uint64) *storev1.Operation {
	op := putOp(key, "v")
	op.TtlMs = ttlMs
	return op
}

func putOn(key string, lease uint64) *storev1.Operation {
	op := putOp(key, "v")
	op.Lease = lease
	return op
}

func expireCommand(most uint32, leases ...uint64) *storev1.Command {
	return &storev1.Command{Body: &storev1.Command_Expire{Expire: &storev1.Expire{MaxKeys: most, Leases: leases}}}
}

func leaseCommand(c *storev1.LeaseCommand) *storev1.Command {
	return &storev1.Command{Body: &storev1.Command_Lease{Lease: c}}
}

func grantCommand(id, ttlMs uint64) *storev1.Command {
	return leaseCommand(&storev1.LeaseCommand{Id: id, Action: &storev1.LeaseCommand_Grant{Grant: &storev1.LeaseGrant{TtlMs: ttlMs}}})
}

func keepAliveCommand(id uint64) *storev1.Command {
	return leaseCommand(&storev1.LeaseCommand{Id: id, Action: &storev1.LeaseCommand_KeepAlive{KeepAlive: &storev1.LeaseKeepAlive{}}})
}

func revokeCommand(id uint64, most uint32) *storev1.Command {
	return leaseCommand(&storev1.LeaseCommand{Id: id, Action: &storev1.LeaseCommand_Revoke{Revoke: &storev1.LeaseRevoke{MaxKeys: most}}})
}

// at applies a command when the clock is there.
func (m *machine) at(clock uint64, c *storev1.Command) *storev1.WriteResult {
	m.t.Helper()
	m.clock = clock
	return m.one(c)
}

// keysOf returns the keys that exist.
func keysOf(t *testing.T, m *machine) (keys []string) {
	t.Helper()
	v := m.store.View()
	defer v.Close()
	for _, k := range []string{"a", "b", "c", "d", "e"} {
		r, err := v.Get(testShard, k)
		if err != nil {
			t.Fatal(err)
		}
		if r != nil {
			keys = append(keys, k)
		}
	}
	return keys
}

func wantKeys(t *testing.T, m *machine, what string, want ...string) {
	t.Helper()
	if got := keysOf(t, m); !slices.Equal(got, want) {
		t.Errorf("%s: keys %q, want %q", what, got, want)
	}
}

func TestKeysGoWhenTheirTimeHasPassedAndNotBefore(t *testing.T) {
	o := testOptions(newDisk())
	m := newServing(t, o)
	m.at(1000, writeCommand(putFor("a", 50), putFor("b", 60), putOp("c", "for ever")))
	if got := m.shard.NextDeadline(); got != 1051 {
		t.Fatalf("the first deadline is %d, want 1051: the clock may have been nearly 1001 when it said 1000", got)
	}
	if r := m.at(1050, expireCommand(10)); r.Revision != 1 || r.More {
		t.Errorf("an expiry before its time: %v", r)
	}
	wantKeys(t, m, "before the time", "a", "b", "c")
	if r := m.at(1051, expireCommand(10)); r.Revision != 2 || r.More {
		t.Errorf("an expiry: %v", r)
	}
	wantKeys(t, m, "after the first", "b", "c")
	if err := m.store.Close(); err != nil {
		t.Fatal(err)
	}
	m = newMachine(t, openStore(t, o), testShard)
	if got := m.shard.NextDeadline(); got != 1061 {
		t.Fatalf("opened again, the first deadline is %d, want 1061", got)
	}
	// The clock of an entry may be behind that of the shard, but never takes it back.
	m.at(1061, bootstrapCommand())
	m.at(5, expireCommand(10))
	wantKeys(t, m, "after all", "c")
	if got := m.shard.NextDeadline(); got != 0 {
		t.Errorf("the first deadline is %d, nothing has one", got)
	}
	v := viewOf(t, m.store)
	_, err := v.History(testShard, 1, 9, 1<<20, func(revision uint64, h *storev1.History) error {
		for _, c := range h.Changes {
			if c.Expired != (revision > 1) {
				t.Errorf("revision %d, %q: expired is %v", revision, c.Key, c.Expired)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	parts, _, err := v.Changes(testShard, ChangesRead{From: Cursor{Revision: 1}, MaxBytes: 1 << 20, Want: func(string, bool) Want { return WantAfter }})
	if err != nil || len(parts) != 3 {
		t.Fatal(parts, err)
	}
	for _, p := range parts {
		for _, c := range p.Changes {
			if c.Expired != (p.Revision > 1) || c.Expired != c.Deleted {
				t.Errorf("revision %d: %+v", p.Revision, c)
			}
		}
	}
}

func TestAWriteReplacesTheTimeOfAKey(t *testing.T) {
	m := newServing(t, Options{})
	m.at(0, grantCommand(9, 1000))
	for _, later := range []struct {
		name string
		op   *storev1.Operation
		due  uint64
	}{
		{"for ever", putOp("a", "v"), 1001},
		{"longer", putFor("a", 500), 501},
		{"shorter", putFor("a", 1), 2},
		{"the same", putFor("a", 10), 11},
		{"on a lease", putOn("a", 9), 1001},
		{"gone", deleteOp("a"), 1001},
	} {
		m.at(0, writeCommand(putFor("a", 10)))
		m.at(0, writeCommand(later.op))
		if got := m.shard.NextDeadline(); got != later.due {
			t.Errorf("%s: the first deadline is %d, want %d", later.name, got, later.due)
		}
	}
}

func TestAnExpiryIsBounded(t *testing.T) {
	m := newServing(t, Options{})
	m.at(0, writeCommand(putFor("b", 1), putFor("a", 2), putFor("c", 3), putFor("d", 90)))
	if r := m.at(50, expireCommand(2)); !r.More || r.Revision != 2 {
		t.Errorf("two of three: %v", r)
	}
	wantKeys(t, m, "the earliest go first", "c", "d")
	// What the open batch holds is seen.
	m.apply(writeCommand(putFor("e", 1), deleteOp("c")))
	m.clock = 60
	if r := m.apply(expireCommand(1))[0]; r.More || r.Revision != 4 {
		t.Errorf("a key of the open batch: %v", r)
	}
	m.commit()
	wantKeys(t, m, "after all", "d")
}

func TestDeadlinesSaturate(t *testing.T) {
	m := newServing(t, Options{})
	m.at(math.MaxUint64-5, writeCommand(putFor("a", TTLMillisMax)))
	if got := m.shard.NextDeadline(); got != math.MaxUint64-1 {
		t.Errorf("deadline %d", got)
	}
	m.at(math.MaxUint64, writeCommand(putFor("b", 1)))
	m.at(0, expireCommand(10))
	wantKeys(t, m, "at the end of time")
}

func TestLeases(t *testing.T) {
	m := newServing(t, Options{})
	outcome := func(what string, r *storev1.WriteResult, want storev1.WriteOutcome) {
		t.Helper()
		if r.Outcome != want || r.LeaseId != 9 {
			t.Errorf("%s: %v, want %v", what, r, want)
		}
	}
	const exists = storev1.WriteOutcome_WRITE_OUTCOME_LEASE_EXISTS
	outcome("a put on no lease", m.at(0, writeCommand(putOp("z", ""), putOn("a", 9))), noLease)
	outcome("keep-alive of none", m.at(0, keepAliveCommand(9)), noLease)
	outcome("revoke of none", m.at(0, revokeCommand(9, 1)), noLease)
	outcome("grant", m.at(0, as(1, 1, 0, 0, grantCommand(9, 100))), applied)
	outcome("the same grant again", m.at(0, as(1, 1, 0, 0, grantCommand(9, 100))), applied)
	outcome("another grant", m.at(0, grantCommand(9, 100)), exists)
	m.at(0, writeCommand(putOn("a", 9), putOn("b", 9), putOp("c", "")))
	outcome("keep-alive", m.at(90, keepAliveCommand(9)), applied)
	m.at(190, expireCommand(10))
	wantKeys(t, m, "kept alive", "a", "b", "c")
	if r := m.at(191, expireCommand(2)); !r.More {
		t.Errorf("a lease and one of its two keys: %v", r)
	}
	wantKeys(t, m, "the first of its keys", "b", "c")
	outcome("a put on a lease that ends", m.at(191, writeCommand(putOn("a", 9))), noLease)
	outcome("keep-alive of one that ends", m.at(191, keepAliveCommand(9)), noLease)
	if d := m.shard.NextDeadline(); d == 0 || d > 191 {
		t.Errorf("the rest of a lease is due at %d", d)
	}
	if r := m.at(191, expireCommand(2)); r.More {
		t.Errorf("the rest: %v", r)
	}
	wantKeys(t, m, "the rest", "c")
	outcome("revoke of one that has ended", m.at(191, revokeCommand(9, 1)), noLease)
	checkDigests(t, m.store, testShard)
}

func TestRevokeTakesItsKeysAlong(t *testing.T) {
	m := newServing(t, Options{})
	m.at(0, grantCommand(9, 1000))
	m.at(0, writeCommand(putOn("a", 9), putOn("b", 9), putOn("c", 9), putOp("d", "")))
	v := viewOf(t, m.store)
	for _, page := range []struct {
		after       string
		most, bytes int
		want        []string
		more        bool
	}{
		{"", 9, 9, []string{"a", "b", "c"}, false}, {"", 2, 9, []string{"a", "b"}, true}, {"", 9, 1, []string{"a"}, true}, {"b", 9, 9, []string{"c"}, false},
	} {
		if keys, more, err := v.LeasedKeys(testShard, 9, page.after, page.most, page.bytes); err != nil || more != page.more || !slices.Equal(keys, page.want) {
			t.Errorf("%+v: %q, %t, %v", page, keys, more, err)
		}
	}
	if r := m.at(5, revokeCommand(9, 2)); r.Outcome != applied || r.Revision != 2 {
		t.Errorf("revoke: %v", r)
	}
	wantKeys(t, m, "as many as it may", "c", "d")
	if d := m.shard.NextDeadline(); d == 0 || d > 5 {
		t.Errorf("the rest is due at %d", d)
	}
	m.at(5, expireCommand(9))
	wantKeys(t, m, "the rest", "d")
	if p := m.shard.Position(); p.Leases != 0 || p.LeasedKeys != 0 {
		t.Errorf("left over: %+v", p)
	}
}

// TestLeasesOfOtherShards has a shard that serves no slot of a lease: it believes what it is told.
func TestLeasesOfOtherShards(t *testing.T) {
	elsewhere, here := uint64(0), uint64(0)
	half := slotTable(0, placement.SlotCount/2-1, storev1.SlotState_SLOT_STATE_SERVING)
	for id := uint64(1); elsewhere == 0 || here == 0; id++ {
		if placement.SlotOfLease(id) >= placement.SlotCount/2 {
			elsewhere = id
		} else {
			here = id
		}
	}
	keys := make([]string, 0, 3)
	for i := 0; len(keys) < cap(keys); i++ {
		if placement.SlotOf(keyName(i)) < placement.SlotCount/2 {
			keys = append(keys, keyName(i))
		}
	}
	m := newMachine(t, openStore(t, Options{}), testShard)
	m.commit(&storev1.Command{Body: &storev1.Command_Bootstrap{Bootstrap: &storev1.Bootstrap{Slots: half}}})
	if r := m.one(grantCommand(elsewhere, 5)); r.Outcome != notServed || r.Slot != uint32(placement.SlotOfLease(elsewhere)) {
		t.Errorf("a grant in another shard: %v", r)
	}
	m.one(grantCommand(here, 1000))
	if r := m.one(writeCommand(putOn(keys[0], elsewhere), putOn(keys[1], elsewhere), putOn(keys[2], here))); r.Outcome != applied {
		t.Fatalf("a put on a lease of another shard: %v", r)
	}
	fits := func(id uint64) bool { return id == elsewhere }
	var found []uint64
	for after, last := uint64(0), false; !last; last = after == 0 {
		var some []uint64
		var err error
		if some, after, err = viewOf(t, m.store).LeasesElsewhere(testShard, after, 1, fits); err != nil {
			t.Fatal(err)
		}
		found = append(found, some...)
	}
	if !slices.Equal(found, []uint64{elsewhere}) {
		t.Errorf("leases elsewhere: %v", found)
	}
	ids := []uint64{elsewhere, here}
	slices.Sort(ids)
	refused := putOn(keys[0], elsewhere)
	refused.LeaseEnded = true
	if r := m.one(writeCommand(refused)); r.Outcome != noLease || r.LeaseId != elsewhere {
		t.Errorf("a put on a lease that has ended at home: %v", r)
	}
	if r := m.one(expireCommand(1, ids...)); !r.More || r.Revision != 2 {
		t.Errorf("the first of two keys: %v", r)
	}
	if r := m.one(expireCommand(9, ids...)); r.More || r.Revision != 3 {
		t.Errorf("the other, and not that of the lease that lives here: %v", r)
	}
	if p := m.shard.Position(); p.Keys != 1 || p.LeasedKeys != 1 {
		t.Errorf("left: %+v", p)
	}
}

func TestInvalidLives(t *testing.T) {
	both, far, gone, wide := putFor("a", 1), putFor("a", TTLMillisMax+1), deleteOp("a"), putOn("a", math.MaxInt64+1)
	both.Lease, gone.TtlMs = 1, 1
	for _, c := range []*storev1.Command{
		writeCommand(both), writeCommand(far), writeCommand(gone), writeCommand(wide),
		expireCommand(0), expireCommand(1, 0), expireCommand(1, 2, 1), expireCommand(1, 2, 2),
		grantCommand(0, 1), grantCommand(1, 0), grantCommand(1, TTLMillisMax+1), grantCommand(math.MaxInt64+1, 1),
		revokeCommand(1, 0), leaseCommand(&storev1.LeaseCommand{Id: 1}), leaseCommand(nil),
	} {
		if err := CheckCommand(c); !errors.Is(err, ErrInvalidEntry) {
			t.Errorf("%v: %v", c, err)
		}
	}
}

// TestASnapshotWithoutAnIndexIsRefused drops single pairs of what belongs to deadlines and leases from a stream.
func TestSnapshotsOfDeadlinesAreChecked(t *testing.T) {
	m := newServing(t, Options{})
	m.at(0, grantCommand(9, 1000))
	m.at(0, writeCommand(putOn("a", 9), putFor("b", 5)))
	for _, s := range []section{sectionDue, sectionLeased, sectionLease, sectionLeaseDue} {
		v := new(verifier)
		header := &storev1.SnapshotHeader{Index: m.shard.meta.AppliedIndex, Term: 1}
		if err := v.begin(header); err != nil {
			t.Fatal(err)
		}
		start, end := shardSpan(testShard)
		it, err := m.store.View().iterate(testShard, start, end)
		if err != nil {
			t.Fatal(err)
		}
		for ok := it.First(); ok; ok = it.Next() {
			key := bytes.Clone(it.Key()[shardPrefixLen:])
			if section(key[0]) == s {
				continue
			}
			if err := v.pair(key, it.Value()); err != nil {
				t.Fatal(err)
			}
		}
		if err := it.Close(); err != nil {
			t.Fatal(err)
		}
		if err := v.end(); !errors.Is(err, ErrBadSnapshot) {
			t.Errorf("without section %c: %v", s, err)
		}
	}
}
