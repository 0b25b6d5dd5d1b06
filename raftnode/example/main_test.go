package main

import (
	"bytes"
	"testing"
)

// The counter counts on, from the same directories, after all nodes have stopped.
func TestCounter(t *testing.T) {
	dir := t.TempDir()
	for _, want := range []string{
		"added 1 through node a: 1\nadded 2 through node b: 3\nadded 3 through node c: 6\nnode a reads 6\n",
		"added 1 through node a: 7\nadded 2 through node b: 9\nadded 3 through node c: 12\nnode a reads 12\n",
	} {
		var out bytes.Buffer
		if err := run(dir, &out); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("got\n%swant\n%s", &out, want)
		}
	}
}
