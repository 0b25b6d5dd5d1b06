package raftnode

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/replica"
	"github.com/raftkv/raftkv/raftnode/transport"
)

// A message is heard from the node that holds the replica which it says it is from, on the disk that this was founded on, and meant for
// this disk. Who has sent it is what its connection has proved (R13, R26).
func TestOnlyMembersAreHeard(t *testing.T) {
	m := &member{}
	m.setConfiguration(&storev1.Configuration{Replicas: []*storev1.Replica{
		{Id: 1, NodeId: "n1", Incarnation: 11}, {Id: 2, NodeId: "n2", Incarnation: 12}, {Id: 3, NodeId: "n3", Incarnation: 13},
	}})
	n := &Node{members: map[placement.ShardID]*member{DataShard: m}}
	n.identity.Store(&storev1.Identity{NodeId: "n1", Incarnation: 11})
	for name, c := range map[string]struct {
		from    transport.Peer
		shard   placement.ShardID
		to      uint64
		replica uint64
		heard   bool
	}{
		"a member":                       {transport.Peer{NodeID: "n2", Incarnation: 12}, DataShard, 11, 2, true},
		"under the name of another":      {transport.Peer{NodeID: "n3", Incarnation: 13}, DataShard, 11, 2, false},
		"on a new disk":                  {transport.Peer{NodeID: "n2", Incarnation: 99}, DataShard, 11, 2, false},
		"a replica that there never was": {transport.Peer{NodeID: "n2", Incarnation: 12}, DataShard, 11, 4, false},
		"nobody":                         {transport.Peer{NodeID: "n2", Incarnation: 12}, DataShard, 11, 0, false},
		"for an earlier disk of ours":    {transport.Peer{NodeID: "n2", Incarnation: 12}, DataShard, 98, 2, false},
		"for a shard that is not here":   {transport.Peer{NodeID: "n2", Incarnation: 12}, DataShard + 1, 11, 2, false},
	} {
		got, err := n.receiver(c.from, c.shard, c.to, &raftpb.Message{From: &c.replica})
		if c.heard != (got == m) || c.heard != (err == nil) || err != nil && !errors.Is(err, replica.ErrRejected) {
			t.Errorf("%s: heard %t, %v", name, got != nil, err)
		}
	}
}

// The others refuse the connections of a new disk under an old name, and of nodes that are not of the cluster (R13).
func TestOnlyFoundersAreAdmitted(t *testing.T) {
	n := &Node{}
	n.identity.Store(&storev1.Identity{Formation: &storev1.Formation{Members: []*storev1.Formation_Member{{NodeId: "n2", Incarnation: 12}}}})
	if err := n.admitPeer(transport.Peer{NodeID: "n2", Incarnation: 12}); err != nil {
		t.Errorf("a member: %v", err)
	}
	if err := n.admitPeer(transport.Peer{NodeID: "n2", Incarnation: 99}); !errors.Is(err, ErrFormedWithout) {
		t.Errorf("a new disk: %v", err)
	}
	if err := n.admitPeer(transport.Peer{NodeID: "n9", Incarnation: 12}); err == nil {
		t.Error("a stranger is admitted")
	}
}
