package placement

import "testing"

// What follows from the id of a lease is where its record stands: it can never change.
func TestSlotsOfLeases(t *testing.T) {
	for id, want := range map[uint64]Slot{
		1: SlotOf("lease/1"), 42: SlotOf("lease/42"), 1<<63 - 1: SlotOf("lease/9223372036854775807"),
	} {
		if got := SlotOfLease(id); got != want {
			t.Errorf("lease %d: slot %d, want %d", id, got, want)
		}
	}
}
