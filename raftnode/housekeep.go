package raftnode

import (
	"errors"
	"fmt"
	"time"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/planted"
	"github.com/raftkv/raftkv/raftnode/state"
)

// housekeeper flushes the state and truncates the logs behind it, trims history, and reclaims space on a full disk. It decides on figures
// only; the work is done by the engine, the replicas and the log writer.
type housekeeper struct {
	n       *Node
	wake    func()
	flushed time.Time // when the last flush was asked for

	reclaiming reclaiming
}

func newHousekeeper(n *Node) *housekeeper {
	h := &housekeeper{n: n, flushed: n.runtime.Now()}
	h.wake = n.runtime.Stage("housekeeper", h.step)
	return h
}

func (h *housekeeper) step() {
	n := h.n
	if n.failed() || !n.serving.Load() {
		return
	}
	full := n.reserve.full.Load()
	long := uint64(n.logs.Metrics().Bytes) > n.options.MaxLogBytes
	tight := full || long
	// Truncation gives space back a segment at a time, so a log that is too long stays so for a while after a flush.
	age := n.runtime.Now().Sub(h.flushed)
	due := age >= n.options.SnapshotPeriod || (long || full && !n.roomless()) && age >= tightFlushInterval
	dirty, flushed := false, uint64(0)
	for _, m := range n.locals() {
		durable, err := n.engine.durable(m.shard)
		if err != nil {
			n.fail(err)
			return
		}
		at := n.engine.position(m.shard)
		dirty, flushed = dirty || at.index > durable, flushed+durable
		due = due || at.index >= durable+n.options.SnapshotEntries
		if changed := m.membership.Load().GetIndex(); changed > durable && changed <= at.index {
			due = true // The next change of the membership waits for this one to be durable (R10).
		}
		if planted.Is(planted.TruncatedPastFlushed) {
			durable = at.index // R8
		}
		h.truncate(m, durable, tight)
		h.trim(m, at)
		h.lookHome(m, at)
		h.follow(m)
	}
	if full {
		n.logWriter.reclaim()
		h.reclaim(flushed)
	}
	if !due || !dirty {
		return
	}
	h.flushed = n.runtime.Now()
	if err := n.engine.flush(); err != nil {
		n.fail(err)
	}
}

// truncate asks for the log to be cut below what is durably applied (and never above, R8), less what is kept for members that lag.
func (h *housekeeper) truncate(m *member, durable uint64, tight bool) {
	log, ok := h.n.logs.State(m.shard)
	if !ok {
		return
	}
	index := durable
	if !tight {
		index = min(index, log.LastIndex-min(log.LastIndex, h.n.options.MaxLogEntries))
	}
	// Cutting a little at a time would only cost records.
	least := max(1, h.n.options.MaxLogEntries/16)
	if tight {
		least = 1
	}
	if index < log.TruncatedIndex+least {
		return
	}
	m.worker.post(truncateEvent{m: m, index: index, tight: tight, truncated: func(index uint64) { h.n.logWriter.truncate(m.shard, index) }})
}

// trim lets the leader of a shard propose to forget its oldest history, bounded work at a time.
func (h *housekeeper) trim(m *member, at position) {
	l := m.lead.Load()
	if h.n.options.Machine != nil || l == nil || !l.local || m.trimming.Load() {
		return
	}
	below := max(h.overlong(at), h.overage(m, at))
	if below <= at.historyFloor || !m.trimming.CompareAndSwap(false, true) {
		return
	}
	h.n.Submit(&Request{
		Shard:    m.shard,
		Deadline: h.n.runtime.Now().Add(defaultTimeout),
		Command: &storev1.Command{Body: &storev1.Command_TrimHistory{TrimHistory: &storev1.TrimHistory{
			Below: below, MaxRevisions: trimRevisionsMax,
		}}},
		// A trim that fails is proposed again at the next look, one that succeeds at once if the history is still too long.
		Done: func(res Result) {
			m.trimming.Store(false)
			if res.Err == nil {
				h.wake()
			}
		},
	})
}

// overlong returns the revision below which history goes because there are too many bytes of it; 0 if there are not.
func (h *housekeeper) overlong(at position) uint64 {
	bound := h.n.options.HistoryBytes
	if h.n.anyFull() {
		bound /= fullHistoryShare
	}
	// A sixteenth at a time: each trim is a command of its own, and a range that everything that is read passes until it is flushed.
	if at.historyBytes <= bound+bound/16 {
		return 0
	}
	// The share of the bytes that is too much is about the share of the revisions.
	kept := at.revision + 1 - min(at.revision+1, at.historyFloor)
	over := float64(at.historyBytes-bound) / float64(at.historyBytes)
	return at.historyFloor + max(1, uint64(over*float64(kept)))
}

// overage returns the revision below which history goes because it is too old; 0 if none is. The clock is that of the last entry, so an idle shard
// keeps its history until something is written again: late, and never early.
func (h *housekeeper) overage(m *member, at position) uint64 {
	keep := uint64(h.n.options.HistoryAge.Milliseconds())
	engine, ok := h.n.engine.(historian)
	if !ok || at.clockMs <= keep || at.historyFloor > at.revision {
		return 0
	}
	below, err := engine.youngerThan(m.shard, at.historyFloor, at.revision, at.clockMs-keep)
	var compacted *state.CompactedError
	switch {
	case err == nil:
		return below
	case errors.As(err, &compacted), errors.Is(err, state.ErrReplaced):
		return 0 // The state has moved on; the next look sees where to.
	}
	if _, damaged := damageOf(err); damaged {
		h.n.fail(fmt.Errorf("read the age of the history: %w", err))
	}
	return 0
}

// follow finds out, once, that a member has come to where its leader was after the node was opened: the node is ready then.
func (h *housekeeper) follow(m *member) {
	if m.caughtUp.Load() || !m.askedLead.CompareAndSwap(false, true) {
		return
	}
	h.n.Submit(&Request{
		Shard:    m.shard,
		Deadline: h.n.runtime.Now().Add(defaultTimeout),
		Read:     &peerv1.ReadRequest{},
		Done: func(res Result) {
			if res.Err == nil {
				m.caughtUp.Store(true)
			}
			m.askedLead.Store(false)
		},
	})
}

// tick drives everything that depends on time.
func (n *Node) tick() {
	if !n.serving.Load() {
		return
	}
	n.watchDisk()
	for _, w := range n.workers {
		w.postTick()
	}
	n.forwards.expire(n.runtime.Now())
	n.sending.expire(n.runtime.Now(), n.silence.silent)
	if l := n.leaving.Load(); l != nil {
		l.look()
	}
	n.beat()
	for _, m := range n.options.Members {
		if m.ID != n.options.NodeID {
			n.listen(m.ID)
		}
	}
}
