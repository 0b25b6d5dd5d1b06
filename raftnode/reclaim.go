package raftnode

import (
	"context"
	"fmt"
	"sync/atomic"
)

// reclaimer is an engine that can give the space of what is deleted back to the disk.
type reclaimer interface {
	// reclaim works until nothing is left, ctx is done, or enough says that there is room enough.
	reclaim(ctx context.Context, enough func() bool) error
	// resume lets work in the background that found no room be tried again.
	resume()
}

var _ reclaimer = (*kvEngine)(nil)

func (e *kvEngine) reclaim(ctx context.Context, enough func() bool) error {
	return e.store.Reclaim(ctx, enough)
}

func (e *kvEngine) resume() { e.store.ResumeCompactions() }

// reclaiming is what the housekeeper knows of the space that deletes leave (R24). The engine alone gives it back only once more is written, and a disk
// that is full takes nothing more.
type reclaiming struct {
	running atomic.Bool
	// upTo is the sum of the durable indexes of all shards when the last run began that went through everything, free what was free when it ended:
	// until either grows there is nothing new to find, or no more room to do it in. They belong to whoever has set running.
	upTo, free uint64
}

// reclaim has the engine give back what is deleted and durably so, once for each time that more is.
func (h *housekeeper) reclaim(durable uint64) {
	engine, ok := h.n.engine.(reclaimer)
	if !ok || !h.reclaiming.running.CompareAndSwap(false, true) {
		return
	}
	n := h.n
	if durable == h.reclaiming.upTo && n.reserve.free.Load() < h.reclaiming.free+n.reserve.bytes/16 {
		h.reclaiming.running.Store(false)
		return
	}
	h.resume(true)
	n.runtime.Go("reclaimer", func(ctx context.Context) {
		roomy := func() bool { return !n.reserve.full.Load() }
		switch err := engine.reclaim(ctx, roomy); {
		case err != nil && ctx.Err() == nil:
			n.fail(fmt.Errorf("give space back to a full disk: %w", err))
		case err == nil && !roomy():
			h.reclaiming.upTo, h.reclaiming.free = durable, n.reserve.free.Load()
		}
		h.reclaiming.running.Store(false)
	})
}

// resume lets what found no room on the disk be tried again: now and then only, because a compaction may write much before it finds none.
func (h *housekeeper) resume(now bool) {
	at := h.n.runtime.Now()
	if engine, ok := h.n.engine.(reclaimer); ok && (now || at.Sub(h.resumed) >= resumeInterval) {
		h.resumed = at
		engine.resume()
	}
}
