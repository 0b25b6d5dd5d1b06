package nodetest

import (
	"slices"
	"testing"
	"time"
)

// TestRecovery counts only writes that were begun after a fault.
func TestRecovery(t *testing.T) {
	r := newRecovery()
	r.fault(10, 2)
	r.wrote(put(1, 9, 15, 0, "a", 1, 1))
	r.fault(20, 2)
	r.wrote(put(1, 16, 30, 0, "b", 2, 2))
	r.wrote(put(1, 40, 50, 0, "c", 3, 3))
	r.wrote(put(1, 60, 70, 0, "d", 4, 4))
	if want := []time.Duration{20, 30}; !slices.Equal(r.took, want) {
		t.Errorf("recoveries %v, want %v", r.took, want)
	}
	if len(r.struck[2]) != 2 {
		t.Error("a write to one shard has ended the waits of another")
	}
}

// TestTotals sums up and tells what was never seen.
func TestTotals(t *testing.T) {
	var all totals
	all.add(&seedOutcome{Operations: 2, Unknown: 1, Events: map[string]uint64{Crash.String(): 3}, Faults: map[string]uint64{"crash": 1}})
	all.add(&seedOutcome{Operations: 1, Events: map[string]uint64{Crash.String(): 1}})
	never := all.neverSeen()
	if all.seeds != 2 || all.operations != 3 || all.unknown != 1 || all.faults["crash"] != 1 || all.events[Crash.String()] != 4 {
		t.Errorf("%+v", all)
	}
	if slices.Contains(never, Crash.String()) || len(never) != int(eventCount)-1 {
		t.Errorf("never seen: %v", never)
	}
}
