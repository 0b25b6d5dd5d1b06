package raftnode

import (
	"reflect"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/goleak"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
)

// The shard clock goes on from where the state is and never back (R19).
func TestShardClock(t *testing.T) {
	var c shardClock
	start := time.Unix(1000, 0)
	c.start(500, start)
	if got := c.nowMs(start.Add(30 * time.Millisecond)); got != 530 {
		t.Errorf("30 ms on: %d, want 530", got)
	}
	if got := c.nowMs(start.Add(-time.Hour)); got != 500 {
		t.Errorf("an hour back: %d, want 500", got)
	}
}

// A leader's clock does not believe its node's in one step: a jump makes expiry two ticks early at the most (R19).
func TestShardClockThatJumps(t *testing.T) {
	var c shardClock
	at := time.Unix(1000, 0)
	const tick = 100 * time.Millisecond
	c.tick(at, tick)
	c.start(0, at)
	for _, s := range []struct {
		passes time.Duration
		want   uint64
	}{{tick, 100}, {tick + 30*time.Millisecond, 230}, {tick - 30*time.Millisecond, 300}, {time.Hour, 500}, {-time.Hour, 500}, {tick, 600}} {
		at = at.Add(s.passes)
		if got := c.nowMs(at); got != s.want {
			t.Errorf("%s on: %d, want %d", s.passes, got, s.want)
		}
		c.tick(at, tick)
		if got := c.nowMs(at); got != s.want {
			t.Errorf("%s on, after the tick: %d, want %d", s.passes, got, s.want)
		}
	}
}

// Half of the time that a leader leads is never lost, however short that is: a long time to live ends whoever leads (R19).
func TestAnyLeaderCarriesTheClockOn(t *testing.T) {
	const tick = 100 * time.Millisecond
	var e expiry
	began := time.Unix(1000, 0)
	e.start(began)
	entries := 0
	for now := began; now.Sub(began) < time.Hour; now = now.Add(tick) {
		if e.quiet(now, tick) {
			e.carried = now
			entries++
		}
		age := now.Sub(began)
		if lost := now.Sub(e.carried); lost > max(age/2, tick) || lost > clockQuietMax {
			t.Fatalf("%s of %s are lost", lost, age)
		}
	}
	if most := int(time.Hour/clockQuietMax) + 10; entries > most {
		t.Errorf("%d entries in an hour, want at most %d", entries, most)
	}
}

// A proposal is answered under its index and its term, and an expired one leaves its place in the entry.
func TestProposals(t *testing.T) {
	var p proposals
	now := time.Unix(1000, 0)
	early, late := &Request{Deadline: now}, &Request{Deadline: now.Add(time.Hour)}
	p.add(proposal{index: 5, term: 2, requests: []*Request{early, late}, began: now})
	p.add(proposal{index: 6, term: 2, requests: []*Request{late}, began: now})
	p.add(proposal{index: 6, term: 3, requests: []*Request{late}, began: now.Add(time.Second)})
	var took []time.Duration
	observe := func(d time.Duration) { took = append(took, d) }
	entry := func(index, term uint64) *raftpb.Entry { return &raftpb.Entry{Index: &index, Term: &term} }
	p.committed([]*raftpb.Entry{entry(4, 1), entry(5, 2)}, now.Add(3*time.Second), observe)
	p.committed([]*raftpb.Entry{entry(5, 2), entry(6, 3)}, now.Add(3*time.Second), observe) // 5 again, and 6 with another entry than was proposed first
	if len(took) != 2 || took[0] != 3*time.Second || took[1] != 2*time.Second {
		t.Errorf("commits took %v", took)
	}
	if got := p.expire(now.Add(time.Second)); len(got) != 1 || got[0] != early {
		t.Fatalf("expired %v", got)
	}
	got := p.take(5)
	if len(got) != 1 || got[0].requests[0] != nil || got[0].requests[1] != late {
		t.Fatalf("taken %+v", got)
	}
	if got := p.take(10); len(got) != 2 || got[0].term != 2 || got[1].term != 3 {
		t.Fatalf("taken %+v", got)
	}
	if got := p.take(10); len(got) != 0 {
		t.Fatalf("taken twice: %+v", got)
	}
}

// Errors keep their kind and their facts on the way between nodes.
func TestErrorsBetweenNodes(t *testing.T) {
	for _, err := range []error{
		&NotLeaderError{Shard: 3, Leader: "n2"},
		&NoReplicaError{Shard: 3},
		&OverloadedError{Field: "queue", Limit: 5, Actual: 6, RetryAfter: overloadRetry}, &OverloadedError{RetryAfter: keysFullRetry},
		&TooStaleError{Shard: 3, Age: time.Second, Bound: time.Millisecond}, &TooStaleError{Shard: 3},
		&LimitError{Field: "value", Limit: 1, Actual: 2},
		&UnknownOutcomeError{Shard: 3, Cause: "because"},
		&StaleRouteError{Shard: 3, Slot: 4000},
		&SessionExpiredError{Shard: 3, Floor: 7, Revision: 9},
		&InvalidError{Field: "key", Problem: "is bad"},
		&LeaseNotFoundError{ID: 7}, &LeaseExistsError{ID: 7}, &FencedError{Shard: 3}, &IdempotencyKeyReusedError{Shard: 3, Key: "k"},
		ErrStopped, ErrTimeout,
	} {
		if got := errorOf(3, failureOf(err)); got.Error() != err.Error() {
			t.Errorf("%T: %q became %T: %q", err, err, got, got)
		}
	}
	tooStale := &TooStaleError{Shard: 3, Bound: time.Second, RetryAfter: 100 * time.Millisecond}
	if got := errorOf(3, failureOf(tooStale)); !reflect.DeepEqual(got, tooStale) {
		t.Errorf("%#v became %#v", tooStale, got)
	}
}

// On a full disk what has expired goes, and no lease is granted.
func TestExpiryDoesNotGrow(t *testing.T) {
	lease := func(c *storev1.LeaseCommand) *storev1.Command {
		return &storev1.Command{Body: &storev1.Command_Lease{Lease: c}}
	}
	for c, want := range map[*storev1.Command]bool{
		{Body: &storev1.Command_Expire{Expire: &storev1.Expire{MaxKeys: 1}}}:                                                false,
		lease(&storev1.LeaseCommand{Id: 1, Action: &storev1.LeaseCommand_Grant{Grant: &storev1.LeaseGrant{TtlMs: 1}}}):      true,
		lease(&storev1.LeaseCommand{Id: 1, Action: &storev1.LeaseCommand_KeepAlive{KeepAlive: &storev1.LeaseKeepAlive{}}}):  false,
		{Body: &storev1.Command_Fence{Fence: &storev1.Fence{}}, RequestId: &storev1.RequestId{}}:                            false,
		{Body: &storev1.Command_Write{Write: &storev1.Write{}}, Idempotency: &storev1.Idempotency{}}:                        true,
		lease(&storev1.LeaseCommand{Id: 1, Action: &storev1.LeaseCommand_Revoke{Revoke: &storev1.LeaseRevoke{MaxKeys: 1}}}): false,
	} {
		if got := grows(c); got != want {
			t.Errorf("%v: %t", c, got)
		}
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Members flush at different moments, and none has larger memtables than the options say.
func TestMemTablesDiffer(t *testing.T) {
	o := Options{MemTableBytes: 16 << 20, Members: []Member{{ID: "c"}, {ID: "a"}, {ID: "b"}}}
	sizes := make(map[int64]bool)
	for _, m := range o.Members {
		o.NodeID = m.ID
		size := o.memTableBytes()
		if size > o.MemTableBytes || size < o.MemTableBytes*5/8 {
			t.Errorf("%s has memtables of %d bytes", m.ID, size)
		}
		sizes[size] = true
	}
	if len(sizes) != len(o.Members) {
		t.Errorf("%d members, %d sizes", len(o.Members), len(sizes))
	}
}
