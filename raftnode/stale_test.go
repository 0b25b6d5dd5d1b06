package raftnode

import (
	"errors"
	"testing"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

func TestFreshEnough(t *testing.T) {
	for _, c := range []struct {
		bound uint64
		age   time.Duration
		known bool
		want  bool
	}{
		{0, 0, false, true},
		{0, time.Hour, true, true},
		{100, 0, false, false}, // after a restart nothing is known
		{100, 100 * time.Millisecond, true, true},
		{100, 100*time.Millisecond + 1, true, false},
	} {
		if got := freshEnough(&peerv1.Stale{MaxMs: c.bound}, c.age, c.known); got != c.want {
			t.Errorf("a state of age %s (known %t) within %d ms: %t", c.age, c.known, c.bound, got)
		}
	}
	var f freshness
	if _, known := f.age(time.Hour); known {
		t.Error("a replica that has seen no round knows its age")
	}
	f.confirm(0)
	if age, known := f.age(time.Second); !known || age != time.Second {
		t.Errorf("a round that began with the node: %s, %t", age, known)
	}
}

// A node alone serves stale reads from what it has, and asks for a round when that is too old or lacks something.
func TestStaleReads(t *testing.T) {
	n := alone(t, nil)
	if res := n.Do(t.Context(), putOf("a", 1)); res.Err != nil {
		t.Fatal(res.Err)
	}
	read := func(s *peerv1.Stale) Result {
		t.Helper()
		return n.Do(t.Context(), &Request{AutoShard: true, Read: &peerv1.ReadRequest{Keys: []string{"a"}, Stale: s}})
	}
	rounds := func() uint64 { return n.Metrics().ReadRounds }
	n.member(DataShard).fresh.began.Store(0)
	first := rounds()
	if res := read(&peerv1.Stale{MaxMs: 60_000}); res.Err != nil || res.Origin.GetFreshnessMs() != 0 || rounds() != first+1 {
		t.Fatalf("without a round before it: %v, %v, %d rounds", res.Err, res.Origin, rounds()-first)
	}
	res := read(&peerv1.Stale{MaxMs: 60_000})
	if res.Err != nil || res.Origin.GetFreshnessMs() == 0 || res.Origin.GetFreshnessUnknown() || rounds() != first+1 {
		t.Fatalf("within the bound: %v, %v, %d rounds", res.Err, res.Origin, rounds()-first)
	}
	at := res.Origin.GetRevision()
	if res := read(&peerv1.Stale{Revisions: map[uint32]uint64{uint32(DataShard): at}}); res.Err != nil || rounds() != first+1 {
		t.Errorf("what the replica has: %v, %d rounds", res.Err, rounds()-first)
	}
	var future *FutureRevisionError
	res = read(&peerv1.Stale{Revisions: map[uint32]uint64{uint32(DataShard): at + 1}})
	if !errors.As(res.Err, &future) || future.Current != at || rounds() != first+2 {
		t.Errorf("what nobody has: %v, %d rounds", res.Err, rounds()-first)
	}
	if res := read(&peerv1.Stale{Revisions: map[uint32]uint64{77: at + 1}}); res.Err != nil {
		t.Errorf("what another shard must have: %v", res.Err)
	}
}

// Who answers without a vote says so.
func TestALearnerSaysSo(t *testing.T) {
	n := alone(t, nil)
	read := func() *peerv1.Origin {
		t.Helper()
		res := n.Do(t.Context(), &Request{Shard: DataShard, Read: &peerv1.ReadRequest{Keys: []string{"a"}, Stale: &peerv1.Stale{}}})
		if res.Err != nil {
			t.Fatal(res.Err)
		}
		return res.Origin
	}
	m := n.member(DataShard)
	lead, membership := m.lead.Load(), m.membership.Load()
	defer func() { m.lead.Store(lead); m.membership.Store(membership) }()
	m.membership.Store(&storev1.Configuration{Voters: []uint64{77}, Learners: []uint64{m.replica.ID()}, Replicas: membership.GetReplicas()})
	if o := read(); !o.GetLeader() || o.GetLearner() {
		t.Errorf("a leader: %v", o)
	}
	m.lead.Store(&leadership{node: "elsewhere", id: 77, term: lead.term})
	if o := read(); o.GetLeader() || !o.GetLearner() {
		t.Errorf("a learner: %v", o)
	}
	m.membership.Store(membership)
	if o := read(); o.GetLeader() || o.GetLearner() {
		t.Errorf("a follower: %v", o)
	}
}

// What cannot be served is told why.
func TestTooStale(t *testing.T) {
	n := alone(t, nil)
	m := n.member(DataShard)
	inspect := func(look func(*member)) {
		done := make(chan struct{})
		m.worker.post(inspectEvent{m: m, look: func(m *member) { look(m); close(done) }})
		<-done
	}
	var got error
	inspect(func(m *member) { m.fresh.began.Store(0); got = n.tooStale(m, &peerv1.Stale{MaxMs: 5}) })
	var tooStale *TooStaleError
	if !errors.As(got, &tooStale) || tooStale.Bound != 5*time.Millisecond {
		t.Errorf("%v", got)
	}
	inspect(func(m *member) {
		m.fresh.confirm(n.uptime() - time.Minute)
		got = n.tooStale(m, &peerv1.Stale{MaxMs: 5})
	})
	if !errors.As(got, &tooStale) || tooStale.Age < time.Minute || tooStale.RetryAfter != n.options.HeartbeatInterval {
		t.Errorf("%v, again after %s", got, tooStale.RetryAfter)
	}
	lead := m.lead.Load()
	inspect(func(m *member) {
		m.lead.Store(&leadership{term: lead.term})
		got = n.tooStale(m, &peerv1.Stale{MaxMs: 5})
		m.lead.Store(lead)
	})
	if !errors.As(got, &tooStale) || tooStale.RetryAfter != n.options.ElectionTimeout {
		t.Errorf("without a leader: %v, again after %s", got, tooStale.RetryAfter)
	}
	inspect(func(m *member) { got = n.tooStale(m, &peerv1.Stale{Revisions: map[uint32]uint64{1: 1}}) })
	if !errors.As(got, &tooStale) || tooStale.Bound != 0 || tooStale.Age != 0 {
		t.Errorf("%v", got)
	}
}

// blank is the engine of a node whose replica has nothing yet.
type blank struct{ engine }

func (blank) view() engineView { return blankView{} }

type blankView struct{}

func (blankView) read(shard placement.ShardID, _ *peerv1.ReadRequest) (*peerv1.ReadResult, position, error) {
	return &peerv1.ReadResult{}, position{}, &StaleRouteError{Shard: shard, Slot: 7}
}

func (blankView) close() error { return nil }

// A replica that has nothing yet asks a majority, whatever may be old: that it knows no slots says nothing of the shard.
func TestStaleReadsOfABlankReplica(t *testing.T) {
	n := &Node{engine: blank{}, runtime: &later{}}
	w := &worker{n: n, wake: func() {}}
	var answer error
	read := func(confirmed bool) {
		r := &Request{Read: &peerv1.ReadRequest{Keys: []string{"a"}, Stale: &peerv1.Stale{}}, Done: func(res Result) { answer = res.Err }}
		(&readerPool{n: n}).serve(readJob{m: &member{shard: DataShard, worker: w}, requests: []*Request{r}, confirmed: confirmed})
	}
	read(false)
	if _, joins := w.inbox.events[0].(joinEvent); !joins || answer != nil {
		t.Errorf("answered %v", answer)
	}
	var route *StaleRouteError
	if read(true); !errors.As(answer, &route) {
		t.Errorf("behind a round: %v", answer)
	}
}

// Rounds whose reads have given up do not gather while the applier stands still; the last one stays, because it tells how fresh the replica will be.
func TestConfirmedRoundsWithoutReadsGo(t *testing.T) {
	m, w := &member{}, &worker{n: &Node{}}
	for i := range 10 {
		r := &Request{Deadline: time.Unix(1, 0), Done: func(Result) {}}
		m.confirmed = append(m.confirmed, confirmedReads{index: uint64(i), began: time.Duration(i), requests: []*Request{r}})
		m.confirmedCount++
		w.expire(m, time.Unix(2, 0))
	}
	if len(m.confirmed) != 1 || m.confirmed[0].began != 9 || m.confirmedCount != 0 {
		t.Errorf("%d rounds wait, %d reads", len(m.confirmed), m.confirmedCount)
	}
}
