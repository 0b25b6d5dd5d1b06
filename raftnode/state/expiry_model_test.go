package state

import (
	"bytes"
	"cmp"
	"slices"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
)

// The part of the model that knows time: it looks through all keys and leases each time.

func (m *model) lease(c *storev1.LeaseCommand) *storev1.WriteResult {
	r := result(applied, m.revision)
	r.LeaseId = c.Id
	l := m.leases[c.Id]
	switch grant := c.GetGrant(); {
	case grant != nil && l != nil:
		r.Outcome = storev1.WriteOutcome_WRITE_OUTCOME_LEASE_EXISTS
	case grant != nil:
		m.leases[c.Id] = &storev1.Lease{TtlMs: grant.TtlMs, DeadlineMs: m.clock + grant.TtlMs + 1}
		r.LeaseTtlMs = grant.TtlMs
	case l == nil || l.Ended:
		r.Outcome = noLease
	case c.GetKeepAlive() != nil:
		l.DeadlineMs = m.clock + l.TtlMs + 1
		r.LeaseTtlMs = l.TtlMs
	default:
		room := int(c.GetRevoke().MaxKeys)
		gone := m.end(c.Id, &room)
		if l := m.leases[c.Id]; l != nil {
			l.DeadlineMs = max(1, m.clock)
		}
		r.Revision = m.remove(gone)
	}
	return r
}

// leased returns the keys of a lease in order.
func (m *model) leased(id uint64) (keys []string) {
	for k, r := range m.now() {
		if r.Lease == id {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// end ends a lease as far as there is room, and returns the keys that go.
func (m *model) end(id uint64, room *int) []string {
	keys := m.leased(id)
	if len(keys) <= *room {
		delete(m.leases, id)
	} else {
		m.leases[id].Ended = true
		keys = keys[:*room]
	}
	*room -= len(keys)
	return keys
}

func (m *model) expire(room int) *storev1.WriteResult {
	var leases []uint64
	for id, l := range m.leases {
		if l.DeadlineMs <= m.clock {
			leases = append(leases, id)
		}
	}
	slices.SortFunc(leases, func(a, b uint64) int {
		return cmp.Or(cmp.Compare(m.leases[a].DeadlineMs, m.leases[b].DeadlineMs), cmp.Compare(a, b))
	})
	var gone []string
	more := false
	for _, id := range leases {
		if more = room == 0; more {
			break
		}
		room--
		gone = append(gone, m.end(id, &room)...)
		more = m.leases[id] != nil
	}
	var keys []string
	for k, r := range m.now() {
		if r.DeadlineMs != 0 && r.DeadlineMs <= m.clock {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b string) int {
		return cmp.Or(cmp.Compare(m.now()[a].DeadlineMs, m.now()[b].DeadlineMs), cmp.Compare(a, b))
	})
	if len(keys) > room {
		keys, more = keys[:room], true
	}
	more = m.forgetKeyed(room-len(keys)) || more
	r := result(applied, m.remove(append(gone, keys...)))
	r.More = more
	return r
}

// remove deletes keys under one revision.
func (m *model) remove(keys []string) uint64 {
	w := &storev1.Write{}
	for _, k := range keys {
		w.Operations = append(w.Operations, deleteOp(k))
	}
	return m.execute(w).Revision
}

func drawLease(t *rapid.T) *storev1.Command {
	id := rapid.Uint64Range(1, 3).Draw(t, "lease")
	switch rapid.IntRange(0, 3).Draw(t, "lease command") {
	case 0:
		return keepAliveCommand(id)
	case 1:
		return revokeCommand(id, rapid.Uint32Range(1, 3).Draw(t, "most"))
	default:
		return grantCommand(id, rapid.Uint64Range(1, 9).Draw(t, "ttl"))
	}
}

func drawLife(t *rapid.T, op *storev1.Operation) *storev1.Operation {
	switch rapid.IntRange(0, 5).Draw(t, "life") {
	case 0, 1:
		op.TtlMs = rapid.Uint64Range(1, 9).Draw(t, "ttl")
	case 2:
		op.Lease = rapid.Uint64Range(1, 3).Draw(t, "lease of the key")
	}
	return op
}

// sameDeadlines compares what is due first, and the leases. What is committed must be all that the model has applied.
func sameDeadlines(t *rapid.T, mo *model, m *machine) {
	first := uint64(0)
	due := func(d uint64) {
		if d != 0 && (first == 0 || d < first) {
			first = d
		}
	}
	leased := uint64(0)
	for _, r := range mo.now() {
		due(r.DeadlineMs)
		if r.Lease != 0 {
			leased++
		}
	}
	var want []*peerv1.LeaseState
	for id, l := range mo.leases {
		due(l.DeadlineMs)
		if !l.Ended {
			want = append(want, &peerv1.LeaseState{Id: id, TtlMs: l.TtlMs, DeadlineMs: l.DeadlineMs})
		}
	}
	for _, k := range mo.keyed {
		due(k.deadline)
	}
	slices.SortFunc(want, func(a, b *peerv1.LeaseState) int { return cmp.Compare(a.Id, b.Id) })
	if got := m.shard.NextDeadline(); got != first {
		t.Fatalf("the first deadline is %d, want %d", got, first)
	}
	if p := m.shard.Position(); p.LeasedKeys != leased || p.Leases != uint64(len(mo.leases)) {
		t.Fatalf("%d keys on %d leases, want %d on %d", p.LeasedKeys, p.Leases, leased, len(mo.leases))
	} else if p.KeyedResults != uint64(len(mo.keyed)) {
		t.Fatalf("%d results under idempotency keys, want %d", p.KeyedResults, len(mo.keyed))
	}
	v := m.store.View()
	defer v.Close()
	got, more, err := v.Leases(testShard, 0, 10)
	if err != nil || more {
		t.Fatal(more, err)
	}
	if diff := gocmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Fatalf("leases (-want +got):\n%s", diff)
	}
	for id := uint64(1); id <= 3; id++ {
		keys, more, err := v.LeasedKeys(testShard, id, "", 10, 1<<20)
		if err != nil || more || !slices.Equal(keys, mo.leased(id)) {
			t.Fatalf("keys %q of lease %d, %v, want %q", keys, id, err, mo.leased(id))
		}
	}
	// A snapshot is checked whole when it is staged: indexes, counts and digests.
	if _, err := m.store.Stage("staged", bytes.NewReader(exportOf(m.t, m.store, testShard))); err != nil {
		t.Fatal(err)
	}
	if err := m.store.options.FS.RemoveAll("staged"); err != nil {
		t.Fatal(err)
	}
}
