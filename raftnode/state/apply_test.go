package state

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

func compares(c *storev1.Command, cs ...*storev1.Compare) *storev1.Command {
	c.GetWrite().Compares = cs
	return c
}

func otherwise(c *storev1.Command, ops ...*storev1.Operation) *storev1.Command {
	c.GetWrite().Otherwise = ops
	return c
}

func exists(key string, want bool) *storev1.Compare {
	return &storev1.Compare{Key: key, Condition: &storev1.Compare_Exists{Exists: want}}
}

func modRevision(key string, want uint64) *storev1.Compare {
	return &storev1.Compare{Key: key, Condition: &storev1.Compare_ModRevision{ModRevision: want}}
}

func valueIs(key, want string) *storev1.Compare {
	return &storev1.Compare{Key: key, Condition: &storev1.Compare_Value{Value: []byte(want)}}
}

func result(outcome storev1.WriteOutcome, revision uint64, ops ...*storev1.OperationResult) *storev1.WriteResult {
	return &storev1.WriteResult{Outcome: outcome, Revision: revision, Operations: ops}
}

func wrote(create, version uint64) *storev1.OperationResult {
	return &storev1.OperationResult{Existed: version > 1, CreateRevision: create, Version: version}
}

func failedAt(i uint32, revision, current uint64) *storev1.WriteResult {
	r := result(failed, revision)
	r.FailedCompare, r.FailedModRevision = i, current
	return r
}

var (
	deleted    = &storev1.OperationResult{Existed: true}
	notDeleted = &storev1.OperationResult{}
)

// TestCommands runs one script: what each command answers depends on those before it.
func TestCommands(t *testing.T) {
	steps := []struct {
		name    string
		command *storev1.Command
		want    *storev1.WriteResult
	}{
		{"a new key", putCommand("a", "1"), result(applied, 1, wrote(1, 1))},
		{"written again", putCommand("a", "2"), result(applied, 2, wrote(1, 2))},
		{"the same value is a write too", putCommand("a", "2"), result(applied, 3, wrote(1, 3))},
		{"an empty value", putCommand("b", ""), result(applied, 4, wrote(4, 1))},
		{"delete", writeCommand(deleteOp("a")), result(applied, 5, deleted)},
		{"delete what is not there makes no revision", writeCommand(deleteOp("a")), result(applied, 5, notDeleted)},
		{"delete what never was", writeCommand(deleteOp("z")), result(applied, 5, notDeleted)},
		{"a deleted key begins anew", putCommand("a", "3"), result(applied, 6, wrote(6, 1))},
		{
			"several keys under one revision", writeCommand(putOp("c", "1"), deleteOp("b"), deleteOp("z"), putOp("a", "4")),
			result(applied, 7, wrote(7, 1), deleted, notDeleted, wrote(6, 2)),
		},
		{"exists holds", compares(putCommand("d", "1"), exists("a", true)), result(applied, 8, wrote(8, 1))},
		{"exists fails", compares(putCommand("d", "2"), exists("a", true), exists("z", true)), failedAt(1, 8, 0)},
		{"a deleted key does not exist", compares(putCommand("b", "1"), exists("b", true)), failedAt(0, 8, 0)},
		{"not exists fails", compares(putCommand("a", "5"), exists("a", false)), failedAt(0, 8, 7)},
		{"not exists holds for a deleted key", compares(putCommand("b", "1"), exists("b", false)), result(applied, 9, wrote(9, 1))},
		{"revision holds", compares(putCommand("b", "2"), modRevision("b", 9)), result(applied, 10, wrote(9, 2))},
		{"revision fails", compares(putCommand("b", "3"), modRevision("b", 9)), failedAt(0, 10, 10)},
		{"revision 0 is absence", compares(putCommand("e", "1"), modRevision("e", 0)), result(applied, 11, wrote(11, 1))},
		{"revision 0 of what is there", compares(putCommand("e", "2"), modRevision("e", 0)), failedAt(0, 11, 11)},
		{"value holds", compares(writeCommand(deleteOp("e")), valueIs("e", "1")), result(applied, 12, deleted)},
		{"a revision of what is not there", compares(putCommand("e", "2"), modRevision("e", 11)), failedAt(0, 12, 0)},
		{"another value", compares(putCommand("a", "5"), valueIs("a", "3")), failedAt(0, 12, 7)},
		{"value of what is not there", compares(putCommand("e", "2"), valueIs("e", "")), failedAt(0, 12, 0)},
		{"compares alone", compares(writeCommand(), exists("a", true)), result(applied, 12)},
		{"a get changes nothing", writeCommand(getOp("a")), result(applied, 12, notDeleted)},
		{
			"a get beside a put", otherwise(compares(writeCommand(getOp("a"), putOp("d", "2")), exists("a", true)), putOp("x", "1")),
			result(applied, 13, notDeleted, wrote(8, 2)),
		},
		{
			"otherwise", otherwise(compares(putCommand("a", "6"), exists("a", true), modRevision("a", 6)), putOp("a", "7"), getOp("b"), deleteOp("d")),
			func() *storev1.WriteResult {
				r := failedAt(1, 14, 7)
				r.Operations = []*storev1.OperationResult{wrote(6, 3), notDeleted, deleted}
				return r
			}(),
		},
		{
			"otherwise changes nothing", otherwise(compares(putCommand("a", "8"), exists("z", true)), deleteOp("z")),
			func() *storev1.WriteResult {
				r := failedAt(0, 14, 0)
				r.Operations = []*storev1.OperationResult{notDeleted}
				return r
			}(),
		},
		{"bootstrap again changes nothing", bootstrapCommand(), result(applied, 14)},
		{"trim", trimCommand(5, 2), result(applied, 14)},
	}
	m := newServing(t, Options{})
	for _, s := range steps {
		if diff := cmp.Diff(s.want, m.one(s.command), protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", s.name, diff)
		}
	}
	checkDigests(t, m.store, testShard)
	got := m.shard.Position()
	if want := (Position{Index: uint64(len(steps)) + 1, Term: 1, Revision: 14, HistoryFloor: 3, HistoryBytes: got.HistoryBytes, Keys: 3}); got != want {
		t.Errorf("position %+v, want %+v", got, want)
	}
	if got.HistoryBytes == 0 {
		t.Error("no history")
	}
}

func TestNotServing(t *testing.T) {
	m := newMachine(t, openStore(t, Options{}), testShard)
	slot := uint32(placement.SlotOf("a"))
	want := &storev1.WriteResult{Outcome: notServed, Slot: slot}
	check := func(when string, c *storev1.Command) {
		t.Helper()
		if diff := cmp.Diff(want, m.one(c), protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	check("before bootstrap", putCommand("a", "1"))
	table := &storev1.SlotTable{Runs: []*storev1.SlotTable_Run{{First: slot, Last: slot, State: storev1.SlotState_SLOT_STATE_FROZEN}}}
	if slot > 0 {
		table.Runs = append([]*storev1.SlotTable_Run{{First: 0, Last: slot - 1, State: storev1.SlotState_SLOT_STATE_SERVING}}, table.Runs...)
	}
	table.Runs = append(table.Runs, &storev1.SlotTable_Run{First: slot + 1, Last: placement.SlotCount - 1, State: storev1.SlotState_SLOT_STATE_SERVING})
	m.one(&storev1.Command{Body: &storev1.Command_Bootstrap{Bootstrap: &storev1.Bootstrap{Slots: table}}})
	check("frozen", putCommand("a", "1"))
	check("frozen, as the second key", writeCommand(putOp("b", "1"), putOp("a", "1")))
	check("frozen, as a compare", compares(putCommand("b", "1"), exists("a", false)))
	check("frozen, of what is done otherwise", otherwise(compares(putCommand("b", "1"), exists("b", false)), getOp("a")))
	check("not kept for retries", as(1, 1, 0, 0, putCommand("a", "1")))
	if m.shard.dedup.len() != 0 {
		t.Error("a refusal was kept")
	}
	if r := m.one(putCommand("b", "1")); r.Outcome != applied {
		t.Errorf("another slot: %v", r)
	}
	v := viewOf(t, m.store)
	got, err := v.Slots(testShard)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(table, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestMetaShardServesEverything(t *testing.T) {
	m := newMachine(t, openStore(t, Options{}), placement.MetaShard)
	if r := m.one(putCommand("anything", "1")); r.Outcome != applied {
		t.Fatal(r)
	}
}

func TestRetriesGetTheFirstAnswer(t *testing.T) {
	m := newServing(t, Options{})
	same := func(when string, c func() *storev1.Command) {
		t.Helper()
		first := m.one(c())
		position := m.shard.Position()
		for _, again := range []*storev1.WriteResult{m.one(c()), m.apply(c())[0]} {
			if diff := cmp.Diff(first, again, protocmp.Transform()); diff != "" {
				t.Errorf("%s (-first +again):\n%s", when, diff)
			}
		}
		if err := m.batch.Commit(); err != nil {
			t.Fatal(err)
		}
		if got := m.shard.Position(); got.Revision != position.Revision || got.HistoryBytes != position.HistoryBytes {
			t.Errorf("%s: a retry changed the state from %+v to %+v", when, position, got)
		}
	}
	same("put", func() *storev1.Command { return as(1, 1, 0, 0, putCommand("a", "1")) })
	m.one(putCommand("a", "other"))
	same("failed compare, which would hold later", func() *storev1.Command {
		return as(1, 2, 0, 0, compares(putCommand("b", "1"), exists("late", true)))
	})
	m.one(putCommand("late", "1"))
	same("failed compare, once it would hold", func() *storev1.Command {
		return as(1, 2, 0, 0, compares(putCommand("b", "1"), exists("late", true)))
	})
	same("compare that the command itself has made fail", func() *storev1.Command {
		return as(2, 2, 0, 0, compares(putCommand("new", "1"), exists("new", false)))
	})
	same("nothing to delete", func() *storev1.Command { return as(2, 1, 0, 0, writeCommand(deleteOp("none"))) })

	both := m.commit(as(3, 1, 0, 0, putCommand("c", "1")), as(3, 1, 0, 0, putCommand("c", "1")))
	if diff := cmp.Diff(both[0], both[1], protocmp.Transform()); diff != "" {
		t.Errorf("twice in one entry:\n%s", diff)
	}
	if r, err := viewOf(t, m.store).Get(testShard, "a"); err != nil || string(r.GetValue()) != "other" {
		t.Errorf("a retry overwrote a later value: %v, %v", r, err)
	}
}

// A client that was silent for the longest is forgotten whole. Its requests are refused from then on, and so are those of other clients that nobody
// knows, unless they have seen that.
func TestForgottenRequestsAreRefused(t *testing.T) {
	o := testOptions(newDisk())
	o.DedupResults = 4
	m := newServing(t, o)
	write := func(client byte, sequence, seen uint64) *storev1.WriteResult {
		return m.one(as(client, sequence, seen, 0, putCommand("k", "v")))
	}
	for i := uint64(1); i <= 3; i++ {
		write(1, i, i-1) // revisions 1 to 3
	}
	write(2, 1, 3) // 4
	if r := write(1, 2, 1); r.Outcome != applied || r.Revision != 2 {
		t.Fatalf("a retry: %v", r)
	}
	if r := write(3, 1, 0); r.Outcome != applied { // 5: nobody was forgotten before
		t.Fatalf("a new client: %v", r)
	}
	// Client 1 is forgotten; its last answer was revision 3, so an attempt that has seen 4 is not one of its.
	for i := uint64(1); i <= 3; i++ {
		r := write(1, i, i-1)
		if want := (&storev1.WriteResult{Outcome: expired, Revision: 5, SessionFloor: 4}); !cmp.Equal(want, r, protocmp.Transform()) {
			t.Errorf("retry of %d: %v", i, r)
		}
	}
	if r := write(2, 1, 3); r.Outcome != applied || r.Revision != 4 {
		t.Errorf("a retry of a client that is known: %v", r)
	}
	if r := write(2, 2, 0); r.Outcome != applied || r.Revision != 6 {
		t.Errorf("a client that is known need not have seen anything: %v", r)
	}
	if r := write(9, 1, 3); r.Outcome != expired {
		t.Errorf("a client that nobody knows and that has seen too little: %v", r)
	}
	if r := write(9, 1, 4); r.Outcome != applied || r.Revision != 7 {
		t.Errorf("… and enough: %v", r)
	}
}

// A client that was forgotten and is heard of again does not bring back what it has asked for before.
func TestForgottenAndHeardOfAgain(t *testing.T) {
	o := testOptions(newDisk())
	o.DedupResults = 2
	m := newServing(t, o)
	write := func(client byte, sequence, seen uint64) *storev1.WriteResult {
		return m.one(as(client, sequence, seen, 0, putCommand("k", "v")))
	}
	reopen := func() {
		if err := m.store.Close(); err != nil {
			t.Fatal(err)
		}
		m = newMachine(t, openStore(t, o), testShard)
	}
	write(1, 5, 0) // revision 1, and its answer is lost
	write(2, 1, 1)
	write(3, 1, 2) // client 1 is forgotten
	if r := write(1, 6, 3); r.Outcome != applied || r.Revision != 4 {
		t.Fatalf("a first attempt: %v", r)
	}
	for range 2 {
		if r := write(1, 5, 0); r.Outcome != expired || r.SessionFloor != 2 {
			t.Errorf("a retry from before: %v", r)
		}
		reopen()
	}
	if r := write(1, 7, 2); r.Outcome != applied {
		t.Errorf("an attempt that has seen enough: %v", r)
	}
}

// What a client has acknowledged is forgotten but for its newest result, and refused. Nobody else loses anything by that.
func TestAcknowledgedResultsAreForgotten(t *testing.T) {
	m := newServing(t, testOptions(newDisk()))
	m.one(as(2, 1, 0, 0, putCommand("slow", "v")))
	for i := uint64(1); i <= 40; i++ {
		m.one(as(1, i, i, i, putCommand("fast", "v")))
	}
	if r := m.one(as(2, 1, 0, 0, putCommand("slow", "v"))); r.Outcome != applied || r.Revision != 1 {
		t.Errorf("the result of a slow client went with those that another acknowledged: %v", r)
	}
	if n := m.shard.dedup.len(); n != 2 {
		t.Errorf("%d results are kept", n)
	}
	for _, sequence := range []uint64{1, 39} {
		r := m.one(as(1, sequence, sequence, 0, putCommand("fast", "late")))
		if want := (&storev1.WriteResult{Outcome: expired, Revision: 41}); !cmp.Equal(want, r, protocmp.Transform()) {
			t.Errorf("a duplicate of %d that comes late: %v", sequence, r)
		}
	}
	if r := m.one(as(1, 40, 40, 40, putCommand("fast", "late"))); r.Outcome != applied || r.Revision != 41 {
		t.Errorf("a retry of the last: %v", r)
	}
	if r := m.one(as(1, 50, 0, 45, putCommand("fast", "v"))); r.Outcome != applied {
		t.Errorf("a first attempt: %v", r)
	}
	if r := m.one(as(1, 44, 0, 45, putCommand("fast", "v"))); r.Outcome != expired {
		t.Errorf("a sequence below what is acknowledged, though it never came: %v", r)
	}
	if r := m.one(as(1, 46, 0, 45, putCommand("fast", "v"))); r.Outcome != applied {
		t.Errorf("one that comes behind a later one: %v", r)
	}
}

// A client that acknowledges nothing gets no more answers than a session may have, until it does.
func TestFullSession(t *testing.T) {
	o := testOptions(newDisk())
	o.SessionResults = 3
	m := newServing(t, o)
	for i := uint64(1); i <= 3; i++ {
		m.one(as(1, i, 0, 0, putCommand("k", "v")))
	}
	r := m.one(as(1, 4, 0, 0, putCommand("k", "v")))
	if want := (&storev1.WriteResult{Outcome: sessionFull, Revision: 3}); !cmp.Equal(want, r, protocmp.Transform()) {
		t.Errorf("more than a session has: %v", r)
	}
	if r := m.one(as(1, 3, 0, 0, putCommand("k", "v"))); r.Outcome != applied || r.Revision != 3 {
		t.Errorf("a retry: %v", r)
	}
	if r := m.one(as(2, 1, 0, 0, putCommand("k", "v"))); r.Outcome != applied {
		t.Errorf("another client: %v", r)
	}
	if r := m.one(as(1, 4, 0, 2, putCommand("k", "v"))); r.Outcome != applied || r.Revision != 5 {
		t.Errorf("with an acknowledgement: %v", r)
	}
}

func TestRefusedEntries(t *testing.T) {
	bad := func(c *storev1.Command) *storev1.Entry { return entry(putCommand("good", "1"), c) }
	cases := map[string]*storev1.Entry{
		"no command":          bad(nil),
		"no body":             bad(&storev1.Command{}),
		"opaque":              bad(&storev1.Command{Body: &storev1.Command_Opaque{Opaque: []byte("x")}}),
		"nil write":           bad(&storev1.Command{Body: &storev1.Command_Write{}}),
		"empty write":         bad(writeCommand()),
		"nil trim":            bad(&storev1.Command{Body: &storev1.Command_TrimHistory{}}),
		"empty key":           bad(putCommand("", "1")),
		"not UTF-8":           bad(putCommand("\xff", "1")),
		"no kind":             bad(writeCommand(&storev1.Operation{Key: "a"})),
		"nil operation":       bad(writeCommand(nil)),
		"a key twice":         bad(writeCommand(putOp("a", "1"), deleteOp("a"))),
		"a key twice of many": bad(writeCommand(putOp("a", ""), putOp("b", ""), putOp("c", ""), putOp("d", ""), putOp("e", ""), putOp("f", ""), putOp("g", ""), putOp("h", ""), putOp("a", ""))),
		"a get with a value":  bad(writeCommand(&storev1.Operation{Kind: get, Key: "a", Value: []byte("1")})),
		"otherwise of what":   bad(otherwise(putCommand("a", "1"), putOp("b", "1"))),
		"otherwise no key":    bad(otherwise(compares(putCommand("a", "1"), exists("a", true)), putOp("", "1"))),
		"otherwise twice":     bad(otherwise(compares(putCommand("a", "1"), exists("a", true)), putOp("b", "1"), getOp("b"))),
		"no condition":        bad(compares(putCommand("a", "1"), &storev1.Compare{Key: "a"})),
		"compare of no key":   bad(compares(putCommand("a", "1"), exists("", true))),
		"short client id":     bad(&storev1.Command{RequestId: &storev1.RequestId{ClientId: []byte("x"), Sequence: 1}, Body: putCommand("a", "1").Body}),
		"sequence 0":          bad(as(1, 0, 0, 0, putCommand("a", "1"))),
		"no table":            bad(&storev1.Command{Body: &storev1.Command_Bootstrap{Bootstrap: &storev1.Bootstrap{}}}),
		"slots out of range":  bad(&storev1.Command{Body: &storev1.Command_Bootstrap{Bootstrap: &storev1.Bootstrap{Slots: slotTable(0, placement.SlotCount, 1)}}}),
		"unknown slot state":  bad(&storev1.Command{Body: &storev1.Command_Bootstrap{Bootstrap: &storev1.Bootstrap{Slots: slotTable(0, 1, 9)}}}),
	}
	m := newServing(t, Options{})
	before := exportOf(t, m.store, testShard)
	for name, e := range cases {
		if _, err := m.shard.Apply(m.batch, 2, 1, e); !errors.Is(err, ErrInvalidEntry) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var version *VersionError
	if _, err := m.shard.Apply(m.batch, 2, 1, &storev1.Entry{CommandVersion: CommandVersion + 1}); !errors.As(err, &version) || version.Need != CommandVersion+1 {
		t.Errorf("newer version: %v", err)
	}
	for _, index := range []uint64{0, 1, 3} {
		if _, err := m.shard.Apply(m.batch, index, 1, entry()); !errors.Is(err, ErrOutOfOrder) {
			t.Errorf("index %d after 1: %v", index, err)
		}
	}
	if err := m.batch.Commit(); err != nil {
		t.Fatal(err)
	}
	if !cmp.Equal(before, exportOf(t, m.store, testShard)) {
		t.Error("a refused entry changed the state")
	}
	m.commit(putCommand("good", "1"))
}

func TestOneBatchAtATime(t *testing.T) {
	m := newServing(t, Options{})
	m.apply(putCommand("a", "1"))
	if err := m.shard.ApplyEmpty(m.store.NewBatch(), 3, 1); !errors.Is(err, ErrBatchOpen) {
		t.Error(err)
	}
	if got := m.shard.Position(); got.Index != 1 || got.Revision != 0 {
		t.Errorf("uncommitted changes show: %+v", got)
	}
	if err := m.batch.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := m.shard.Position(); got.Index != 2 || got.Revision != 1 || got.Keys != 1 {
		t.Errorf("committed changes do not show: %+v", got)
	}
}

func TestClockConfigurationAndEmptyEntries(t *testing.T) {
	m := newServing(t, Options{})
	for _, clock := range []uint64{10, 30, 20} {
		if _, err := m.shard.Apply(m.batch, m.shard.meta.AppliedIndex+1, 2, &storev1.Entry{CommandVersion: 1, ClockMs: clock}); err != nil {
			t.Fatal(err)
		}
	}
	c := &storev1.Configuration{Index: 5, Voters: []uint64{1, 2}, Replicas: []*storev1.Replica{{Id: 1, NodeId: "a", Incarnation: 9}}}
	if err := m.shard.ApplyConfiguration(m.batch, 5, 3, c); err != nil {
		t.Fatal(err)
	}
	if err := m.shard.ApplyEmpty(m.batch, 6, 4); err != nil {
		t.Fatal(err)
	}
	if m.shard.Configuration() != nil {
		t.Error("an uncommitted configuration shows")
	}
	if err := m.batch.Commit(); err != nil {
		t.Fatal(err)
	}
	if got, want := m.shard.Position(), (Position{Index: 6, Term: 4, ClockMs: 30, HistoryFloor: 1}); got != want {
		t.Errorf("position %+v, want %+v", got, want)
	}
	stored, err := viewOf(t, m.store).Configuration(testShard)
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []*storev1.Configuration{m.shard.Configuration(), stored} {
		if diff := cmp.Diff(c, got, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
	}
}
