package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"testing"

	"github.com/raftkv/raftkv/raftnode/planted"
)

// Every planted bug has one trial, and somebody who must find it.
func TestEveryBugIsTried(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../bugs.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	tried := make(map[planted.Bug]int)
	for _, trial := range trials {
		tried[trial.bug]++
		if trial.seeds == 0 && len(trial.suites) == 0 {
			t.Errorf("nobody looks for %s", trial.bug)
		}
	}
	bugs := 0
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		name, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		bugs++
		if tried[planted.Bug(name)] != 1 {
			t.Errorf("%s has %d trials", name, tried[planted.Bug(name)])
		}
		return true
	})
	if bugs != len(trials) {
		t.Errorf("%d bugs, %d trials", bugs, len(trials))
	}
}

func TestChoose(t *testing.T) {
	if got, err := choose([]string{"map-order", "two-batches"}); err != nil || len(got) != 2 || got[1].bug != planted.TwoBatches {
		t.Errorf("chosen %v, %v", got, err)
	}
	if _, err := choose([]string{"nothing"}); err == nil {
		t.Error("a bug that there is not is chosen")
	}
}
