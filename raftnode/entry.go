package raftnode

import (
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
)

// confState is a membership as raft knows it.
func confState(c *storev1.Configuration) *raftpb.ConfState {
	return &raftpb.ConfState{
		Voters: c.GetVoters(), Learners: c.GetLearners(), VotersOutgoing: c.GetVotersOutgoing(), LearnersNext: c.GetLearnersNext(),
		AutoLeave: new(c.GetAutoLeave()),
	}
}

func sortIDs(ids []uint64) { slices.Sort(ids) }
