package placement

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"
)

// ErrBadRun says that a run of slots is not one: its ends are in the wrong order or beyond SlotCount.
var ErrBadRun = errors.New("placement: bad run of slots")

// SlotRun is a run of slots, both ends included.
type SlotRun struct {
	First, Last Slot
}

// NewSlotRun checks two numbers from a message or a disk and returns the run between them.
func NewSlotRun(first, last uint32) (SlotRun, error) {
	if first > last || last >= SlotCount {
		return SlotRun{}, fmt.Errorf("%w: %d to %d, want ascending numbers below %d", ErrBadRun, first, last, SlotCount)
	}
	return SlotRun{First: Slot(first), Last: Slot(last)}, nil
}

// Len returns the number of slots in r.
func (r SlotRun) Len() int { return int(r.Last) - int(r.First) + 1 }

// SlotSet is a set of slots. The zero value is the empty set; sets are values and compare with ==.
type SlotSet struct {
	words [SlotCount / 64]uint64
}

// AllSlots returns the set of every slot.
func AllSlots() SlotSet {
	var s SlotSet
	for i := range s.words {
		s.words[i] = ^uint64(0)
	}
	return s
}

// FromRuns returns the union of runs, or ErrBadRun. Runs may come in any order and may overlap.
func FromRuns(runs []SlotRun) (SlotSet, error) {
	var s SlotSet
	for _, r := range runs {
		if _, err := NewSlotRun(uint32(r.First), uint32(r.Last)); err != nil {
			return SlotSet{}, err
		}
		s.AddRun(r)
	}
	return s, nil
}

// Add puts slot into the set. It panics if slot is not below SlotCount: slots come from SlotOf or a checked run.
func (s *SlotSet) Add(slot Slot) { s.words[slot/64] |= 1 << (slot % 64) }

// AddRun puts every slot of a checked run into the set.
func (s *SlotSet) AddRun(r SlotRun) {
	for slot := int(r.First); slot <= int(r.Last); slot++ {
		s.Add(Slot(slot))
	}
}

// Remove takes slot out of the set. It panics as Add does.
func (s *SlotSet) Remove(slot Slot) { s.words[slot/64] &^= 1 << (slot % 64) }

// Has reports whether slot is in the set. No set has a slot at or beyond SlotCount.
func (s *SlotSet) Has(slot Slot) bool {
	return slot < SlotCount && s.words[slot/64]&(1<<(slot%64)) != 0
}

// Union returns the slots that are in s or o.
func (s SlotSet) Union(o SlotSet) SlotSet {
	for i := range s.words {
		s.words[i] |= o.words[i]
	}
	return s
}

// Intersect returns the slots that are in s and o.
func (s SlotSet) Intersect(o SlotSet) SlotSet {
	for i := range s.words {
		s.words[i] &= o.words[i]
	}
	return s
}

// Minus returns the slots that are in s but not in o.
func (s SlotSet) Minus(o SlotSet) SlotSet {
	for i := range s.words {
		s.words[i] &^= o.words[i]
	}
	return s
}

// Equal reports whether s and o hold the same slots.
func (s SlotSet) Equal(o SlotSet) bool { return s == o }

// Empty reports whether the set has no slot.
func (s SlotSet) Empty() bool { return s == SlotSet{} }

// Len returns the number of slots in the set.
func (s SlotSet) Len() int {
	n := 0
	for _, w := range s.words {
		n += bits.OnesCount64(w)
	}
	return n
}

// Slots returns the slots in ascending order.
func (s SlotSet) Slots() []Slot {
	slots := make([]Slot, 0, s.Len())
	for i, w := range s.words {
		for ; w != 0; w &= w - 1 {
			slots = append(slots, Slot(i*64+bits.TrailingZeros64(w)))
		}
	}
	return slots
}

// Runs returns the set as its fewest runs, ascending and without overlap.
func (s SlotSet) Runs() []SlotRun {
	var runs []SlotRun
	for _, slot := range s.Slots() {
		if n := len(runs); n > 0 && runs[n-1].Last+1 == slot {
			runs[n-1].Last = slot
			continue
		}
		runs = append(runs, SlotRun{First: slot, Last: slot})
	}
	return runs
}

// String returns the runs for people: "0-9,12,4000-4095".
func (s SlotSet) String() string {
	var b strings.Builder
	for i, r := range s.Runs() {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d", r.First)
		if r.Last > r.First {
			fmt.Fprintf(&b, "-%d", r.Last)
		}
	}
	return b.String()
}
