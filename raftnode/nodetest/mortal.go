package nodetest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// mortalTTLMax bounds the times to live that mortals draw.
const mortalTTLMax = 4 * time.Second

// mortals put keys that do not live for ever, some of them on leases, and note when they are seen and when they are gone. No two puts have the same key,
// and no other client has these, so that CheckExpiry need not know what else goes on.
type mortals struct {
	c       *Cluster
	timeout time.Duration
	life    *Lifetimes
	// stopped: nothing new. busy is how many requests are under way.
	stopped bool
	busy    int
	made    int
}

// newMortals starts some clients.
func newMortals(c *Cluster, clients int, timeout time.Duration) *mortals {
	m := &mortals{c: c, timeout: timeout, life: &Lifetimes{Heartbeat: c.options.Heartbeat, Skew: c.options.Skew}}
	for range clients {
		m.think()
	}
	return m
}

func (m *mortals) think() {
	s := m.c.scheduler
	s.after(s.about(150*time.Millisecond), "mortal", func() {
		switch {
		case m.stopped:
			return
		case s.chance(0.3):
			m.put(nil, s.between(200*time.Millisecond, mortalTTLMax))
		case s.chance(0.15):
			m.grant()
		case len(m.life.Keys) > 0:
			recent := min(len(m.life.Keys), 12)
			m.read(m.life.Keys[len(m.life.Keys)-1-s.random.IntN(recent)], func(bool) {})
		}
		m.think()
	})
}

// put puts a new key, on a lease or for a time.
func (m *mortals) put(l *LeaseLife, ttl time.Duration) {
	m.made++
	k := &KeyLife{Name: fmt.Sprintf("mortal-%d", m.made), Called: m.c.Now(), TTL: ttl.Truncate(time.Millisecond), Lease: l}
	m.life.Keys = append(m.life.Keys, k)
	op := &storev1.Operation{Kind: storev1.OperationKind_OPERATION_KIND_PUT, Key: k.Name, Value: []byte("m"), TtlMs: uint64(k.TTL.Milliseconds())}
	if l != nil {
		op.TtlMs, op.Lease = 0, l.ID
	}
	m.send(&raftnode.Request{AutoShard: true, Command: &storev1.Command{Body: &storev1.Command_Write{Write: &storev1.Write{
		Operations: []*storev1.Operation{op},
	}}}}, func(res raftnode.Result) {
		if res.Err == nil {
			k.Put, k.Shard = m.c.Now(), res.Shard
		}
		m.ended(l, res.Err)
	})
}

// ended notes that a lease has been said not to live.
func (m *mortals) ended(l *LeaseLife, err error) {
	if missing := (*raftnode.LeaseNotFoundError)(nil); l != nil && errors.As(err, &missing) && l.granted() {
		m.c.seen(LeaseEnded)
		l.Gone = append(l.Gone, m.c.Now())
	}
}

func (m *mortals) lease(l *LeaseLife, c *storev1.LeaseCommand, done func(raftnode.Result)) {
	c.Id = l.ID
	m.send(&raftnode.Request{AutoShard: true, Command: &storev1.Command{Body: &storev1.Command_Lease{Lease: c}}}, func(res raftnode.Result) {
		m.ended(l, res.Err)
		done(res)
	})
}

// grant begins a lease with some keys, and keeps it alive for a while.
func (m *mortals) grant() {
	s := m.c.scheduler
	l := &LeaseLife{ID: s.random.Uint64()>>1 | 1, TTL: s.between(500*time.Millisecond, mortalTTLMax).Truncate(time.Millisecond)}
	m.life.Leases = append(m.life.Leases, l)
	called := m.c.Now()
	m.lease(l, &storev1.LeaseCommand{Action: &storev1.LeaseCommand_Grant{Grant: &storev1.LeaseGrant{TtlMs: uint64(l.TTL.Milliseconds())}}}, func(res raftnode.Result) {
		if res.Err != nil || m.stopped {
			return
		}
		l.Kept, l.Shard = append(l.Kept, called), res.Shard
		for range 1 + s.random.IntN(3) {
			m.put(l, 0)
		}
		m.keep(l, s.random.IntN(8))
	})
}

// keep keeps a lease alive some more times, and then lets it end or revokes it.
func (m *mortals) keep(l *LeaseLife, times int) {
	s := m.c.scheduler
	s.after(l.TTL/3, "keep alive", func() {
		called := m.c.Now()
		switch {
		case m.stopped, times == 0 && s.chance(0.5):
			return
		case times == 0:
			l.Revoked = called
			m.lease(l, &storev1.LeaseCommand{Action: &storev1.LeaseCommand_Revoke{Revoke: &storev1.LeaseRevoke{MaxKeys: 1}}}, func(raftnode.Result) {})
			return
		}
		m.lease(l, &storev1.LeaseCommand{Action: &storev1.LeaseCommand_KeepAlive{KeepAlive: &storev1.LeaseKeepAlive{}}}, func(res raftnode.Result) {
			if res.Err == nil {
				l.Kept = append(l.Kept, called)
			}
			m.keep(l, times-1)
		})
	})
}

// read notes whether a key is there.
func (m *mortals) read(k *KeyLife, done func(there bool)) {
	called := m.c.Now()
	m.send(&raftnode.Request{AutoShard: true, Read: &peerv1.ReadRequest{Keys: []string{k.Name}}}, func(res raftnode.Result) {
		if res.Err != nil {
			done(true)
			return
		}
		there := res.Read.GetRecords()[0].GetRecord() != nil
		k.Looks = append(k.Looks, Look{Called: called, Answered: m.c.Now(), There: there})
		if !there && k.Put != 0 && called > k.Put {
			switch {
			case k.Lease == nil:
				m.c.seen(KeyExpired)
			case k.Lease.Shard != k.Shard:
				m.c.seen(LeaseEndedElsewhere)
			}
		}
		done(there)
	})
}

// send sends a request to a random node. done is called once, with an unknown outcome if no answer comes.
func (m *mortals) send(r *raftnode.Request, done func(raftnode.Result)) {
	m.busy++
	m.c.sendOnce("mortal request", r, m.timeout, func(res raftnode.Result) {
		m.busy--
		done(res)
	})
}

// passed waits until every key that was put, or may have been, is gone: none lives for ever once a cluster is healthy, whatever happened to the clocks of its
// shards before.
func (m *mortals) passed() bool {
	left := slices.Clone(m.life.Keys)
	var look func()
	look = func() {
		for _, k := range left {
			m.read(k, func(there bool) {
				if !there {
					left = slices.DeleteFunc(left, func(l *KeyLife) bool { return l == k })
				}
			})
		}
		if len(left) > 0 {
			m.c.scheduler.after(500*time.Millisecond, "look again", look)
		}
	}
	look()
	// Clocks may run a little slow; keys of other shards are asked for once a second.
	limit := mortalTTLMax*11/10 + livenessElections*m.c.options.election() + 5*time.Second
	done := func() bool { return len(left) == 0 && m.busy == 0 }
	return m.c.await(limit, done, func() string {
		if len(left) == 0 {
			return "a read of a key that has expired is not answered"
		}
		return fmt.Sprintf("%d keys are not gone %s after healing, first %s", len(left), limit, left[0])
	})
}

// Lifetimes are what mortals saw.
type Lifetimes struct {
	Keys   []*KeyLife
	Leases []*LeaseLife
	// Jumps are when a clock was set forward.
	Jumps     []time.Duration
	Heartbeat time.Duration
	Skew      bool
}

// KeyLife is the life of a key that was put once.
type KeyLife struct {
	Name string
	// Called is when the put was sent, Put when it was acknowledged; 0 if it was not.
	Called, Put time.Duration
	TTL         time.Duration
	Lease       *LeaseLife // nil if it lives for TTL
	Shard       placement.ShardID
	// Refused: it has certainly not been put, and never will be.
	Refused bool
	Looks   []Look
}

// Look is a read of a key.
type Look struct {
	Called, Answered time.Duration
	There            bool
}

// LeaseLife is the life of a lease.
type LeaseLife struct {
	ID    uint64
	TTL   time.Duration
	Shard placement.ShardID
	// Kept are when the grant and the keep-alives were sent that were acknowledged, Revoked when it was revoked, 0 if it was not.
	Kept    []time.Duration
	Revoked time.Duration
	// Gone are when it was said not to live, after it was granted.
	Gone []time.Duration
}

func (l *LeaseLife) granted() bool { return len(l.Kept) > 0 }
