package raftkv

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
)

// clock is a clock that the test turns.
type clock struct{ time time.Duration }

func (c *clock) now() time.Duration { return c.time }

func (c *clock) pass(d time.Duration) { c.time += d }

// An endpoint that fails is passed over, and after a while asked by one call; what that brings decides about the others.
func TestEjection(t *testing.T) {
	c := &clock{}
	h := &health{now: c.now}
	if !h.admits() {
		t.Fatal("a fresh endpoint is passed over")
	}
	for i := range 12 {
		if !h.failed(true) {
			t.Fatalf("failure %d did not eject", i)
		}
		longest := min(ejectMin<<i, ejectMax)
		if left := h.left(); left < longest/2 || left > longest {
			t.Fatalf("ejected for %s after %d failures, want %s to %s", left, i+1, longest/2, longest)
		}
		if h.admits() {
			t.Fatal("an ejected endpoint is asked")
		}
		if h.failed(true) {
			t.Fatal("what was under way ejects again")
		}
		if h.works(); h.admits() {
			t.Fatal("an answer from before the ejection ends it")
		}
		c.pass(longest)
		if !h.admits() {
			t.Fatal("nobody may probe")
		}
		if h.admits() {
			t.Fatal("two calls probe")
		}
		if i%2 == 1 {
			continue // the probe fails
		}
		c.pass(probeTime)
		if !h.admits() {
			t.Fatal("a probe that tells nothing is the last one")
		}
	}
	h.works()
	for range 2 {
		if !h.admits() || h.left() != 0 || h.suspect.Load() {
			t.Fatal("an answered probe does not end the ejection")
		}
	}
	if h.failed(true); h.left() > ejectMin {
		t.Fatalf("ejected for %s after an answer", h.left())
	}
}

// Failures that may have another cause eject in a row only.
func TestStrikes(t *testing.T) {
	c := &clock{}
	h := &health{now: c.now}
	for range 10 {
		for range strikesMax - 1 {
			if h.failed(false) {
				t.Fatal("ejected too early")
			}
		}
		h.works()
	}
	for i := range strikesMax {
		if ejected := h.failed(false); ejected != (i == strikesMax-1) {
			t.Fatalf("strike %d: ejected %t", i, ejected)
		}
	}
	if h.admits() {
		t.Fatal("asked after three strikes")
	}
	c.pass(ejectMax)
	if h.admits(); !h.failed(false) {
		t.Fatal("a probe that fails does not eject at once")
	}
}

// There is always an endpoint to ask: the one whose time ends first if all are ejected.
func TestNeverAllEjected(t *testing.T) {
	c := &Client{epoch: time.Now(), options: options{connections: 1}}
	c.pool = newPool(&c.options, &connections{})
	c.http = c.pool[0]
	c.routes = newRoutes(c, []string{"a:1", "b:1", "c:1"})
	ring := *c.routes.ring.Load()
	ring[1].health.failed(true)
	for range 10 {
		if e := c.routes.any(nil); e == ring[1] {
			t.Fatal("an ejected endpoint is asked while there are others")
		}
		if e := c.routes.any(ring[0]); e != ring[2] {
			t.Fatalf("%s is asked", e.address)
		}
	}
	frozen := &clock{}
	for i, e := range ring {
		e.health = health{now: frozen.now}
		for range 3 - i { // the last one for the shortest time
			frozen.pass(ejectMax)
			e.health.failed(true)
		}
	}
	frozen.time = 0 // the probes are long over, the last ejection of each holds
	for _, e := range ring {
		e.health.till = min(e.health.till, ejectMax)
	}
	ring[2].health.till = ejectMin
	if e := c.routes.any(nil); e != ring[2] {
		t.Fatalf("%s is asked", e.address)
	}
	if e := c.routes.any(ring[2]); e == ring[2] {
		t.Fatal("the one that failed is asked again although there are others")
	}
	ring[2].health.works()
	if e := c.routes.any(nil); e != ring[2] {
		t.Fatal("the answer to a call that had to go somewhere does not count")
	}
}

// What a failed attempt says about the endpoint: an answer ends an ejection, whatever it says, but for one of a node that cannot serve.
func TestFailuresSpeakForOrAgainst(t *testing.T) {
	c := &Client{epoch: time.Now(), options: options{connections: 1}, stopped: context.Background()}
	c.pool = newPool(&c.options, &connections{})
	c.http = c.pool[0]
	c.routes = newRoutes(c, []string{"a:1", "b:1"})
	e := (*c.routes.ring.Load())[0]
	const (
		works   = "works"
		nothing = "nothing"
		strike  = "strike"
		eject   = "eject"
	)
	unavailable := func(reason string) *failure {
		return &failure{retry: true, err: fmt.Errorf("%w: %w", ErrUnavailable, &ServerError{Reason: reason})}
	}
	for want, failures := range map[string][]*failure{
		works: {
			{err: &KeyNotFoundError{}},
			{err: &PreconditionFailedError{}, decided: true},
			{err: &InvalidError{}},
			{err: &LimitError{}},
			{err: &NotLeaderError{}, retry: true},
			{err: &StaleRouteError{}, retry: true},
			{err: &OverloadedError{}, retry: true},
		},
		nothing: {
			notSent(errors.New("no connection")), // which the lane has noted
			brokenStream(errors.New("reset"), true), givenUp(context.Canceled, true), unavailable("TIMEOUT"),
			{err: ErrRefused},
			{err: errors.New("unknown to the node"), unknown: true, retry: true},
		},
		strike: {{err: &DiskFullError{}}, (&op{attempt: time.Second}).expired(true)},
		eject:  {unavailable(reasonStopping), unavailable(reasonForming), unavailable(reasonReadFailed)},
	} {
		for _, f := range failures {
			e.health = health{now: c.now}
			e.health.failed(false)
			_, _ = (&call{client: c}).failed(f, e)
			got := nothing
			switch {
			case e.health.ejected > 0:
				got = eject
			case e.health.strikes == 2:
				got = strike
			case e.health.strikes == 0:
				got = works
			}
			if got != want {
				t.Errorf("%v: %s, want %s", f.err, got, want)
			}
		}
	}
}

// What any replica may serve goes to those that the shard map names in turn, but for learners and the ejected; without one of them to where all goes.
func TestReplicasInTurn(t *testing.T) {
	c := &Client{epoch: time.Now(), options: options{connections: 1}}
	c.pool = newPool(&c.options, &connections{})
	c.http = c.pool[0]
	c.routes = newRoutes(c, []string{"a:1"})
	r := c.routes
	if e := r.replica(nil, nil); e == nil {
		t.Fatal("no endpoint for a shard that is unknown")
	}
	nodes := []*raftkvv1.Node{{Id: "a", ClientAddress: "a:1"}, {Id: "b", ClientAddress: "b:1"}, {Id: "c", ClientAddress: "c:1"}, {Id: "d", ClientAddress: "d:1"}}
	shards := &raftkvv1.ListShardsResponse{MapVersion: 1, Shards: []*raftkvv1.Shard{{Id: 1, LeaderNodeId: "a", Term: 1, Replicas: []*raftkvv1.Replica{
		{NodeId: "a", Role: raftkvv1.Role_ROLE_LEADER}, {NodeId: "b", Role: raftkvv1.Role_ROLE_FOLLOWER}, {NodeId: "c", Role: raftkvv1.Role_ROLE_LEARNER},
	}}}}
	r.install(shards, nodes, nil)
	s := r.shard(1)
	asked := func(not *endpoint) map[string]int {
		n := make(map[string]int)
		for range 10 {
			n[r.replica(s, not).address]++
		}
		return n
	}
	if n := asked(nil); n["a:1"] != 5 || n["b:1"] != 5 {
		t.Errorf("%v", n)
	}
	if n := asked(r.endpoints["a:1"]); n["b:1"] != 10 {
		t.Errorf("%v", n)
	}
	r.endpoints["b:1"].health.failed(true)
	if n := asked(nil); n["a:1"] != 10 {
		t.Errorf("%v", n)
	}
	r.install(&raftkvv1.ListShardsResponse{MapVersion: 2, Shards: []*raftkvv1.Shard{{Id: 1}}}, nodes, nil)
	if n := asked(nil); n["a:1"] != 10 {
		t.Errorf("a node that knows no replicas made the client forget them: %v", n)
	}
}

// That a replica is too old for a stale read says nothing of the others: only when all have said so the read waits.
func TestTooStaleGoesOnElsewhere(t *testing.T) {
	c := &Client{}
	c.stopped, c.stop = context.WithCancel(t.Context())
	defer c.stop()
	c.routes = newRoutes(c, []string{"a:1", "b:1", "c:1"})
	s := &shard{id: 1}
	var replicas []*endpoint
	for _, address := range []string{"a:1", "b:1", "c:1"} {
		replicas = append(replicas, c.routes.endpoints[address])
	}
	s.replicas.Store(&replicas)
	c.routes.shards[1] = s
	story := &call{client: c}
	for i := range 6 {
		f := &failure{retry: true, after: time.Second, err: &TooStaleError{Shard: 1}}
		wait, err := story.failed(f, replicas[i%3])
		if err != nil || (wait >= time.Second) != (i%3 == 2) {
			t.Errorf("attempt %d: waits %s, %v", i, wait, err)
		}
	}
}
