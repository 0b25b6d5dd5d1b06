package raftnode

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
)

// Changes of a membership, one at a time and of one replica each: a new replica comes in as a learner, under an id that was never used, a
// learner becomes a voter, any replica goes out (R12, R13). Raft's entry carries who a new replica is.

func singleChange(typ raftpb.ConfChangeType, id uint64) *raftpb.ConfChangeV2 {
	return &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{Type: typ.Enum(), NodeId: new(id)}}}
}

func removal(id uint64) *raftpb.ConfChangeV2 { return singleChange(raftpb.ConfChangeRemoveNode, id) }

func promotion(id uint64) *raftpb.ConfChangeV2 { return singleChange(raftpb.ConfChangeAddNode, id) }

func addition(r *storev1.Replica) (*raftpb.ConfChangeV2, error) {
	who, err := r.MarshalVT()
	if err != nil {
		return nil, fmt.Errorf("encode the new replica: %w", err)
	}
	c := singleChange(raftpb.ConfChangeAddLearnerNode, r.GetId())
	c.Context = who
	return c, nil
}

// changedBy is the membership that an entry makes of c. What it returns depends on the two alone (R20); an entry that does not fit stops the
// replica, because raft would go by another membership.
func changedBy(c *storev1.Configuration, entry *raftpb.Entry) (*storev1.Configuration, error) {
	var cc raftpb.ConfChangeV2
	if err := proto.Unmarshal(entry.GetData(), &cc); err != nil {
		return nil, fmt.Errorf("decode the change of the membership: %w", err)
	}
	if len(cc.GetChanges()) != 1 || len(c.GetVotersOutgoing()) > 0 {
		return nil, fmt.Errorf("a change of %d members at once is not known to this version of raftkv; use a newer one", len(cc.GetChanges()))
	}
	next := proto.Clone(c).(*storev1.Configuration)
	next.Index = entry.GetIndex()
	next.NextReplicaId = nextReplica(c)
	id := cc.GetChanges()[0].GetNodeId()
	voter, learner := slices.Contains(c.GetVoters(), id), slices.Contains(c.GetLearners(), id)
	switch typ := cc.GetChanges()[0].GetType(); {
	case typ == raftpb.ConfChangeAddLearnerNode && id == next.NextReplicaId:
		r := &storev1.Replica{}
		if err := r.UnmarshalVT(cc.GetContext()); err != nil || r.GetId() != id {
			return nil, fmt.Errorf("the new replica %d is not described: %w", id, err)
		}
		next.Learners, next.Replicas = append(next.Learners, id), append(next.Replicas, r)
		next.NextReplicaId++
	case typ == raftpb.ConfChangeAddNode && learner:
		next.Learners = without(next.Learners, id)
		next.Voters = append(next.Voters, id)
		slices.Sort(next.Voters)
	case typ == raftpb.ConfChangeRemoveNode && (learner || voter && len(c.GetVoters()) > 1):
		next.Voters, next.Learners = without(next.Voters, id), without(next.Learners, id)
		next.Replicas = slices.DeleteFunc(next.Replicas, func(r *storev1.Replica) bool { return r.GetId() == id })
	default:
		return nil, fmt.Errorf("%s of replica %d does not fit a membership of voters %d and learners %d", typ, id, c.GetVoters(), c.GetLearners())
	}
	return next, nil
}

func without(ids []uint64, id uint64) []uint64 {
	return slices.DeleteFunc(ids, func(other uint64) bool { return other == id })
}

// nextReplica is the id that no replica of the shard has had yet.
func nextReplica(c *storev1.Configuration) uint64 {
	next := c.GetNextReplicaId()
	for _, r := range c.GetReplicas() {
		next = max(next, r.GetId()+1)
	}
	return next
}

// sameMembership says whether raft goes by the membership that the state has.
func sameMembership(c *storev1.Configuration, raft *raftpb.ConfState) bool {
	return slices.Equal(c.GetVoters(), raft.GetVoters()) && slices.Equal(c.GetLearners(), raft.GetLearners())
}
