package raftnode

import (
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
)

func threeReplicas() *storev1.Configuration {
	return &storev1.Configuration{Index: 2, Voters: []uint64{1, 2, 3}, Replicas: []*storev1.Replica{
		{Id: 1, NodeId: "n1"}, {Id: 2, NodeId: "n2"}, {Id: 3, NodeId: "n3", Incarnation: 7},
	}}
}

func changeEntry(t *testing.T, index uint64, c *raftpb.ConfChangeV2) *raftpb.Entry {
	t.Helper()
	data, err := proto.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return &raftpb.Entry{Type: raftpb.EntryConfChangeV2.Enum(), Index: new(index), Data: data}
}

func newReplica(t *testing.T, id uint64) *raftpb.ConfChangeV2 {
	t.Helper()
	c, err := addition(&storev1.Replica{Id: id, NodeId: "n3", Incarnation: 7})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A replica is replaced step by step, under an id that no replica has had, the highest removed one included (R13).
func TestReplacingAReplica(t *testing.T) {
	c := threeReplicas()
	for i, step := range []struct {
		change           *raftpb.ConfChangeV2
		voters, learners []uint64
		next             uint64
	}{
		{removal(3), []uint64{1, 2}, nil, 4},
		{newReplica(t, 4), []uint64{1, 2}, []uint64{4}, 5},
		{removal(4), []uint64{1, 2}, nil, 5},
		{newReplica(t, 5), []uint64{1, 2}, []uint64{5}, 6},
		{promotion(5), []uint64{1, 2, 5}, nil, 6},
	} {
		before := proto.Clone(c)
		next, err := changedBy(c, changeEntry(t, uint64(10+i), step.change))
		if err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(before, c) {
			t.Errorf("step %d changes the membership before it", i)
		}
		c = next
		if !slices.Equal(c.GetVoters(), step.voters) || !slices.Equal(c.GetLearners(), step.learners) || c.GetIndex() != uint64(10+i) || nextReplica(c) != step.next {
			t.Fatalf("step %d: %v", i, c)
		}
		if want := len(step.voters) + len(step.learners); len(c.GetReplicas()) != want {
			t.Errorf("step %d: %d replicas are described, want %d", i, len(c.GetReplicas()), want)
		}
	}
	if r := c.GetReplicas()[2]; r.GetId() != 5 || r.GetNodeId() != "n3" || r.GetIncarnation() != 7 {
		t.Errorf("the new replica is %v", r)
	}
}

// A change that does not fit stops the replica: raft would go by another membership than the state.
func TestChangesThatDoNotFit(t *testing.T) {
	alone := &storev1.Configuration{Voters: []uint64{1}, Replicas: []*storev1.Replica{{Id: 1}}}
	joint := threeReplicas()
	joint.VotersOutgoing = []uint64{1, 2}
	for name, test := range map[string]struct {
		c      *storev1.Configuration
		change *raftpb.ConfChangeV2
		want   string
	}{
		"an id that was used":      {threeReplicas(), newReplica(t, 3), "does not fit"},
		"an id that is too high":   {threeReplicas(), newReplica(t, 9), "does not fit"},
		"a replica without a name": {threeReplicas(), singleChange(raftpb.ConfChangeAddLearnerNode, 4), "not described"},
		"promoting a voter":        {threeReplicas(), promotion(2), "does not fit"},
		"promoting nobody":         {threeReplicas(), promotion(4), "does not fit"},
		"removing nobody":          {threeReplicas(), removal(4), "does not fit"},
		"removing the last voter":  {alone, removal(1), "does not fit"},
		"two changes at once":      {threeReplicas(), &raftpb.ConfChangeV2{Changes: append(removal(1).Changes, removal(2).Changes...)}, "not known to this version"},
		"leaving a joint one":      {joint, removal(1), "not known to this version"},
	} {
		if _, err := changedBy(test.c, changeEntry(t, 9, test.change)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := changedBy(threeReplicas(), &raftpb.Entry{Data: []byte{0xff}}); err == nil {
		t.Error("an entry that cannot be decoded is applied")
	}
}
