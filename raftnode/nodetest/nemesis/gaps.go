package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/raftkv/raftkv/raftnode/placement"
)

// kill is the kill of a node that led shards.
type kill struct {
	at, until time.Duration
	node      placement.NodeID
	led       []placement.ShardID
	// alone: nothing else was wrong then.
	alone bool
}

// longestGap is the longest time without an acknowledged write that touches a time, from times of acknowledgements in no order.
func longestGap(acked []time.Duration, from, to time.Duration) time.Duration {
	var longest time.Duration
	slices.Sort(acked)
	last := time.Duration(0)
	for _, at := range append(slices.Clone(acked), to) {
		if at > from && last < to {
			longest = max(longest, min(at, to)-last)
		}
		last = at
	}
	return longest
}

// gap is the longest gap of the shards that a killed node led.
func (r *recorder) gap(k kill) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	var longest time.Duration
	for _, shard := range k.led {
		longest = max(longest, longestGap(slices.Clone(r.acked[shard]), k.at, k.until))
	}
	return longest
}

// figures are the median, the 99th percentile and the maximum of durations.
func figures(all []time.Duration) string {
	if len(all) == 0 {
		return "none"
	}
	return fmt.Sprintf("p50 %s, p99 %s, max %s (%d)", short(percentile(all, 50)), short(percentile(all, 99)), short(percentile(all, 100)), len(all))
}

// percentile is the smallest duration that is not below so many of a hundred; 0 of none.
func percentile(all []time.Duration, percent int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(all))[(len(all)*percent+99)/100-1]
}

func short(d time.Duration) string { return d.Round(time.Millisecond).String() }
