package raftnode

import (
	"time"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
)

// shardClock is the leader's clock of a shard: the clock applied when it began to lead, and its own monotonic time since (R19). It believes no step of
// its node's clock that is longer than two ticks: a clock that jumps, for whatever reason, makes expiry at most that much early, and a node that
// was held up makes it late.
type shardClock struct {
	baseMs uint64
	// passed is the time from the start to last.
	passed time.Duration
	last   time.Time
	// step bounds what is believed at once; 0 is no bound.
	step time.Duration
}

func (c *shardClock) start(appliedMs uint64, now time.Time) {
	c.baseMs, c.passed, c.last = appliedMs, 0, now
}

// since is the time that has passed since last, as far as it is believed.
func (c *shardClock) since(now time.Time) time.Duration {
	d := max(0, now.Sub(c.last))
	if c.step > 0 {
		d = min(d, c.step)
	}
	return d
}

// tick notes that a tick of the node has come.
func (c *shardClock) tick(now time.Time, interval time.Duration) {
	c.step = clockStepTicks * interval
	c.passed += c.since(now)
	c.last = now
}

func (c *shardClock) nowMs(now time.Time) uint64 {
	return c.baseMs + uint64((c.passed + c.since(now)).Milliseconds())
}

const (
	clockStepTicks = 2
	// clockQuietMax is the longest time for which a leader with deadlines lets the clock of its shard stand.
	clockQuietMax = 5 * time.Second
	// expireKeysMax is how many keys and leases one Expire or revoke removes.
	expireKeysMax = 1024
)

// expiry is what a leader does about deadlines. Its worker owns it.
type expiry struct {
	// began is when the member has come to lead with all applied that came before, carried when it proposed its last entry. Every entry carries the clock.
	began, carried time.Time
	// proposed says that an Expire of this member is under way.
	proposed bool
}

func (e *expiry) start(now time.Time) { e.began, e.carried = now, now }

// quiet says whether the clock of the shard has stood for too long: another leader would go on from the last entry, and a time to live that is
// longer than any leader leads would never pass. An entry is due at twice the age at which the last one was, so half of the time that a leader leads is never
// lost, however short that is, and an idle shard has few of them.
func (e *expiry) quiet(now time.Time, tick time.Duration) bool {
	age := e.carried.Sub(e.began)
	return now.Sub(e.carried) >= max(tick, min(age, clockQuietMax))
}

// expireDue lets a leader propose to remove what is due, or to carry the clock on. One Expire is under way at the most.
func (w *worker) expireDue(m *member, now time.Time) {
	l := m.lead.Load()
	if w.n.options.Machine != nil || l == nil || !l.local || !l.applied {
		return
	}
	clock := m.clock.nowMs(now)
	m.clockMs.Store(clock)
	due := w.n.engine.position(m.shard).deadlineMs
	if m.expiry.proposed || due == 0 || clock < due && !m.expiry.quiet(now, w.n.options.HeartbeatInterval) {
		return
	}
	m.expiry.proposed = true
	r := &Request{
		Shard: m.shard, Deadline: now.Add(defaultTimeout), forwarded: true,
		Command: &storev1.Command{Body: &storev1.Command_Expire{Expire: &storev1.Expire{MaxKeys: expireKeysMax}}},
		Done:    func(res Result) { w.post(expiredEvent{m, res.Write.GetMore()}) },
	}
	r.bytes = r.Command.SizeVT()
	m.writes = append(m.writes, r)
	m.writesBytes += r.bytes
}

// expiredEvent says that an Expire has been answered.
type expiredEvent struct {
	m    *member
	more bool
}

// handle goes on at once while there is more to remove; what is refused is proposed again at the next tick.
func (e expiredEvent) handle(w *worker) {
	e.m.expiry.proposed = false
	if e.more {
		w.expireDue(e.m, w.n.runtime.Now())
		w.touch(e.m)
	}
}
