package main

import (
	"testing"
	"time"
)

func TestLongestGap(t *testing.T) {
	const s = time.Second
	for name, test := range map[string]struct {
		acked    []time.Duration
		from, to time.Duration
		want     time.Duration
	}{
		"around the kill":            {[]time.Duration{1 * s, 2 * s, 5 * s, 6 * s}, 3 * s, 8 * s, 3 * s},
		"later":                      {[]time.Duration{1 * s, 3 * s, 4 * s, 8 * s}, 3 * s, 9 * s, 4 * s},
		"before it does not count":   {[]time.Duration{1 * s, 9 * s, 10 * s, 11 * s}, 9 * s, 12 * s, 1 * s},
		"in no order":                {[]time.Duration{6 * s, 1 * s, 5 * s, 2 * s}, 3 * s, 6 * s, 3 * s},
		"nothing more until it ends": {[]time.Duration{1 * s, 2 * s}, 3 * s, 12 * s, 10 * s},
		"beyond the end":             {[]time.Duration{1 * s, 2 * s, 3 * s, 20 * s}, 2 * s, 5 * s, 2 * s},
		"nothing at all":             {nil, 3 * s, 5 * s, 5 * s},
	} {
		if got := longestGap(test.acked, test.from, test.to); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

func TestPercentile(t *testing.T) {
	var all []time.Duration
	for i := range 50 {
		all = append(all, time.Duration(50-i))
	}
	for percent, want := range map[int]time.Duration{50: 25, 99: 50, 100: 50, 2: 1} {
		if got := percentile(all, percent); got != want {
			t.Errorf("%d of a hundred: %d, want %d", percent, got, want)
		}
	}
	if percentile(nil, 99) != 0 || percentile(all[:1], 99) != 50 {
		t.Error("none, or one")
	}
}
