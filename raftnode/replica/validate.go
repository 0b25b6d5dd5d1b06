package replica

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/raftkv/raftkv/raftnode/planted"
)

// ErrRejected wraps every reason for which a message of another member is not stepped.
var ErrRejected = errors.New("peer message rejected")

// ErrAmnesia says that another member knows this replica to have had entries that it does not have: its log has lost acknowledged
// entries, and the replica must not go on (R15).
var ErrAmnesia = errors.New("the log has lost acknowledged entries")

// peerTypes are the messages that members send each other. Everything else is local to a member.
var peerTypes = map[raftpb.MessageType]bool{
	raftpb.MsgApp: true, raftpb.MsgAppResp: true, raftpb.MsgVote: true, raftpb.MsgVoteResp: true,
	raftpb.MsgPreVote: true, raftpb.MsgPreVoteResp: true, raftpb.MsgSnap: true, raftpb.MsgHeartbeat: true,
	raftpb.MsgHeartbeatResp: true, raftpb.MsgTimeoutNow: true, raftpb.MsgReadIndex: true, raftpb.MsgReadIndexResp: true,
}

// numberMax leaves terms and indexes room to grow: raft counts on from what it hears, and 0 behind the last number means something else to it.
const numberMax = 1 << 62

// validate refuses messages that raft would panic on or would believe though they cannot be true (R26).
func (r *Replica) validate(m *raftpb.Message) error {
	if !peerTypes[m.GetType()] {
		return fmt.Errorf("%w: type %s is not for other members", ErrRejected, m.GetType())
	}
	if m.GetTo() != r.id || m.GetFrom() == r.id || m.GetFrom() == raft.None {
		return fmt.Errorf("%w: %s from %d to %d, this is %d", ErrRejected, m.GetType(), m.GetFrom(), m.GetTo(), r.id)
	}
	if m.GetTerm() == 0 && m.GetType() != raftpb.MsgReadIndex {
		// Term 0 marks local messages; raft would skip its term checks.
		return fmt.Errorf("%w: %s without a term", ErrRejected, m.GetType())
	}
	if max(m.GetTerm(), m.GetIndex(), m.GetLogTerm(), m.GetCommit(), m.GetRejectHint(), m.GetSnapshot().GetMetadata().GetIndex()) > numberMax {
		return fmt.Errorf("%w: %s with a term or an index that no cluster reaches", ErrRejected, m.GetType())
	}
	if len(m.GetResponses()) != 0 {
		return fmt.Errorf("%w: %s carries responses", ErrRejected, m.GetType())
	}
	switch m.GetType() {
	case raftpb.MsgApp:
		return validateEntries(m)
	case raftpb.MsgHeartbeat:
		if planted.Is(planted.HeartbeatUnchecked) {
			return nil // R26
		}
		return r.validateHeartbeat(m)
	case raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
		if len(m.GetEntries()) != 1 || len(m.GetEntries()[0].GetData()) != readContextBytes {
			return fmt.Errorf("%w: %s without one context", ErrRejected, m.GetType())
		}
	case raftpb.MsgHeartbeatResp:
		if n := len(m.GetContext()); n != 0 && n != 8 {
			return fmt.Errorf("%w: heartbeat answer with a context of %d bytes", ErrRejected, n)
		}
	case raftpb.MsgAppResp:
		if !m.GetReject() && m.GetTerm() == r.term && m.GetIndex() > r.last {
			return fmt.Errorf("%w: index %d acknowledged, the log ends at %d", ErrRejected, m.GetIndex(), r.last)
		}
	case raftpb.MsgSnap:
		return validateSnapshot(m.GetSnapshot().GetMetadata())
	}
	return nil
}

// validateSnapshot checks the position and the membership, which raft panics on if it is none.
func validateSnapshot(meta *raftpb.SnapshotMetadata) error {
	if meta.GetIndex() == 0 || meta.GetTerm() == 0 || meta.GetTerm() > numberMax || meta.GetConfState() == nil {
		return fmt.Errorf("%w: snapshot without index, term or members", ErrRejected)
	}
	trk := tracker.MakeProgressTracker(1, 0)
	config, _, err := confchange.Restore(confchange.Changer{Tracker: trk, LastIndex: meta.GetIndex()}, meta.GetConfState())
	if err == nil {
		trk.Config = config
		err = meta.GetConfState().Equivalent(trk.ConfState())
	}
	if err != nil {
		return fmt.Errorf("%w: snapshot with members that cannot be: %w", ErrRejected, err)
	}
	return nil
}

// validateEntries checks that the entries of an append are contiguous, of terms that do not fall, and not newer than the message.
func validateEntries(m *raftpb.Message) error {
	index, term := m.GetIndex(), m.GetLogTerm()
	for _, e := range m.GetEntries() {
		index++
		if e == nil || e.GetIndex() != index || e.GetTerm() < term || e.GetTerm() > m.GetTerm() || e.GetTerm() == 0 {
			return fmt.Errorf("%w: entry %d of term %d does not follow index %d of term %d", ErrRejected, e.GetIndex(), e.GetTerm(), index-1, term)
		}
		term = e.GetTerm()
	}
	return nil
}

// validateHeartbeat checks the commit index, on which raft panics if the log is shorter. A leader sends at most what this member has
// acknowledged to it, so a higher one of the current or a later term means that this log has lost entries, or that the message lies;
// the sender is a member that passed the checks of identity, so amnesia it is.
func (r *Replica) validateHeartbeat(m *raftpb.Message) error {
	if m.GetCommit() <= r.last {
		return nil
	}
	if m.GetTerm() < r.term {
		return fmt.Errorf("%w: heartbeat of a past term", ErrRejected)
	}
	return fmt.Errorf("%w: member %d knows index %d to be committed here, the log ends at %d", ErrAmnesia, m.GetFrom(), m.GetCommit(), r.last)
}
