package raftnode

import (
	"testing"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/simfs"
)

// What an identity says is there after a crash as soon as it is written: a node that forgot its incarnation, or that it has agreed to a
// formation, would be another (R7, R13).
func TestIdentityIsDurable(t *testing.T) {
	disk := simfs.New(simfs.Options{Seed: 1})
	if err := disk.MkdirAll("/data", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syncDir(disk, "/"); err != nil {
		t.Fatal(err)
	}
	for incarnation := range uint64(3) {
		if err := writeIdentity(disk, "/data", &storev1.Identity{NodeId: "n1", Incarnation: incarnation}); err != nil {
			t.Fatal(err)
		}
		id, err := readIdentity(disk.Image(simfs.CrashOptions{Keep: simfs.KeepSynced}), "/data")
		if err != nil || id == nil || id.GetIncarnation() != incarnation {
			t.Errorf("after a crash: %v, %v; incarnation %d was written", id, err, incarnation)
		}
	}
}
