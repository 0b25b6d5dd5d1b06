package replica

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// Campaign starts an election, with a pre-vote round first.
func (r *Replica) Campaign() error {
	if err := r.guard(r.node.Campaign); err != nil {
		return fmt.Errorf("campaign: %w", err)
	}
	return nil
}

// ForgetLeader makes a follower free to vote before its election timeout, because its leader is known to be gone.
func (r *Replica) ForgetLeader() error {
	if err := r.guard(r.node.ForgetLeader); err != nil {
		return fmt.Errorf("forget leader: %w", err)
	}
	return nil
}

// TransferLeader begins to hand the lead over to a voter.
func (r *Replica) TransferLeader(to uint64) {
	r.guard(func() error { r.node.TransferLeader(to); return nil }) //nolint:errcheck // Ready has it
}

// ReportUnreachable says that messages to a member are lost.
func (r *Replica) ReportUnreachable(id uint64) {
	r.guard(func() error { r.node.ReportUnreachable(id); return nil }) //nolint:errcheck // Ready has it
}

// ReportSnapshot says what came of sending a snapshot to a member.
func (r *Replica) ReportSnapshot(id uint64, sent bool) {
	status := raft.SnapshotFinish
	if !sent {
		status = raft.SnapshotFailure
	}
	r.guard(func() error { r.node.ReportSnapshot(id, status); return nil }) //nolint:errcheck // Ready has it
}

// ID returns the Raft id.
func (r *Replica) ID() uint64 { return r.id }

// Status describes a replica.
type Status struct {
	Term, Lead, Commit, Applied uint64
	State                       raft.StateType
	FirstIndex, LastIndex       uint64
}

// Status returns the state as of the last Ready.
func (r *Replica) Status() Status {
	return Status{
		Term: r.term, Lead: r.lead, Commit: r.commit, Applied: r.storage.applied, State: r.state,
		FirstIndex: r.storage.truncated + 1, LastIndex: r.last,
	}
}

// Committed is the index up to which entries are known to be committed, as of the last Ready.
func (r *Replica) Committed() uint64 { return r.commit }

// Leads says whether the replica leads.
func (r *Replica) Leads() bool { return r.state == raft.StateLeader }

// Lead returns the id of the leader, 0 if none is known, and the term.
func (r *Replica) Lead() (lead, term uint64) { return r.lead, r.term }

// Match returns how far each member holds the log, as the leader knows; nil on others.
func (r *Replica) Match() map[uint64]uint64 {
	if !r.Leads() {
		return nil
	}
	match := make(map[uint64]uint64)
	r.node.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) { match[id] = p.Match })
	return match
}

// Successor returns the voter that is best fit to lead after this leader: of those that the owner calls fit, the one that holds most of the
// log. There is none if those that are fit are no majority. Whether raft has heard of a member of late says nothing: it forgets that once in every
// election timeout, to find out anew.
func (r *Replica) Successor(fit func(id uint64) bool) (id uint64, ok bool) {
	var best uint64
	voters, able := 0, 0
	r.node.WithProgress(func(other uint64, typ raft.ProgressType, p tracker.Progress) {
		if typ != raft.ProgressTypePeer {
			return
		}
		voters++
		if other == r.id || !fit(other) {
			return
		}
		able++
		if p.State != tracker.StateSnapshot && p.Match >= best {
			id, best, ok = other, p.Match, true
		}
	})
	return id, ok && able > voters/2 && r.Leads()
}

// CanLead says whether a member of this leader may take over: a voter that does not wait for a snapshot.
func (r *Replica) CanLead(id uint64) bool {
	can := false
	r.node.WithProgress(func(other uint64, typ raft.ProgressType, p tracker.Progress) {
		if other == id && typ == raft.ProgressTypePeer {
			can = p.State != tracker.StateSnapshot
		}
	})
	return can && r.Leads()
}
