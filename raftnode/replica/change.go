package replica

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"
)

// ProposeChange proposes a change of the membership, under the conditions of Propose. Raft proposes an empty entry instead while another
// change may be under way.
func (r *Replica) ProposeChange(c *raftpb.ConfChangeV2) error {
	return r.propose(func() error { return r.node.ProposeConfChange(c) })
}

// changed makes raft go by the changes of the membership that have been applied (R11), except for those that a snapshot has brought it before:
// raft goes by a snapshot once it has taken the message, and entries that were handed out earlier are reported applied after that.
func (r *Replica) changed(entries []*raftpb.Entry) error {
	for _, e := range entries {
		if e.GetType() != raftpb.EntryConfChangeV2 || e.GetIndex() <= r.restored {
			continue
		}
		var c raftpb.ConfChangeV2
		if err := proto.Unmarshal(e.GetData(), &c); err != nil {
			return fmt.Errorf("decode the change of the membership at index %d: %w", e.GetIndex(), err)
		}
		err := r.guard(func() error { r.storage.confState = r.node.ApplyConfChange(&c); return nil })
		if err != nil {
			return fmt.Errorf("change the membership at index %d: %w", e.GetIndex(), err)
		}
	}
	return nil
}

// Restored is the index of the last snapshot that raft has taken.
func (r *Replica) Restored() uint64 { return r.restored }

// Membership is what raft goes by, as of the last entry or snapshot that is in the state.
func (r *Replica) Membership() *raftpb.ConfState { return r.storage.confState }

// Follows says whether a member is heard of, takes entries as they come, and lacks at most so many of the committed ones.
func (r *Replica) Follows(id, within uint64) bool {
	follows := false
	r.node.WithProgress(func(other uint64, _ raft.ProgressType, p tracker.Progress) {
		if other == id {
			follows = p.RecentActive && p.State == tracker.StateReplicate && p.Match+within >= r.commit
		}
	})
	return follows && r.Leads()
}
