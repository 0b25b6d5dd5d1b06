package state

import (
	"errors"
	"testing"
)

// The state before the first history kept can be read, but its clock has gone with its history: that is no damage.
func TestRevisionClockOfAForgottenRevision(t *testing.T) {
	m := newServing(t, Options{})
	for range 6 {
		m.one(putCommand("a", "v"))
	}
	m.one(trimCommand(4, 9))
	v := viewOf(t, m.store)
	if _, err := v.GetAt(testShard, "a", 3); err != nil {
		t.Errorf("the state before the first history: %v", err)
	}
	var compacted *CompactedError
	if _, err := v.RevisionClock(testShard, 3); !errors.As(err, &compacted) || compacted.Floor != 4 {
		t.Errorf("the clock of a revision whose history has gone: %v", err)
	}
	if _, err := v.RevisionClock(testShard, 4); err != nil {
		t.Error(err)
	}
}
