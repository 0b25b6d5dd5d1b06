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
	m := &member{shard: DataShard}
	replicas := []*storev1.Replica{
		{Id: 1, NodeId: "n1", Incarnation: 11}, {Id: 3, NodeId: "n3", Incarnation: 13}, {Id: 5, NodeId: "n2", Incarnation: 12},
	}
	m.setConfiguration(&storev1.Configuration{Replicas: replicas, NextReplicaId: 6})
	n := &Node{shards: newShardMap(&storev1.Formation{Shards: []*storev1.Formation_Shard{{Id: uint32(DataShard), Replicas: replicas}}})}
	n.members.Store(&memberTable{byShard: map[placement.ShardID]*member{DataShard: m}})
	n.identity.Store(&storev1.Identity{NodeId: "n1", Incarnation: 11})
	for name, c := range map[string]struct {
		from    transport.Peer
		shard   placement.ShardID
		to      uint64
		replica uint64
		heard   bool
	}{
		"a member":                            {transport.Peer{NodeID: "n2", Incarnation: 12}, DataShard, 11, 5, true},
		"under the name of another":           {transport.Peer{NodeID: "n3", Incarnation: 13}, DataShard, 11, 5, false},
		"on a new disk":                       {transport.Peer{NodeID: "n2", Incarnation: 99}, DataShard, 11, 5, false},
		"a replica that was removed":          {transport.Peer{NodeID: "n2", Incarnation: 12}, DataShard, 11, 2, false},
		"one that may have come in since":     {transport.Peer{NodeID: "n2", Incarnation: 12}, DataShard, 11, 6, true},
		"one on a node that has no place":     {transport.Peer{NodeID: "n4", Incarnation: 14}, DataShard, 11, 6, false},
		"one on a new disk of a node with it": {transport.Peer{NodeID: "n2", Incarnation: 99}, DataShard, 11, 6, false},
		"nobody":                              {transport.Peer{NodeID: "n2", Incarnation: 12}, DataShard, 11, 0, false},
		"for an earlier disk of ours":         {transport.Peer{NodeID: "n2", Incarnation: 12}, DataShard, 98, 5, false},
		"for a shard that is not here":        {transport.Peer{NodeID: "n2", Incarnation: 12}, DataShard + 1, 11, 5, false},
	} {
		got, sender, err := n.receiver(c.from, c.shard, c.to, &raftpb.Message{From: &c.replica})
		if c.heard != (got == m) || c.heard != (err == nil) || err != nil && !errors.Is(err, replica.ErrRejected) {
			t.Errorf("%s: heard %t, %v", name, got != nil, err)
		}
		if c.heard && (sender.GetId() != c.replica || nodeID(sender) != c.from.NodeID || sender.GetIncarnation() != c.from.Incarnation) {
			t.Errorf("%s: heard as %v", name, sender)
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
