package nodetest

import (
	"cmp"
	"fmt"
	"io"
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
	for g, ops := range groups {
		switch result := porcupine.CheckOperationsTimeout(groupModel, searched(ops), timeout); result {
		case porcupine.Ok:
		case porcupine.Illegal:
			return &LinearityError{Group: g, problem: "is not linearizable:\n" + describe(ops)}
		default:
			return &LinearityError{Group: g, problem: fmt.Sprintf("has %d operations, which could not be checked within %s", len(ops), timeout)}
		}
	}
	return nil
}

// LinearityError names a group whose operations no order explains, or for which none was found in time.
type LinearityError struct {
	Group   int
	problem string
}

func (e *LinearityError) Error() string { return fmt.Sprintf("group %d %s", e.Group, e.problem) }

// Draw writes a page that shows the operations of a group, and how far an order was found for them.
func Draw(h *History, group int, timeout time.Duration, w io.Writer) error {
	ops := slices.DeleteFunc(slices.Clone(h.Operations), func(op *Operation) bool { return op.Group != group })
	_, info := porcupine.CheckOperationsVerbose(groupModel, searched(ops), timeout)
	return porcupine.Visualize(groupModel, info, w)
}

// searched sorts operations of one group and returns them in porcupine's form.
func searched(group []*Operation) []porcupine.Operation {
	slices.SortStableFunc(group, func(a, b *Operation) int { return cmp.Compare(a.Call, b.Call) })
	var ops []porcupine.Operation
	for _, op := range group {
		ops = append(ops, porcupine.Operation{ClientId: op.Client, Input: op, Output: op, Call: int64(op.Call), Return: int64(op.Return)})
	}
	return ops
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
	Init:              func() any { return groupState{} },
	Equal:             func(a, b any) bool { return a.(groupState) == b.(groupState) },
	DescribeOperation: func(input, _ any) string { return input.(*Operation).String() },
	DescribeState:     func(state any) string { return fmt.Sprint(state) },
	Step: func(state, input, _ any) (bool, any) {
		s, op := state.(groupState), input.(*Operation)
		if op.Kind == Read {
			for i, c := range op.Cells {
				if k := op.From + i; s[k].value != c.Value || s[k].version != c.Version {
					return false, state
				}
			}
			return true, state
		}
		holds := op.Condition == nil || s[op.Condition.Key].value == op.Condition.Value
		switch {
		case op.Outcome != Unknown && holds != (op.Outcome == Done):
			return false, state
		case holds:
			return s.write(op, op.Changes)
		default:
			return s.write(op, op.Otherwise)
		}
	},
}

// write applies what a write has done, and compares what its client was told.
func (s groupState) write(op *Operation, changes []Change) (bool, any) {
	for i, c := range changes {
		at := &s[c.Key]
		if op.Before != nil && (op.Before[i].Value != at.value || op.Before[i].Version != at.version) {
			return false, s
		}
		existed := at.version > 0
		if c.Delete {
			at.value, at.version = "", 0
		} else {
			at.value = c.Value
			at.version++
		}
		if op.Outcome != Unknown && (op.Cells[i].Existed != existed || op.Cells[i].Version != at.version) {
			return false, s
		}
	}
	return true, s
}
