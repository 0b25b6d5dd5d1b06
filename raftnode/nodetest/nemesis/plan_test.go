package main

import (
	"slices"
	"testing"
	"time"
)

// A seed is a plan, and another seed is another one.
func TestPlanRepeats(t *testing.T) {
	for seed := range uint64(200) {
		if a, b := newPlan(seed, 10*time.Minute, nil).String(), newPlan(seed, 10*time.Minute, nil).String(); a != b {
			t.Fatalf("seed %d has two plans:\n%s\n%s", seed, a, b)
		}
	}
	if newPlan(1, time.Minute, nil).String() == newPlan(2, time.Minute, nil).String() {
		t.Error("two seeds have one plan")
	}
}

// A plan keeps to the fault model: at most one disk is ruined, near the end; every fault begins and ends within its window; three or four kinds
// overlap, or a kill is alone.
func TestPlanKeepsToTheModel(t *testing.T) {
	seen := make(map[kind]bool)
	for seed := range uint64(300) {
		p := newPlan(seed, 3*time.Minute, nil)
		ruined := 0
		for i, w := range p.windows {
			kinds := make(map[kind]bool)
			for _, f := range w.faults {
				if kinds[f.kind] {
					t.Errorf("seed %d, window %d: two of %s", seed, i, f.kind)
				}
				kinds[f.kind], seen[f.kind] = true, true
				if f.at < 0 || f.end <= f.at || f.end > w.length {
					t.Errorf("seed %d, window %d of %s: %s", seed, i, w.length, f)
				}
				if sorted := slices.Sorted(slices.Values(f.nodes)); len(sorted) != nodes || sorted[0] != 0 || sorted[nodes-1] != nodes-1 {
					t.Errorf("seed %d: the targets of %s are %v", seed, f, f.nodes)
				}
				if f.kind == bitRot || f.kind == emptyDisk {
					if ruined++; i < len(p.windows)-ruinFromLast {
						t.Errorf("seed %d: a disk is ruined in window %d of %d", seed, i, len(p.windows))
					}
				}
			}
			delete(kinds, bitRot)
			delete(kinds, emptyDisk)
			if n := len(kinds); n != 1 && n != 3 && n != 4 {
				t.Errorf("seed %d, window %d has %d kinds", seed, i, n)
			}
		}
		if ruined > 1 {
			t.Errorf("seed %d ruins %d disks", seed, ruined)
		}
	}
	for _, k := range append(slices.Clone(kinds), bitRot, emptyDisk) {
		if !seen[k] {
			t.Errorf("%s is in no plan", k)
		}
	}
}

// What a machine cannot do is in no plan for it.
func TestPlanLeavesOut(t *testing.T) {
	unable := map[kind]string{partition: "no", killOne: "no", bitRot: "no", emptyDisk: "no"}
	for seed := range uint64(50) {
		for _, w := range newPlan(seed, 3*time.Minute, unable).windows {
			for _, f := range w.faults {
				if unable[f.kind] != "" {
					t.Errorf("seed %d: %s", seed, f)
				}
			}
		}
	}
}

func TestCuts(t *testing.T) {
	order := []int{3, 0, 4, 1, 2}
	for shape, want := range map[string]int{"isolated": 8, "halves": 12, "deaf": 4, "mute": 4, "bridge": 8, "ring": 10} {
		got := cuts(shape, order)
		if len(got) != want {
			t.Errorf("%s: %d cuts, want %d: %v", shape, len(got), want, got)
		}
		for _, c := range got {
			if c[0] == c[1] {
				t.Errorf("%s cuts node %d from itself", shape, c[0])
			}
			if shape == "deaf" && c[1] != 3 || shape == "mute" && c[0] != 3 {
				t.Errorf("%s: %v does not touch the first node", shape, c)
			}
			if shape == "bridge" && (c[0] == 2 || c[1] == 2) {
				t.Errorf("bridge: %v cuts the last node off", c)
			}
		}
	}
	if len(shapes) != 6 {
		t.Errorf("there are %d shapes", len(shapes))
	}
}
