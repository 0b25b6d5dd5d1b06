package state

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
)

// model is the state machine as one would explain it: maps, and a copy of all keys for every revision.
type model struct {
	limit    int
	revision uint64
	floor    uint64
	states   []map[string]*record // by revision; a deleted key is not in it
	results  []modelResult        // oldest first
	sessions []*modelSession      // the one that was silent for the longest first
	gone     uint64               // the session floor
	most     int                  // of a session
	deleted  map[string]uint64    // when a key that does not exist was deleted
	replaced map[uint64]int       // by revision, how many values of 1 KiB and more it replaced
	clock    uint64
	leases   map[uint64]*storev1.Lease
	keyed    map[string]*modelKeyed
}

type modelResult struct {
	id       string
	client   string
	sequence uint64
	result   *storev1.WriteResult
}

type modelSession struct {
	client string
	acked  uint64
	floor  uint64
	fenced uint64 // its requests that are fenced have seen less
}

func newModel(limit, most int) *model {
	return &model{
		limit: limit, most: most, floor: 1, states: []map[string]*record{{}},
		deleted: map[string]uint64{}, replaced: map[uint64]int{}, leases: map[uint64]*storev1.Lease{},
		keyed: map[string]*modelKeyed{},
	}
}

func (m *model) now() map[string]*record { return m.states[m.revision] }

func (m *model) apply(c *storev1.Command) *storev1.WriteResult {
	switch b := c.Body.(type) {
	case *storev1.Command_TrimHistory:
		m.trim(b.TrimHistory.Below, int(b.TrimHistory.MaxRevisions))
		return result(applied, m.revision)
	case *storev1.Command_Write:
		return m.keep(c.Idempotency, func() *storev1.WriteResult {
			return m.answer(c.RequestId, func() *storev1.WriteResult { return m.execute(b.Write) })
		})
	case *storev1.Command_Fence:
		return m.fence(c.RequestId)
	case *storev1.Command_Lease:
		return m.answer(c.RequestId, func() *storev1.WriteResult { return m.lease(b.Lease) })
	case *storev1.Command_Expire:
		return m.expire(int(b.Expire.MaxKeys))
	default:
		return result(applied, m.revision)
	}
}

// trim ends before the revision with which it would clear away more than most tombstones, or values, if it has cleared away most of them.
func (m *model) trim(below uint64, most int) {
	below = min(below, m.revision+1, m.floor+uint64(most))
	tombstones, values := 0, 0
	for ; m.floor < below; m.floor++ {
		here := 0
		for _, revision := range m.deleted {
			if revision == m.floor {
				here++
			}
		}
		if here > 0 && tombstones >= most || m.replaced[m.floor] > 0 && values >= most {
			return
		}
		tombstones += here
		values += m.replaced[m.floor]
	}
}

func (m *model) answer(id *storev1.RequestId, execute func() *storev1.WriteResult) *storev1.WriteResult {
	if id == nil {
		return execute()
	}
	name, client := fmt.Sprintf("%x/%d", id.ClientId, id.Sequence), string(id.ClientId)
	for _, r := range m.results {
		if r.id == name {
			return r.result
		}
	}
	s := m.session(client)
	switch {
	case s == nil && id.Seen < min(m.gone, m.revision):
		return &storev1.WriteResult{Outcome: expired, Revision: m.revision, SessionFloor: m.gone}
	case s != nil && id.Sequence < s.acked:
		return &storev1.WriteResult{Outcome: expired, Revision: m.revision}
	case s != nil && id.Seen < min(s.floor, m.revision):
		return &storev1.WriteResult{Outcome: expired, Revision: m.revision, SessionFloor: s.floor}
	case m.full(client, id.AckedBelow):
		return &storev1.WriteResult{Outcome: sessionFull, Revision: m.revision}
	}
	r := execute()
	m.remember(id, r, 0)
	return r
}

// full says whether a client has to acknowledge something first: it has as many results as it may, or the shard has, and can forget nobody else's.
func (m *model) full(client string, acked uint64) bool {
	s := m.session(client)
	if s == nil || m.of(client)[0].sequence < max(s.acked, acked) {
		return false
	}
	others := slices.ContainsFunc(m.sessions, func(other *modelSession) bool { return other != s && other.fenced <= m.revision })
	return len(m.of(client)) >= m.most || len(m.results) >= m.limit && !others
}

func (m *model) remember(id *storev1.RequestId, r *storev1.WriteResult, fenced uint64) {
	name, client := fmt.Sprintf("%x/%d", id.ClientId, id.Sequence), string(id.ClientId)
	s := m.session(client)
	if s == nil {
		s = &modelSession{client: client, floor: m.gone}
	}
	s.acked, s.fenced = max(s.acked, id.AckedBelow), max(s.fenced, fenced)
	m.sessions = append(slices.DeleteFunc(m.sessions, func(other *modelSession) bool { return other == s }), s)
	m.results = append(m.results, modelResult{name, client, id.Sequence, r})
	for range ackedWindow {
		if of := m.of(client); len(of) > 1 && of[0].sequence < s.acked {
			m.forget(of[0].id)
		}
	}
	for len(m.results) > m.limit {
		i := slices.IndexFunc(m.sessions, func(other *modelSession) bool { return other != s && other.fenced <= m.revision })
		if i < 0 {
			return
		}
		of := m.of(m.sessions[i].client)
		m.gone = max(m.gone, of[len(of)-1].result.Revision+1)
		for _, r := range of {
			m.forget(r.id)
		}
		m.sessions = slices.Delete(m.sessions, i, i+1)
	}
}

func (m *model) session(client string) *modelSession {
	for _, s := range m.sessions {
		if s.client == client {
			return s
		}
	}
	return nil
}

// of are the results of a client.
func (m *model) of(client string) (out []modelResult) {
	for _, r := range m.results {
		if r.client == client {
			out = append(out, r)
		}
	}
	return out
}

func (m *model) execute(w *storev1.Write) *storev1.WriteResult {
	for i, c := range w.Compares {
		rec := m.now()[c.Key]
		ok := false
		switch want := c.Condition.(type) {
		case *storev1.Compare_Exists:
			ok = (rec != nil) == want.Exists
		case *storev1.Compare_ModRevision:
			ok = rec.GetModRevision() == want.ModRevision
		case *storev1.Compare_Value:
			ok = rec != nil && bytes.Equal(rec.GetValue(), want.Value)
		}
		if !ok {
			current := rec.GetModRevision()
			r := m.change(w.Otherwise)
			if r.Outcome == noLease {
				return r
			}
			r.Outcome, r.FailedCompare, r.FailedModRevision = failed, uint32(i), current
			return r
		}
	}
	return m.change(w.Operations)
}

func (m *model) change(ops []*storev1.Operation) *storev1.WriteResult {
	for _, op := range ops {
		if l := m.leases[op.Lease]; op.Lease != 0 && (l == nil || l.Ended) {
			return &storev1.WriteResult{Outcome: noLease, Revision: m.revision, LeaseId: op.Lease}
		}
	}
	next, r := maps.Clone(m.now()), result(applied, m.revision)
	for _, op := range ops {
		if op.Kind == get {
			r.Operations = append(r.Operations, &storev1.OperationResult{})
			continue
		}
		old := next[op.Key]
		or := &storev1.OperationResult{Existed: old != nil}
		if len(old.GetValue()) >= separateBytes {
			m.replaced[m.revision+1]++
		}
		if op.Kind == put {
			rec := &record{CreateRevision: m.revision + 1, ModRevision: m.revision + 1, Version: 1, Content: &storev1.Record_Value{Value: op.Value}}
			if old != nil {
				rec.CreateRevision, rec.Version = old.CreateRevision, old.Version+1
			}
			if rec.Lease = op.Lease; op.TtlMs > 0 {
				rec.DeadlineMs = m.clock + op.TtlMs + 1
			}
			or.CreateRevision, or.Version = rec.CreateRevision, rec.Version
			next[op.Key] = rec
			delete(m.deleted, op.Key)
		}
		if op.Kind == deletion && old != nil {
			delete(next, op.Key)
			m.deleted[op.Key] = m.revision + 1
		}
		if op.Kind == put || old != nil {
			r.Revision = m.revision + 1
		}
		r.Operations = append(r.Operations, or)
	}
	if r.Revision > m.revision {
		m.revision++
		m.states = append(m.states, next)
	}
	return r
}

func (m *model) forget(id string) {
	m.results = slices.DeleteFunc(m.results, func(r modelResult) bool { return r.id == id })
}

var modelKeys = []string{"a", "b", "c", "{t}x", "{t}y", "né"}

// drawValue draws short values, and some around the length at which they are separated.
func drawValue(t *rapid.T) string {
	if rapid.IntRange(0, 2).Draw(t, "long") > 0 {
		return rapid.StringN(0, 3, -1).Draw(t, "value")
	}
	return strings.Repeat(rapid.SampledFrom([]string{"x", "y"}).Draw(t, "letter"), separateBytes+rapid.IntRange(-1, 1).Draw(t, "more"))
}

func drawOperations(t *rapid.T) (ops []*storev1.Operation) {
	for _, k := range rapid.SliceOfNDistinct(rapid.SampledFrom(modelKeys), 0, 3, rapid.ID[string]).Draw(t, "keys") {
		switch rapid.IntRange(0, 5).Draw(t, "op") {
		case 0, 1:
			ops = append(ops, deleteOp(k))
		case 2:
			ops = append(ops, getOp(k))
		default:
			ops = append(ops, drawLife(t, putOp(k, drawValue(t))))
		}
	}
	return ops
}

func drawCommand(t *rapid.T, m *model) *storev1.Command {
	switch rapid.IntRange(0, 14).Draw(t, "kind") {
	case 4, 5:
		return drawFence(t, m)
	case 1:
		return expireCommand(rapid.Uint32Range(1, 3).Draw(t, "most"))
	case 2, 3:
		return identify(t, m, drawLease(t))
	case 0:
		return trimCommand(rapid.Uint64Range(0, m.revision+3).Draw(t, "below"), rapid.Uint32Range(0, 6).Draw(t, "most"))
	}
	w := &storev1.Write{Operations: drawOperations(t)}
	if len(w.Operations) == 0 || rapid.IntRange(0, 3).Draw(t, "compare") == 0 {
		k := rapid.SampledFrom(modelKeys).Draw(t, "compare key")
		c := exists(k, rapid.Bool().Draw(t, "exists"))
		switch rapid.IntRange(0, 2).Draw(t, "condition") {
		case 0:
			c = modRevision(k, m.now()[k].GetModRevision())
		case 1:
			c = valueIs(k, string(m.now()[k].GetValue()))
		}
		w.Compares = append(w.Compares, c)
		w.Otherwise = drawOperations(t)
	}
	c := &storev1.Command{Body: &storev1.Command_Write{Write: w}}
	if rapid.IntRange(0, 3).Draw(t, "keyed") == 0 {
		return drawKey(t, c)
	}
	return identify(t, m, c)
}

func identify(t *rapid.T, m *model, c *storev1.Command) *storev1.Command {
	if rapid.Bool().Draw(t, "identified") {
		sequence := rapid.Uint64Range(1, 12).Draw(t, "sequence")
		seen := max(m.revision, uint64(3)) - rapid.Uint64Range(0, 3).Draw(t, "behind")
		as(byte(rapid.IntRange(1, 3).Draw(t, "client")), sequence, seen, rapid.Uint64Range(0, sequence).Draw(t, "acked"), c)
	}
	return c
}

// TestModel applies random entries to a model and to two replicas that batch them differently, one of which is closed and opened again.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { checkModel(t, rt) })
}

// FuzzModel does the same with entries that the bytes decide.
func FuzzModel(f *testing.F) {
	for seed := range uint64(4) {
		b := make([]byte, 4<<10)
		random := rand.NewChaCha8([32]byte{byte(seed)})
		_, _ = random.Read(b)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		rapid.MakeFuzz(func(rt *rapid.T) { checkModel(t, rt) })(t, b)
	})
}

func checkModel(t *testing.T, rt *rapid.T) {
	const limit, most = 9, 5
	o1, o2 := testOptions(newDisk()), testOptions(newDisk())
	o1.DedupResults, o2.DedupResults, o1.SessionResults, o2.SessionResults = limit, limit, most, most
	o1.KeyedResults, o2.KeyedResults = modelKeysMost, modelKeysMost
	mo := newModel(limit, most)
	a, b := newMachine(t, openStore(t, o1), testShard), newMachine(t, openStore(t, o2), testShard)
	defer func() { _, _ = a.store.Close(), b.store.Close() }()
	a.commit(bootstrapCommand())
	b.apply(bootstrapCommand())
	for range rapid.IntRange(1, 40).Draw(rt, "entries") {
		var cs []*storev1.Command
		mo.clock += rapid.Uint64Range(0, 4).Draw(rt, "time")
		a.clock, b.clock = mo.clock, mo.clock
		for range rapid.IntRange(0, 4).Draw(rt, "commands") {
			cs = append(cs, drawCommand(rt, mo))
		}
		var want []*storev1.WriteResult
		for _, c := range cs {
			want = append(want, mo.apply(c))
		}
		sameResults(rt, "a", cs, want, a.commit(cs...))
		sameResults(rt, "b", cs, want, b.apply(cs...))
		switch rapid.IntRange(0, 5).Draw(rt, "then") {
		case 0:
			if err := b.batch.Commit(); err != nil {
				rt.Fatal(err)
			}
		case 1:
			if err := a.store.Close(); err != nil {
				rt.Fatal(err)
			}
			a = newMachine(t, openStore(t, o1), testShard)
			sameDeadlines(rt, mo, a)
		}
	}
	if err := b.batch.Commit(); err != nil {
		rt.Fatal(err)
	}
	sameAsModel(rt, mo, b)
	sameDeadlines(rt, mo, b)
	checkDigests(t, a.store, testShard)
	if !bytes.Equal(exportOf(t, a.store, testShard), exportOf(t, b.store, testShard)) {
		rt.Fatal("the replicas export different streams")
	}
}

func sameResults(t *rapid.T, who string, cs []*storev1.Command, want, got []*storev1.WriteResult) {
	for i := range want {
		if diff := gocmp.Diff(want[i], got[i], protocmp.Transform()); diff != "" {
			t.Fatalf("replica %s: %v\n(-want +got):\n%s", who, cs[i], diff)
		}
	}
}

// sameAsModel compares everything that can be read.
func sameAsModel(t *rapid.T, mo *model, m *machine) {
	v := m.store.View()
	defer v.Close()
	p, err := v.Position(testShard)
	if err != nil || p.Revision != mo.revision || p.HistoryFloor != mo.floor || p.Keys != uint64(len(mo.now())) {
		t.Fatalf("position %+v, %v; want revision %d, floor %d, %d keys", p, err, mo.revision, mo.floor, len(mo.now()))
	}
	for revision := mo.floor - 1; revision <= mo.revision; revision++ { // what the first history kept has found, too
		for _, k := range modelKeys {
			got, err := v.GetAt(testShard, k, revision)
			if err != nil {
				t.Fatalf("%q at %d: %v", k, revision, err)
			}
			if diff := gocmp.Diff(mo.states[revision][k], got, protocmp.Transform()); diff != "" {
				t.Fatalf("%q at %d (-want +got):\n%s", k, revision, diff)
			}
		}
	}
	if n, err := v.History(testShard, mo.floor, mo.revision, 1<<30, func(uint64, *storev1.History) error { return nil }); err != nil || n != mo.revision+1 {
		t.Fatalf("history ends before %d: %v", n, err)
	}
	page, more, err := v.Range(testShard, &peerv1.RangeRead{})
	if err != nil || more {
		t.Fatal(more, err)
	}
	var want []*peerv1.KeyRecord
	for k, r := range mo.now() {
		want = append(want, &peerv1.KeyRecord{Key: k, Record: r})
	}
	slices.SortFunc(want, func(a, b *peerv1.KeyRecord) int { return cmp.Compare(a.Key, b.Key) })
	if diff := gocmp.Diff(want, page, protocmp.Transform()); diff != "" {
		t.Fatalf("range (-want +got):\n%s", diff)
	}
}
