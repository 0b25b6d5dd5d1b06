//go:build !planted

package raftnode

import (
	"bytes"
	"os"
	"testing"
)

// Nothing of a planted bug is in a program that is built without the tag: the compiler has removed them, their names included. This test is
// such a program; it must not say the names itself.
func TestNoPlantedBugIsLeft(t *testing.T) {
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, halves := range [][2]string{
		{"log-not-", "synced"},
		{"damage-cut-", "as-tail"},
		{"two-", "batches"},
		{"vote-", "forgotten"},
		{"cluster-", "unchecked"},
		{"read-before-", "applied"},
		{"RAFTKV_", "BUG"},
		{"RAFTKV_", "FAILPOINTS"},
	} {
		if bytes.Contains(code, []byte(halves[0]+halves[1])) {
			t.Errorf("%s%s is in it", halves[0], halves[1])
		}
	}
}
