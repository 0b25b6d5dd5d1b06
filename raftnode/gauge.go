package raftnode

import (
	"slices"
	"sync/atomic"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// gauge measures at every tick how much the node may take: the pressure of the engine and the free space of the disk, and lets the engine try again what
// it had no room for. It is a stage of its own
// because either answer may hang with the disk, and ticks must go on then.
type gauge struct {
	n    *Node
	wake func()
	// waited counts the ticks for which the engine has waited for room; the stage's.
	waited int
}

func newGauge(n *Node) *gauge {
	g := &gauge{n: n}
	g.wake = n.runtime.Stage("gauge", g.step)
	return g
}

func (g *gauge) step() {
	n := g.n
	if n.failed() {
		return
	}
	p := n.engine.pressure()
	if was := n.pressure.Swap(p); was != nil && p == nil {
		for _, m := range n.locals() { // Writes have waited for that.
			m.worker.post(inspectEvent{m: m, look: func(m *member) { m.worker.touch(m) }})
		}
	}
	n.stall.flush.expect(p != nil)
	g.resume()
	changed, err := n.reserve.look()
	if err != nil {
		n.fail(err)
		return
	}
	if changed {
		n.beat() // Its leaders need not wait for a tick.
		n.housekeeper.wake()
	}
	n.stall.gauge.finish(1)
}

// measure wakes the gauge, unless it has not come back from the last time.
func (g *gauge) measure() {
	if !g.n.stall.gauge.busy() {
		g.n.stall.gauge.begin()
		g.wake()
	}
}

// condition is what a node has said last of its disk.
type condition struct{ full, stalled atomic.Bool }

// newConditions makes the conditions of all members. The map does not change.
func newConditions(members []Member) map[placement.NodeID]*condition {
	cs := make(map[placement.NodeID]*condition)
	for _, m := range members {
		cs[m.ID] = &condition{}
	}
	return cs
}

// beat tells all peers that this node lives, and how its disk is.
func (n *Node) beat() {
	beat := n.heartbeat()
	for _, m := range n.options.Members {
		if m.ID != n.options.NodeID {
			n.transport.Send(m.ID, beat)
		}
	}
}

func (n *Node) heartbeat() *peerv1.Message {
	return &peerv1.Message{Body: &peerv1.Message_Heartbeat{Heartbeat: &peerv1.NodeHeartbeat{
		MapVersion: n.shards.version, DiskFull: n.reserve.full.Load(), DiskStalled: n.stall.stalled.Load(),
	}}}
}

// heardBeat takes note of the heartbeat of a peer. That it came has kept the peer from being taken for silent.
func (n *Node) heardBeat(from placement.NodeID, b *peerv1.NodeHeartbeat) {
	if c := n.conditions[from]; c != nil {
		c.full.Store(b.GetDiskFull())
		c.stalled.Store(b.GetDiskStalled())
	}
}

// fullNode returns a node with a replica of the shard whose disk is nearly full. One counts as well as a majority: a follower cannot refuse
// what its leader sends, and would fill up, stop, and leave a shard that the next failure stops, too. One that cannot be reached gets nothing,
// so it does not count.
func (m *member) fullNode(n *Node) (placement.NodeID, bool) {
	for _, o := range n.options.Members {
		if _, ok := m.byNode[o.ID]; !ok {
			continue
		}
		if o.ID == n.options.NodeID && n.reserve.full.Load() || o.ID != n.options.NodeID && n.conditions[o.ID].full.Load() && n.isReachable(o.ID) {
			return o.ID, true
		}
	}
	return "", false
}

// anyFull says whether the disk of this node or of a peer is nearly full.
func (n *Node) anyFull() bool {
	full := n.reserve.full.Load()
	for id, c := range n.conditions {
		full = full || c.full.Load() && n.isReachable(id)
	}
	return full
}

// refuseGrowth answers the writes that wait and would make the state grow, if a disk of the shard is nearly full. The others keep their order.
func (w *worker) refuseGrowth(m *member) {
	if len(m.writes) == 0 {
		return
	}
	node, full := m.fullNode(w.n)
	if !full {
		return
	}
	rest := m.writes[:0]
	for _, r := range m.writes {
		if !grows(r.Command) {
			rest = append(rest, r)
			continue
		}
		m.writesBytes -= r.bytes
		w.n.metrics.refusedGrowth.Add(1)
		r.fail(&DiskFullError{Shard: m.shard, Node: node, RetryAfter: diskFullRetry})
	}
	clear(m.writes[len(rest):])
	m.writes = rest
}

// grows says whether a command may need more room than it gives back: one with a put, a new lease, one whose answer is kept under an idempotency key
// whatever follows, or one of a program's own, of which nothing is known. Other answers take the place of older ones.
func grows(c *storev1.Command) bool {
	if _, opaque := c.GetBody().(*storev1.Command_Opaque); opaque || c.GetLease().GetGrant() != nil || c.GetIdempotency() != nil {
		return true
	}
	isPut := func(o *storev1.Operation) bool { return o.GetKind() == storev1.OperationKind_OPERATION_KIND_PUT }
	return slices.ContainsFunc(c.GetWrite().GetOperations(), isPut) || slices.ContainsFunc(c.GetWrite().GetOtherwise(), isPut)
}
