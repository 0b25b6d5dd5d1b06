package replica

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftkv/raftkv/raftnode/planted"
)

// Append is work for the log. Everything in it is durable before AppendDone, except when Sync is false.
type Append struct {
	HardState *raftpb.HardState
	Entries   []*raftpb.Entry
	// Snapshot replaces log and state, if set.
	Snapshot *raftpb.Snapshot
	// Sync says that something waits for durability (R4).
	Sync bool

	responses []*raftpb.Message
}

// promises is what of the appends handed out so far a message may speak for: entries, term and vote. The commit index is no promise: it is
// found again.
type promises struct {
	term, vote uint64 // as of the last append
	// open says that there are some that no fsync has been asked for yet.
	open bool
}

// newAppend makes the append of a Ready. Responses need an fsync only if they, or an append before that had none, promise anything new: a
// follower that is told a commit index acknowledges what it has acknowledged already. Appends are done in order, so the fsync that made that
// durable is behind it when the responses leave (R4).
func (r *Replica) newAppend(m *raftpb.Message) *Append {
	a := &Append{Entries: m.GetEntries(), responses: m.GetResponses()}
	if m.GetTerm() != 0 || m.GetVote() != 0 || m.GetCommit() != 0 {
		a.HardState = &raftpb.HardState{Term: new(m.GetTerm()), Vote: new(m.GetVote()), Commit: new(m.GetCommit())}
		term := m.GetTerm() != r.promises.term && !planted.Is(planted.TermNotPromised) // R4
		vote := m.GetVote() != r.promises.vote && !planted.Is(planted.VoteNotPromised) // R4
		r.promises.term, r.promises.vote = m.GetTerm(), m.GetVote()
		r.promises.open = r.promises.open || term || vote
	}
	if !raft.IsEmptySnap(m.GetSnapshot()) {
		a.Snapshot = m.GetSnapshot()
	}
	r.promises.open = r.promises.open || len(a.Entries) > 0 || a.Snapshot != nil
	if a.Sync = r.promises.open && len(a.responses) > 0; a.Sync {
		r.promises.open = false
	}
	return a
}

// holdVotes makes requests for votes wait until the candidate's own term, vote and log are durable (R4). Raft lets them leave at once and
// only holds the candidate's vote for itself; the others' votes alone could then make it leader of a term that it forgets in a crash, and leads
// again with other entries. That vote for itself is in the append of the same Ready.
func holdVotes(out *Output) {
	rest := out.Messages[:0]
	var votes []*raftpb.Message
	for _, m := range out.Messages {
		if m.GetType() == raftpb.MsgVote {
			votes = append(votes, m)
		} else {
			rest = append(rest, m)
		}
	}
	if len(votes) == 0 {
		return
	}
	out.Messages = rest
	if out.Append != nil {
		out.Append.responses = append(votes, out.Append.responses...)
		out.Append.Sync = true
	}
}

// AppendDone reports that an Append is durable, in the order in which they were handed out. It returns messages for other members.
func (r *Replica) AppendDone(a *Append) ([]*raftpb.Message, error) {
	if a.Snapshot != nil {
		r.storage.installed(a.Snapshot.GetMetadata())
	}
	r.storage.appended(a.Entries)
	var out []*raftpb.Message
	for _, m := range a.responses {
		if m.GetTo() == r.id {
			if err := r.guard(func() error { return r.node.Step(m) }); err != nil {
				return nil, fmt.Errorf("step %s: %w", m.GetType(), err)
			}
			continue
		}
		if m.GetType() == raftpb.MsgAppResp && m.GetTerm() < r.term {
			// Of a term that has passed since: what it acknowledges may be overwritten by the same append.
			continue
		}
		if m.GetType() == raftpb.MsgAppResp && !m.GetReject() && m.GetIndex() > r.storage.last {
			// R5: an acknowledgement is never above what is durable here. Reaching this is a bug, and stopping the only safe answer.
			return nil, fmt.Errorf("index %d would be acknowledged, the durable log ends at %d", m.GetIndex(), r.storage.last)
		}
		if m.GetType() == raftpb.MsgAppResp && !m.GetReject() && planted.Is(planted.AckAboveDurable) {
			m.Index = new(r.last) // R5
		}
		out = append(out, m)
	}
	return out, nil
}
