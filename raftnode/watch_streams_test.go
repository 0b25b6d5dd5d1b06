package raftnode

import (
	"errors"
	"testing"
	"time"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// A node that has as many watches as it may refuses the next one, which leaves nothing behind, and takes one again when another is closed.
func TestTooManyWatches(t *testing.T) {
	n := openAlone(t, nil)
	defer n.Close()
	n.watches.mu.Lock()
	for range watchStreamsMax - 1 { // of no shard, and never due: they do nothing but count
		n.watches.streams[&WatchStream{ws: n.watches, next: time.Now().Add(24 * time.Hour)}] = struct{}{}
	}
	n.watches.mu.Unlock()
	last, err := n.Watch(t.Context(), WatchRequest{})
	if err != nil {
		t.Fatalf("watch %d: %v", watchStreamsMax, err)
	}
	var full *OverloadedError
	s, err := n.Watch(t.Context(), WatchRequest{})
	if !errors.As(err, &full) || *full != (OverloadedError{Field: "watches", Limit: watchStreamsMax, Actual: watchStreamsMax, RetryAfter: overloadRetry}) {
		t.Fatalf("one more: %v, %v", s, err)
	}
	if watchers := n.watches.watchers(DataShard); watchers != 1 {
		t.Errorf("%d streams need the rounds of the shard, want 1", watchers)
	}
	last.Close()
	if watchers := n.watches.watchers(DataShard); watchers != 0 {
		t.Errorf("%d streams need the rounds of the shard, want 0", watchers)
	}
	again, err := n.Watch(t.Context(), WatchRequest{})
	if err != nil {
		t.Fatalf("after one is closed: %v", err)
	}
	again.Close()
}

// watchers is how many streams need the rounds of a shard.
func (ws *watches) watchers(shard placement.ShardID) int {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if c := ws.shards[shard]; c != nil {
		return c.watchers
	}
	return 0
}
