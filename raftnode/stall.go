package raftnode

import (
	"sync/atomic"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// stall notices that the disk does not come back: that work which waits for it has made no progress for an election timeout. Such a node must not
// lead. Raft would go on sending heartbeats, so that nobody else campaigns, while nothing that it proposes is answered: entries are applied
// only once they are durable here, too, though the others could commit without.
//
// It counts ticks of this node and no time, so that a process which was suspended does not blame its disk.
type stall struct {
	// most is how many ticks of that count: an election timeout, which is what the others would wait for a leader that has gone.
	most int
	// log and apply are the rounds of the log writer and of the applier, flush those of the engine while it is behind, gauge the questions how
	// full everything is.
	log, apply, flush, gauge work
	// stalled: at least one of them stands still. Any goroutine may load it.
	stalled atomic.Bool
}

// work counts what was begun and what of it is finished. Any goroutine may count; seen and ticks belong to the tick.
type work struct {
	begun, finished atomic.Uint64
	seen            uint64
	ticks           int
}

func (w *work) begin()       { w.begun.Add(1) }
func (w *work) finish(n int) { w.finished.Add(uint64(n)) }
func (w *work) busy() bool   { return w.begun.Load() != w.finished.Load() }

// open is how much was begun and is not finished, about: the two are not read at once.
func (w *work) open() int {
	finished := w.finished.Load()
	return int(w.begun.Load() - finished) //nolint:gosec // what is begun later only adds
}

// expect says whether a round is waited for, of work that announces only its ends; ended says that one has ended. A round that ends
// while none is waited for is nothing.
func (w *work) expect(waiting bool) {
	if waiting != w.busy() {
		if waiting {
			w.begin()
		} else {
			w.finished.Store(w.begun.Load())
		}
	}
}

func (w *work) ended() { w.finished.Store(w.begun.Load()) }

// tick takes note that time has passed, and returns for how many ticks the work has stood still.
func (w *work) tick() int {
	finished := w.finished.Load()
	if w.ticks++; !w.busy() || finished != w.seen {
		w.ticks = 0
	}
	w.seen = finished
	return w.ticks
}

// tick takes note that time has passed, and says whether the disk has begun to stall or has ceased to by that.
func (s *stall) tick() (changed bool) {
	stalled := false
	for _, w := range []*work{&s.log, &s.apply, &s.flush, &s.gauge} {
		stalled = w.tick() >= s.most || stalled
	}
	return s.stalled.Swap(stalled) != stalled
}

// watchDisk lets the gauge measure and notices stalls, once a tick.
func (n *Node) watchDisk() {
	n.gauge.measure()
	if !n.stall.tick() {
		return
	}
	if n.stall.stalled.Load() {
		n.log.Warn("the disk does not come back from what it was asked; this node gives up its leads", "ticks", n.stall.most)
		return
	}
	n.log.Info("the disk has come back")
}

// yield lets another node lead while the disk of this one stalls, if the others could go on without it. It asks the best of them to take over. If that
// does not help within an election timeout, this member says nothing any more, so that the others elect one.
func (w *worker) yield(m *member) {
	if !w.n.stall.stalled.Load() || !m.replica.Leads() {
		m.yielding = 0
		return
	}
	to, ok := m.replica.Successor(m.fit(w.n))
	if !ok {
		m.yielding = 0 // Nobody could do better.
		return
	}
	if m.yielding++; m.yielding == 1 {
		w.n.metrics.yields.Add(1)
		w.n.log.Warn("the lead is given up because the disk stalls", "shard", m.shard, "to", m.peer(to).GetNodeId())
		m.replica.TransferLeader(to)
	}
}

// mute says whether a member that stalls and leads all the same keeps silent, as one that is cut off.
func (m *member) mute(n *Node) bool { return m.yielding > n.stall.most && m.replica.Leads() }

// fit says which members could lead or follow now: those that are heard and whose disks do not stall.
func (m *member) fit(n *Node) func(id uint64) bool {
	return func(id uint64) bool {
		node := placement.NodeID(m.peer(id).GetNodeId())
		c := n.conditions[node]
		return node != n.options.NodeID && c != nil && !c.stalled.Load() && n.isReachable(node)
	}
}
