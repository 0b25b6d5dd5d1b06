package state

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
)

// honest is a request of a client that keeps to the rules: it has one id and one `seen`, which the shard had reached, in all its attempts.
type honest struct {
	client      byte
	sequence    uint64
	seen, acked uint64
	idle        bool // it changes nothing
	executed    int
	told        storev1.WriteOutcome // what GetOutcome has said for good
}

func (h *honest) attempt() *storev1.Command {
	c := putCommand("a", fmt.Sprintf("%d/%d", h.client, h.sequence))
	if h.idle {
		c = writeCommand(deleteOp("none"))
	}
	return as(h.client, h.sequence, h.seen, h.acked, c)
}

// TestHonestClients lets clients of a shard that keeps few results send requests, late copies of any of them, and fences, in any order. No request is executed twice, and
// what GetOutcome has said stays so: what it calls not applied never is, neither before nor after.
func TestHonestClients(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		o := testOptions(newDisk())
		o.DedupResults, o.SessionResults = 6, 4
		m := newServing(t, o)
		defer func() { _ = m.store.Close() }()
		var all []*honest
		last := map[byte]uint64{}
		for range rapid.IntRange(1, 80).Draw(rt, "steps") {
			if len(all) == 0 || rapid.IntRange(0, 2).Draw(rt, "new") == 0 {
				client := byte(rapid.IntRange(1, 9).Draw(rt, "client"))
				last[client]++
				revision := m.shard.meta.Revision
				all = append(all, &honest{
					client: client, sequence: last[client], seen: revision - min(revision, rapid.Uint64Range(0, 2).Draw(rt, "behind")),
					acked: rapid.Uint64Range(0, last[client]).Draw(rt, "acked"), idle: rapid.IntRange(0, 3).Draw(rt, "idle") > 0,
				})
			}
			h := all[len(all)-1-rapid.IntRange(0, min(len(all), 30)-1).Draw(rt, "which")]
			before := m.shard.meta.Revision
			if rapid.IntRange(0, 2).Draw(rt, "ask") == 0 {
				c := fenceCommand("a")
				c.RequestId = h.attempt().RequestId
				h.ask(rt, m.one(c))
				continue
			}
			r := m.one(h.attempt())
			if m.shard.meta.Revision > before {
				h.executed++
			}
			if h.executed > 1 || h.told == fenced && r.Outcome == applied {
				rt.Fatalf("%+v is executed: %v", h, r)
			}
			if len(m.shard.dedup.byID) > 6+6*4 {
				rt.Fatalf("%d results are kept", len(m.shard.dedup.byID))
			}
		}
	})
}

func (h *honest) ask(rt *rapid.T, r *storev1.WriteResult) {
	switch r.Outcome {
	case fenced, applied:
	default:
		return // nothing is said
	}
	if h.told != 0 && h.told != r.Outcome || r.Outcome == fenced && h.executed > 0 || r.Outcome == applied && !h.idle && h.executed == 0 {
		rt.Fatalf("%+v, and then it is said: %v", h, r)
	}
	h.told = r.Outcome
}
