package nodetest

import (
	"testing"
	"time"
)

// TestCheckExpiry shows the checker lives that are right and ones that are not.
func TestCheckExpiry(t *testing.T) {
	look := func(at time.Duration, there bool) Look {
		return Look{Called: at - time.Millisecond, Answered: at, There: there}
	}
	const s = time.Second
	put := func(looks ...Look) *KeyLife {
		return &KeyLife{Name: "k", Called: 10 * s, Put: 11 * s, TTL: 5 * s, Looks: looks}
	}
	on := func(l *LeaseLife, looks ...Look) *KeyLife {
		return &KeyLife{Name: "k", Called: 10 * s, Put: 11 * s, Lease: l, Looks: looks}
	}
	kept := &LeaseLife{ID: 1, TTL: 5 * s, Kept: []time.Duration{9 * s, 12 * s}}
	revoked := &LeaseLife{ID: 1, TTL: 5 * s, Kept: []time.Duration{9 * s}, Revoked: 12 * s}
	for _, c := range []struct {
		name  string
		life  Lifetimes
		wrong bool
	}{
		{"in time", Lifetimes{Keys: []*KeyLife{put(look(14*s, true), look(15*s, false))}}, false},
		{"early", Lifetimes{Keys: []*KeyLife{put(look(15*s-1, false))}}, true},
		{"before it was put", Lifetimes{Keys: []*KeyLife{put(look(11*s, false))}}, false},
		{"late", Lifetimes{Keys: []*KeyLife{put(look(60*s, true))}}, false},
		{"back again", Lifetimes{Keys: []*KeyLife{put(look(16*s, false), look(17*s, true))}}, true},
		{"refused and there", Lifetimes{Keys: []*KeyLife{{Name: "k", Called: 10 * s, TTL: 5 * s, Refused: true, Looks: []Look{look(9*s, false), look(12*s, true)}}}}, true},
		{"refused and never there", Lifetimes{Keys: []*KeyLife{{Name: "k", Called: 10 * s, TTL: 5 * s, Refused: true, Looks: []Look{look(12*s, false)}}}}, false},
		{"early on a fast clock", Lifetimes{Skew: true, Keys: []*KeyLife{put(look(14800*time.Millisecond, false))}}, false},
		{"too early on a fast clock", Lifetimes{Skew: true, Keys: []*KeyLife{put(look(14700*time.Millisecond, false))}}, true},
		{"early by a jump", Lifetimes{Heartbeat: s / 10, Jumps: []time.Duration{12 * s}, Keys: []*KeyLife{put(look(14800*time.Millisecond, false))}}, false},
		{"early after a jump", Lifetimes{Heartbeat: s / 10, Jumps: []time.Duration{9 * s}, Keys: []*KeyLife{put(look(14800*time.Millisecond, false))}}, true},
		{"on a lease that was kept", Lifetimes{Keys: []*KeyLife{on(kept, look(17*s, false))}}, false},
		{"early on a lease that was kept", Lifetimes{Keys: []*KeyLife{on(kept, look(16*s, false))}}, true},
		{"on a lease that was revoked", Lifetimes{Keys: []*KeyLife{on(revoked, look(12*s, false))}}, false},
		{"before it was revoked", Lifetimes{Keys: []*KeyLife{on(revoked, look(12*s-1, false))}}, true},
		{"a lease that ends early", Lifetimes{Leases: []*LeaseLife{{TTL: 5 * s, Kept: []time.Duration{s}, Gone: []time.Duration{5 * s}}}}, true},
		{"a lease that ends", Lifetimes{Leases: []*LeaseLife{{TTL: 5 * s, Kept: []time.Duration{s}, Gone: []time.Duration{6 * s}}}}, false},
	} {
		if err := CheckExpiry(&c.life); (err != nil) != c.wrong {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
