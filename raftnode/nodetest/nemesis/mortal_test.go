package main

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	raftkvv1 "github.com/raftkv/raftkv/gen/go/raftkv/v1"
	"github.com/raftkv/raftkv/raftnode/nodetest"
)

func newMortals() *mortals {
	return &mortals{load: &load{rec: newRecorder()}, life: &nodetest.Lifetimes{}}
}

// at sets the time of the history.
func (m *mortals) at(now time.Duration) { m.load.rec.began = time.Now().Add(-now) }

// A key or a lease that ends before its time, or comes back, does not pass. Its time counts from when its put, or the last thing that kept its lease, was sent.
func TestMortalsEndInTime(t *testing.T) {
	const s = time.Second
	for name, test := range map[string]struct {
		see   func(m *mortals, k *nodetest.KeyLife)
		lease *nodetest.LeaseLife
		clean bool
	}{
		"gone in time": {see: func(m *mortals, k *nodetest.KeyLife) { m.at(13 * s); m.looked(k, 12*s, false) }, clean: true},
		"gone early":   {see: func(m *mortals, k *nodetest.KeyLife) { m.at(11 * s); m.looked(k, 11*s-1, false) }},
		"there and gone": {see: func(m *mortals, k *nodetest.KeyLife) {
			m.at(11 * s)
			m.looked(k, 11*s-1, true)
			m.at(14 * s)
			m.looked(k, 13*s, false)
		}, clean: true},
		"back in a scan at the end": {see: func(m *mortals, k *nodetest.KeyLife) {
			m.at(14 * s)
			m.looked(k, 13*s, false)
			m.at(20 * s)
			m.still(19*s, []*raftkvv1.KeyValue{{Key: k.Name}})
		}},
		"a key that nobody has put": {see: func(m *mortals, _ *nodetest.KeyLife) { m.still(19*s, []*raftkvv1.KeyValue{{Key: "mortal-77"}}) }},
		"gone with its lease": {
			lease: &nodetest.LeaseLife{ID: 7, TTL: 2 * s, Kept: []time.Duration{9 * s, 12 * s}},
			see:   func(m *mortals, k *nodetest.KeyLife) { m.at(15 * s); m.looked(k, 14*s, false) }, clean: true,
		},
		"gone though its lease was kept": {
			lease: &nodetest.LeaseLife{ID: 7, TTL: 2 * s, Kept: []time.Duration{9 * s, 12 * s}},
			see:   func(m *mortals, k *nodetest.KeyLife) { m.at(13 * s); m.looked(k, 12*s, false) },
		},
		"a lease said to have ended": {
			lease: &nodetest.LeaseLife{ID: 7, TTL: 2 * s, Kept: []time.Duration{9 * s}},
			see:   func(m *mortals, k *nodetest.KeyLife) { m.at(12 * s); m.gone(k.Lease, &failure{leaseGone: true}) }, clean: true,
		},
		"a lease said to have ended early": {
			lease: &nodetest.LeaseLife{ID: 7, TTL: 2 * s, Kept: []time.Duration{9 * s}},
			see:   func(m *mortals, k *nodetest.KeyLife) { m.at(10 * s); m.gone(k.Lease, &failure{leaseGone: true}) },
		},
		"another error about a lease": {
			lease: &nodetest.LeaseLife{ID: 7, TTL: 2 * s, Kept: []time.Duration{9 * s}},
			see:   func(m *mortals, k *nodetest.KeyLife) { m.at(10 * s); m.gone(k.Lease, &failure{}) }, clean: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMortals()
			k := &nodetest.KeyLife{Name: "mortal-0", Called: 10 * s, Put: 10*s + 1, TTL: 2 * s, Lease: test.lease}
			m.life.Keys = append(m.life.Keys, k)
			if test.lease != nil {
				m.life.Leases = append(m.life.Leases, test.lease)
			}
			test.see(m, k)
			if err := m.check(); (err == nil && len(m.load.rec.broken()) == 0) != test.clean {
				t.Errorf("%v, %v", err, m.load.rec.broken())
			}
		})
	}
}

// What an answer shows of a life that it should not does not pass.
func TestWrongLives(t *testing.T) {
	lease := &nodetest.LeaseLife{ID: 7, TTL: time.Second}
	timed, leased := &nodetest.KeyLife{Name: "a", TTL: time.Second}, &nodetest.KeyLife{Name: "b", Lease: lease}
	for name, test := range map[string]struct {
		k     *nodetest.KeyLife
		kv    *raftkvv1.KeyValue
		clean bool
	}{
		"for a time":                {timed, &raftkvv1.KeyValue{Value: mortalValue, TtlRemainingMs: 1000}, true},
		"on a lease":                {leased, &raftkvv1.KeyValue{Value: mortalValue, LeaseId: 7}, true},
		"for ever":                  {timed, &raftkvv1.KeyValue{Value: mortalValue}, false},
		"for longer than it was to": {timed, &raftkvv1.KeyValue{Value: mortalValue, TtlRemainingMs: 1001}, false},
		"another value":             {timed, &raftkvv1.KeyValue{Value: []byte("n"), TtlRemainingMs: 1000}, false},
		"without its lease":         {leased, &raftkvv1.KeyValue{Value: mortalValue}, false},
		"on another lease":          {leased, &raftkvv1.KeyValue{Value: mortalValue, LeaseId: 8}, false},
		"on a lease and for a time": {leased, &raftkvv1.KeyValue{Value: mortalValue, LeaseId: 7, TtlRemainingMs: 5}, false},
	} {
		if err := livesRight(test.k, test.kv); (err == nil) != test.clean {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, test := range map[string]struct {
		lease *raftkvv1.Lease
		clean bool
	}{
		"right":             {&raftkvv1.Lease{Id: 7, TtlMs: 1000, RemainingMs: 900}, true},
		"another":           {&raftkvv1.Lease{Id: 8, TtlMs: 1000, RemainingMs: 900}, false},
		"longer":            {&raftkvv1.Lease{Id: 7, TtlMs: 2000, RemainingMs: 900}, false},
		"lives too long":    {&raftkvv1.Lease{Id: 7, TtlMs: 1000, RemainingMs: 1001}, false},
		"has ended":         {&raftkvv1.Lease{Id: 7, TtlMs: 1000}, false},
		"there is no lease": {nil, false},
	} {
		if err := leaseRight(test.lease, 7, time.Second); (err == nil) != test.clean {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A request is sent again until it is known what came of it; that a lease is gone is known whatever came before.
func TestSure(t *testing.T) {
	unknown, definite, gone := &failure{err: context.Canceled}, &failure{err: context.Canceled, definite: true}, &failure{err: context.Canceled, leaseGone: true, definite: true}
	for name, test := range map[string]struct {
		answers  []*failure
		want     *failure
		doubtful bool
	}{
		"at once":                      {[]*failure{nil}, nil, false},
		"after a retry":                {[]*failure{unknown, nil}, nil, true},
		"refused":                      {[]*failure{definite, nil}, definite, false},
		"refused when it was in doubt": {[]*failure{unknown, definite, nil}, nil, true},
		"the lease is gone":            {[]*failure{unknown, gone, nil}, gone, true},
	} {
		m, sent := newMortals(), 0
		c := &client{load: m.load, random: rand.New(rand.NewPCG(1, 1))} //nolint:gosec // not secret
		_, f, doubtful := m.sure(c, func(int) (*result, *failure) { sent++; return nil, test.answers[sent-1] })
		if f != test.want || doubtful != test.doubtful {
			t.Errorf("%s: %+v, in doubt %t, after %d attempts", name, f, doubtful, sent)
		}
	}
}

// The three forms of a put say the same.
func TestMortalCall(t *testing.T) {
	timed := &nodetest.KeyLife{Name: "a", TTL: 1500 * time.Millisecond}
	leased := &nodetest.KeyLife{Name: "a", TTL: time.Hour, Lease: &nodetest.LeaseLife{ID: 7}}
	for form := range 3 {
		for _, k := range []*nodetest.KeyLife{timed, leased} {
			var ttl, lease uint64
			switch ask := mortalCall(k, form, &raftkvv1.RequestId{Sequence: 3}); {
			case ask.put != nil:
				ttl, lease = ask.put.GetTtlMs(), ask.put.GetLeaseId()
			case ask.batch != nil:
				put := ask.batch.GetOperations()[0].GetPut()
				ttl, lease = put.GetTtlMs(), put.GetLeaseId()
			default:
				put := ask.txn.GetThen()[0].GetPut()
				ttl, lease = put.GetTtlMs(), put.GetLeaseId()
			}
			if want := map[*nodetest.KeyLife][2]uint64{timed: {1500, 0}, leased: {0, 7}}[k]; want != [2]uint64{ttl, lease} {
				t.Errorf("form %d: for %d ms, on lease %d", form, ttl, lease)
			}
		}
	}
}
