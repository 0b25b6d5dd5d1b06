package raftnode

import (
	"testing"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/state"
)

// A replica is damaged if most of the others agree on another digest, and only then (R25).
func TestDiverges(t *testing.T) {
	by := func(node placement.NodeID, digest uint64) saidBy { return saidBy{node, state.Digest{Low: digest}} }
	for name, test := range map[string]struct {
		all      []saidBy
		replicas int
		want     bool
	}{
		"nobody else":               {[]saidBy{by("a", 1)}, 3, false},
		"all agree":                 {[]saidBy{by("a", 1), by("b", 1), by("c", 1)}, 3, false},
		"two others agree":          {[]saidBy{by("b", 2), by("a", 1), by("c", 2)}, 3, true},
		"one other differs":         {[]saidBy{by("b", 2), by("a", 1)}, 3, false},
		"another is damaged":        {[]saidBy{by("b", 2), by("a", 1), by("c", 1)}, 3, false},
		"all differ":                {[]saidBy{by("b", 2), by("a", 1), by("c", 3)}, 3, false},
		"two of five agree":         {[]saidBy{by("b", 2), by("a", 1), by("c", 2)}, 5, false},
		"three of five agree":       {[]saidBy{by("b", 2), by("a", 1), by("c", 2), by("d", 2)}, 5, true},
		"own digest is not known":   {[]saidBy{by("b", 2), by("c", 2)}, 3, false},
		"two replicas cannot judge": {[]saidBy{by("b", 2), by("a", 1)}, 2, false},
	} {
		if got := diverges(test.all, "a", test.replicas); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// What is remembered is bounded, and a replica counts once.
func TestAgreementRemembers(t *testing.T) {
	var a agreement
	at := func(index uint64) state.Checkpoint {
		return state.Checkpoint{Index: index, Digest: state.Digest{Low: index}}
	}
	for i := range uint64(3 * agreementIndexes) {
		if got := a.hear("b", at(64*(i+1))); len(got) != 1 {
			t.Fatalf("index %d: %v", 64*(i+1), got)
		}
	}
	if len(a.at) != agreementIndexes {
		t.Errorf("%d indexes are remembered", len(a.at))
	}
	newest := uint64(64 * 3 * agreementIndexes)
	if got := a.hear("a", at(newest-64)); len(got) != 2 || got[0].node != "b" || got[1].node != "a" {
		t.Errorf("both have said %v", got)
	}
	if got := a.hear("b", at(newest)); got != nil {
		t.Errorf("said again: %v", got)
	}
	if got := a.hear("a", at(newest-64)); got != nil {
		t.Errorf("said again by this node: %v", got)
	}
	if got := a.hear("a", at(64)); got != nil {
		t.Errorf("an index that is forgotten: %v", got)
	}
}

// A checkpoint is told once, and only if there is one. (A node without a transport cannot tell any.)
func TestCheckpointsAreToldOnce(t *testing.T) {
	w := &worker{n: &Node{options: Options{NodeID: "a"}, log: quietLog()}}
	m := &member{}
	m.setConfiguration(&storev1.Configuration{Replicas: []*storev1.Replica{{Id: 1, NodeId: "a"}}})
	w.tellCheckpoint(m, state.Checkpoint{})
	if len(m.agreement.at) != 0 {
		t.Errorf("a checkpoint at index 0 is noted: %v", m.agreement.at)
	}
	w.tellCheckpoint(m, state.Checkpoint{Index: 64})
	m.setConfiguration(&storev1.Configuration{Replicas: []*storev1.Replica{{Id: 1, NodeId: "a"}, {Id: 2, NodeId: "b"}}})
	w.tellCheckpoint(m, state.Checkpoint{Index: 64})
	if len(m.agreement.at) != 1 || len(m.agreement.at[0].digests) != 1 {
		t.Errorf("noted: %v", m.agreement.at)
	}
}
