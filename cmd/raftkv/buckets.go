package main

import (
	"maps"
	"slices"
)

// buckets are a cumulative histogram: upper bound → count.
type buckets map[float64]float64

// since is what came after an earlier one.
func (b buckets) since(before buckets) buckets {
	d := make(buckets, len(b))
	for bound, n := range b {
		d[bound] = n - before[bound]
	}
	return d
}

// quantile is the bound below which a share q of the observations lies, by a straight line within its bucket as Prometheus does it; 0 of none. What is
// beyond the last finite bound counts as that.
func (b buckets) quantile(q float64) float64 {
	bounds := slices.Sorted(maps.Keys(b))
	if len(bounds) < 2 || b[bounds[len(bounds)-1]] == 0 {
		return 0
	}
	rank := q * b[bounds[len(bounds)-1]]
	low, below := 0.0, 0.0
	for _, bound := range bounds[:len(bounds)-1] {
		if n := b[bound]; n >= rank {
			return low + (bound-low)*(rank-below)/max(n-below, 1e-9)
		}
		low, below = bound, b[bound]
	}
	return low
}
