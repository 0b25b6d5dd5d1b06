package nodetest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// CheckLinearizable searches an order of the operations that explains what every client saw: group by group, because operations on
// different groups say nothing about each other. It believes nothing but times and answers. Not to know in time is a failure.
//
// Writes of unknown outcome stay in, though nobody may have seen their values: the versions of their keys tell of them.
func CheckLinearizable(h *History, timeout time.Duration) error {
	groups := make(map[int][]*Operation)
	for _, op := range h.Operations {
		groups[op.Group] = append(groups[op.Group], op)
	}
	for g := range groups {
		slices.SortStableFunc(groups[g], func(a, b *Operation) int { return cmp.Compare(a.Call, b.Call) })
		var ops []porcupine.Operation
		for _, op := range groups[g] {
			ops = append(ops, porcupine.Operation{ClientId: op.Client, Input: op, Output: op, Call: int64(op.Call), Return: int64(op.Return)})
		}
		switch result := porcupine.CheckOperationsTimeout(groupModel, ops, timeout); result {
		case porcupine.Ok:
		case porcupine.Illegal:
			return fmt.Errorf("group %d is not linearizable:\n%s", g, describe(groups[g]))
		default:
			return fmt.Errorf("group %d: %d operations could not be checked within %s", g, len(ops), timeout)
		}
	}
	return nil
}

func describe(ops []*Operation) string {
	var b strings.Builder
	for _, op := range ops {
		fmt.Fprintf(&b, "  %s\n", op)
	}
	return b.String()
}

// groupState is the keys of a group: values and versions.
type groupState [GroupKeys]struct {
	value   string
	version uint64
}

var groupModel = porcupine.Model{
	Init:  func() any { return groupState{} },
	Equal: func(a, b any) bool { return a.(groupState) == b.(groupState) },
	Step: func(state, input, _ any) (bool, any) {
		s, op := state.(groupState), input.(*Operation)
		if op.Kind == Read {
			for k, c := range op.Cells {
				if s[k].value != c.Value || s[k].version != c.Version {
					return false, state
				}
			}
			return true, state
		}
		holds := op.Condition == nil || s[op.Condition.Key].value == op.Condition.Value
		if op.Outcome == CompareFailed {
			return !holds, state
		}
		if !holds {
			return op.Outcome == Unknown, state
		}
		return s.write(op)
	},
}

// write applies a write and compares what its client was told.
func (s groupState) write(op *Operation) (bool, any) {
	for i, c := range op.Changes {
		at := &s[c.Key]
		existed := at.version > 0
		if c.Delete {
			at.value, at.version = "", 0
		} else {
			at.value = c.Value
			at.version++
		}
		if op.Outcome == Done && (op.Cells[i].Existed != existed || op.Cells[i].Version != at.version) {
			return false, s
		}
	}
	return true, s
}
