package nodetest

import (
	"strings"
	"testing"
	"time"
)

// branched is a write of key a under a condition on it, which does something else to it if that does not hold.
func branched(outcome Outcome, holds, then, otherwise string, revision, version uint64) *Operation {
	op := &Operation{
		Client: 1, Kind: Write, Shard: 1, Condition: &Condition{Value: holds}, Changes: []Change{{Value: then}}, Otherwise: []Change{{Value: otherwise}},
		Call: time.Duration(revision) * 10, Return: time.Duration(revision)*10 + 5, Outcome: outcome, Revision: revision, Origin: revision, Attempts: 1,
		Cells: []Cell{{Version: version, Existed: version > 1}},
	}
	op.Cells[0].Value = op.done()[0].Value
	return op
}

func seenAs(value string, revision, version uint64) *Operation {
	return &Operation{
		Client: 2, Kind: Read, Shard: 1, Call: time.Duration(revision)*10 + 6, Return: time.Duration(revision)*10 + 7, Outcome: Done, Origin: revision,
		Cells: []Cell{{Value: value, Version: version, Revision: revision}},
	}
}

// Both branches of a write are checked: which one was taken, what it has done and what it says that it has found.
func TestBranchesAreChecked(t *testing.T) {
	first := branched(Done, "", "v1", "v2", 1, 1)
	second := branched(CompareFailed, "other", "v3", "v4", 2, 2)
	second.Current, second.Before = 1, []Cell{{Value: "v1", Version: 1, Revision: 1}}
	for name, c := range map[string]struct {
		change        func(second, read *Operation)
		replay, blind string
	}{
		"sound":                   {func(_, _ *Operation) {}, "", ""},
		"the branch that was not": {func(_, read *Operation) { read.Cells[0].Value = "v3" }, "has left", "not linearizable"},
		"a condition that held":   {func(second, _ *Operation) { second.Condition.Value = "v1" }, "the condition holds", "not linearizable"},
		"a branch that should not": {func(second, _ *Operation) {
			second.Outcome, second.Changes, second.Otherwise = Done, second.Otherwise, second.Changes
		}, "is done, but", "not linearizable"},
		"found something else":   {func(second, _ *Operation) { second.Before[0].Value = "v9" }, "says that it has found", "not linearizable"},
		"made another version":   {func(second, _ *Operation) { second.Cells[0].Version = 7 }, "has left", "not linearizable"},
		"failed for another key": {func(second, _ *Operation) { second.Current = 9 }, "because of revision 9", ""},
	} {
		t.Run(name, func(t *testing.T) {
			op, read := *second, seenAs("v4", 2, 2)
			condition := *op.Condition
			op.Condition, op.Cells, op.Before = &condition, []Cell{second.Cells[0]}, []Cell{second.Before[0]}
			c.change(&op, read)
			h := &History{Operations: []*Operation{first, &op, read}}
			expect(t, CheckReplay(h), c.replay)
			expect(t, CheckLinearizable(h, time.Minute), c.blind)
			if err := CheckRevisions(h); name == "sound" && err != nil {
				t.Error(err)
			}
			if err := CheckDurable(h, []*Operation{read}); name == "sound" && err != nil {
				t.Error(err)
			}
		})
	}
}

// expect checks that an error says something; empty: that there is none.
func expect(t *testing.T, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}

// What an unknown write may have done is what either branch does.
func TestUnknownBranches(t *testing.T) {
	first := branched(Done, "", "v1", "v2", 1, 1)
	lost := branched(Done, "v1", "v3", "v4", 2, 2)
	lost.Revision, lost.Cells = 0, nil
	lost.Lose()
	for value, ok := range map[string]bool{"v3": true, "v4": false} {
		h := &History{Operations: []*Operation{first, lost, seenAs(value, 2, 2)}}
		if err := CheckReplay(h); err != nil {
			t.Errorf("%s: %v", value, err)
		}
		if err := CheckLinearizable(h, time.Minute); (err == nil) != ok {
			t.Errorf("%s: %v", value, err)
		}
	}
}
