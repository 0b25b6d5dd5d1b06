package nodetest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// What clients do about answers that they have lost: some ask what came of a write, and some send it again under its idempotency key.

func (a *attempt) id() *storev1.RequestId {
	id := make([]byte, 16)
	binary.BigEndian.PutUint64(id, uint64(a.cl.number)+1)
	return &storev1.RequestId{ClientId: id, Sequence: a.sequence, Seen: a.seen, AckedBelow: a.sequence}
}

func (a *attempt) key() *storev1.Idempotency {
	return &storev1.Idempotency{
		Key: fmt.Sprintf("client-%d-%d", a.cl.number, a.sequence), Fingerprint: make([]byte, 16), WindowMs: uint64(a.cl.cs.window().Milliseconds()),
	}
}

// window is that of idempotency keys.
func (cs *clients) window() time.Duration { return 3*cs.load.Timeout + 3*time.Second }

// inWindow says whether what is sent now is executed within the window, whatever clocks do: they may be 5 % off, and two ticks are lost by a jump.
func (a *attempt) inWindow() bool {
	cs := a.cl.cs
	window := cs.window() * 9 / 10
	for _, at := range cs.c.jumps {
		if at >= a.first {
			window -= 2 * cs.c.options.Heartbeat
		}
	}
	return cs.c.Now()-a.first+cs.load.Timeout*11/10 < window
}

// loseHeart lets a client ask what came of a write before its answer comes, so that attempt and fence are under way together.
func (a *attempt) loseHeart() {
	s := a.cl.cs.c.scheduler
	s.after(s.between(0, 20*time.Millisecond), "lose heart", func() {
		if a.try == 1 { // It is not answered.
			a.try++
			a.doubt = true
			a.ask()
		}
	})
}

// asksMax is how often a client asks before it gives up.
const asksMax = 8

// ask asks a random node what came of the write. From here on the client sends no attempt of it any more.
func (a *attempt) ask() {
	cs := a.cl.cs
	a.asked++
	a.cl.send(&raftnode.Request{AutoShard: true, Command: &storev1.Command{
		RequestId: a.id(), Body: &storev1.Command_Fence{Fence: &storev1.Fence{Slot: uint32(placement.SlotOf(key(a.op.Group, 0)))}},
	}}, func(res raftnode.Result) {
		cs.note(a, res)
		var forgotten *raftnode.SessionExpiredError
		switch {
		case errors.As(res.Err, &forgotten):
			cs.c.violate("the outcome is said to be forgotten: %s: %v", a.op, res.Err)
		case res.Err == nil && res.Write.GetOutcome() == storev1.WriteOutcome_WRITE_OUTCOME_FENCED:
			cs.c.seen(WriteFenced)
			a.late()
			a.refuse()
		case res.Err == nil:
			cs.c.seen(OutcomeFound)
			a.previous, a.doubt = false, false // What it has replaced is not kept.
			a.finish(res)
		case a.asked < asksMax:
			cs.c.scheduler.after(cs.c.scheduler.about(200*time.Millisecond), "ask again", a.ask)
		default:
			a.op.Lose()
			cs.close(a)
		}
	})
}

// late sends a fenced write once more, perhaps much later. It must not be executed.
func (a *attempt) late() {
	cs, s := a.cl.cs, a.cl.cs.c.scheduler
	if cs.stopped || s.chance(0.4) {
		return
	}
	cs.busy++
	s.after(s.between(0, 3*time.Second), "late attempt", func() {
		r := a.request()
		r.After = nil
		a.cl.send(r, func(res raftnode.Result) {
			cs.busy--
			var fenced *raftnode.FencedError
			var expired *raftnode.SessionExpiredError
			switch {
			case res.Err == nil:
				cs.c.violate("a write is executed that was said not to be applied: %s", a.op)
			case errors.As(res.Err, &fenced), errors.As(res.Err, &expired):
				cs.c.seen(LateWriteRefused)
			}
		})
	})
}

// repeat sends a write that was answered once more under its idempotency key, or another one.
func (a *attempt) repeat(first raftnode.Result) {
	cs, s := a.cl.cs, a.cl.cs.c.scheduler
	if !a.keyed || cs.stopped || s.chance(0.5) {
		return
	}
	cs.busy++
	other := s.chance(0.3)
	s.after(s.between(0, cs.window()/2), "repeat", func() {
		if !a.inWindow() {
			cs.busy--
			return
		}
		r := a.request()
		r.After = nil
		if other {
			r.Command.Idempotency.Fingerprint[0]++
		}
		a.cl.send(r, func(res raftnode.Result) {
			cs.busy--
			a.repeated(first, res, other)
		})
	})
}

func (a *attempt) repeated(first, res raftnode.Result, other bool) {
	c := a.cl.cs.c
	var reused *raftnode.IdempotencyKeyReusedError
	switch {
	case errors.As(res.Err, &reused) && other:
		c.seen(KeyReuseRefused)
	case errors.As(res.Err, &reused):
		c.violate("the same write is taken for another: %s", a.op)
	case res.Err != nil: // not executed, or nobody knows
	case other:
		c.violate("another write is executed under the idempotency key of %s", a.op)
	default:
		want := proto.CloneOf(first.Write)
		want.Replayed = true
		if !proto.Equal(want, res.Write) {
			c.violate("%s is answered %v, and later %v", a.op, first.Write, res.Write)
		}
		c.seen(AnswerReplayed)
	}
}

// send sends a request to a random node. done is called once, with an unknown outcome if no answer comes.
func (cl *client) send(r *raftnode.Request, done func(raftnode.Result)) {
	cl.cs.c.sendOnce("question", r, cl.cs.load.Timeout, done)
}

// windowsPassed lets the windows of all idempotency keys end: their results go through the log, and the replicas are to stand still in the end. Clocks may run a
// little slow.
func (r *run) windowsPassed() bool {
	r.c.Run(r.clients.window()*11/10 + livenessElections*r.c.options.election() + 5*time.Second)
	return len(r.c.violations) == 0
}
