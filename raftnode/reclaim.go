package raftnode

import (
	"context"
	"sync/atomic"
	"time"
)

// reclaimer is an engine that can give the space of what is deleted back to the disk.
type reclaimer interface {
	// reclaim works until nothing is left, ctx is done, or enough says that there is room enough. It says whether it came to the end: without
	// room to work in it does not.
	reclaim(ctx context.Context, enough func() bool) (whole bool, err error)
	// waits says that work in the background has found no room, and does not go on until resume.
	waits() bool
	resume()
}

var _ reclaimer = (*kvEngine)(nil)

func (e *kvEngine) reclaim(ctx context.Context, enough func() bool) (bool, error) {
	return e.store.Reclaim(ctx, enough)
}

func (e *kvEngine) waits() bool { return e.store.CompactionsWait() }
func (e *kvEngine) resume()     { e.store.ResumeCompactions() }

// Pauses between two runs, and between two tries of what has found no room: either may write much and gain nothing.
const (
	reclaimPauseMin = 5 * time.Second
	reclaimPauseMax = 2 * time.Minute
	resumePause     = 30 * time.Second
	// reclaimGain is the part of the reserve below which a run has gained nothing.
	reclaimGain = 16
)

// reclaiming is what the housekeeper knows of the space that deletes leave (R24). The engine alone gives it back only once more is written, and a disk
// that is full takes nothing more.
type reclaiming struct {
	running atomic.Bool
	// The rest belongs to whoever has set running. upTo is the sum of the durable indexes of all shards when the last run began that came to
	// the end: until it grows there is nothing new to find. next is when another may begin.
	upTo  uint64
	next  time.Time
	pause time.Duration
}

// reclaim has the engine give back what is deleted and durably so.
func (h *housekeeper) reclaim(durable uint64) {
	engine, ok := h.n.engine.(reclaimer)
	if !ok || !h.reclaiming.running.CompareAndSwap(false, true) {
		return
	}
	if r := &h.reclaiming; durable == r.upTo || h.n.runtime.Now().Before(r.next) {
		r.running.Store(false)
		return
	}
	h.n.runtime.Go("reclaimer", func(ctx context.Context) {
		defer h.reclaiming.running.Store(false)
		h.reclaiming.run(ctx, h.n, engine, durable)
	})
}

func (r *reclaiming) run(ctx context.Context, n *Node, engine reclaimer, durable uint64) {
	before := n.reserve.free.Load()
	whole, err := engine.reclaim(ctx, func() bool { return !n.reserve.full.Load() })
	if err != nil {
		if ctx.Err() == nil { // What it means for the store, the store has said.
			n.log.Warn("cannot give the space of what is deleted back to the disk; it is tried again", "err", err)
		}
		whole = false
	}
	if whole && n.reserve.full.Load() {
		r.upTo = durable
	}
	r.pause = min(max(2*r.pause, reclaimPauseMin), reclaimPauseMax)
	if n.reserve.free.Load() >= before+n.reserve.bytes/reclaimGain {
		r.pause = reclaimPauseMin
	}
	r.next = n.runtime.Now().Add(r.pause)
}

// resume lets what found no room on the disk be tried again, now and then. The gauge calls it, which never waits for the engine to take something.
func (g *gauge) resume() {
	engine, ok := g.n.engine.(reclaimer)
	if !ok || !engine.waits() {
		g.waited = 0
		return
	}
	if g.waited++; g.waited > int(resumePause/g.n.options.HeartbeatInterval) {
		g.waited = 0
		engine.resume()
	}
}

// roomless says that the engine can compact nothing: then each flush only makes its level 0 deeper.
func (n *Node) roomless() bool {
	engine, ok := n.engine.(reclaimer)
	return ok && engine.waits()
}
