package raftnode

import "testing"

// Work that finishes nothing for an election timeout is a stall; anything finished, and having nothing to do, ends it.
func TestStall(t *testing.T) {
	s := stall{most: 3}
	ticks := func(n int) (changed int) {
		for range n {
			if s.tick() {
				changed++
			}
		}
		return changed
	}
	s.log.begin()
	s.log.begin()
	if ticks(2) != 0 || s.stalled.Load() {
		t.Error("too early")
	}
	s.log.finish(1)
	if ticks(3) != 0 {
		t.Error("work that goes on is no stall")
	}
	if ticks(5) != 1 || !s.stalled.Load() {
		t.Error("a stall is not noticed, or again and again")
	}
	s.log.finish(1)
	if ticks(5) != 1 || s.stalled.Load() {
		t.Error("the end of a stall is not noticed")
	}
	if ticks(10) != 0 {
		t.Error("a disk without work stalls")
	}
}

// An engine that is behind stalls if none of its flushes ends, and not while one after another does.
func TestStallOfFlushes(t *testing.T) {
	s := stall{most: 3}
	for range 10 {
		s.flush.expect(true)
		s.tick()
		s.flush.ended()
	}
	if s.stalled.Load() {
		t.Error("flushes end, and yet the disk stalls")
	}
	for range 5 {
		s.flush.expect(true)
		s.tick()
	}
	if !s.stalled.Load() {
		t.Error("no flush ends, and yet the disk does not stall")
	}
	s.flush.expect(false)
	if s.tick(); s.stalled.Load() {
		t.Error("an engine that is not behind stalls")
	}
}
