package replica

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/raftkv/raftkv/raftnode/planted"
)

// Config says what a replica starts from. Everything comes from the log and the state machine of its node.
type Config struct {
	// ID is the Raft id; never used again within the shard (R13).
	ID uint64
	// ElectionTicks and HeartbeatTicks count Tick calls.
	ElectionTicks, HeartbeatTicks int
	// Log reads entries from disk.
	Log Log
	// HardState is as the log has it. Its commit is raised to Applied, because commits are not fsynced on their own.
	HardState *raftpb.HardState
	// TruncatedIndex and TruncatedTerm are of the entry before the first of the log, LastIndex of the last.
	TruncatedIndex, TruncatedTerm, LastIndex uint64
	// Applied and AppliedTerm are the position of the state machine, ConfState the membership at it (R10).
	Applied, AppliedTerm uint64
	ConfState            *raftpb.ConfState
	// ReadEpoch is random, so that contexts of reads are not used again after a restart (R16).
	ReadEpoch uint64
	// RingBytes bounds the entries kept in memory for members that lag. Those that are not applied may take as much again.
	RingBytes int
	// MaxMessageBytes bounds an append message, MaxInflightBytes those not yet acknowledged by a member.
	MaxMessageBytes, MaxInflightBytes uint64
	// MaxApplyBytes bounds entries handed out and not yet applied, MaxUncommittedBytes those proposed and not yet committed.
	MaxApplyBytes, MaxUncommittedBytes uint64
	// Logger takes raft's own messages.
	Logger raft.Logger
}

// Replica is one member of a Raft group. It has one owner; no method may be called while another runs.
type Replica struct {
	id      uint64
	node    *raft.RawNode
	storage *storage
	reads   reads

	// Mirrors of raft's state as of the last Ready.
	term, lead, commit uint64
	state              raft.StateType
	// last is the index of the last entry, durable or not.
	last uint64
	// restored is the index of the last snapshot that raft has taken; it goes by the membership of that since.
	restored uint64
	// leadFrom is the index of the entry with which this leader began its term.
	leadFrom uint64

	promises promises
}

// ErrNotLeader says that the replica does not lead, or is handing the lead over, or has too much uncommitted. Nothing was proposed.
var ErrNotLeader = errors.New("the replica takes no proposals now")

// New returns a replica that goes on where its log and its state machine stand.
func New(c Config) (*Replica, error) {
	if c.Applied < c.TruncatedIndex || c.Applied > c.LastIndex {
		return nil, fmt.Errorf("state machine at index %d, log holds %d to %d: entries between them are lost", c.Applied, c.TruncatedIndex+1, c.LastIndex)
	}
	hs := &raftpb.HardState{
		Term:   new(c.HardState.GetTerm()),
		Vote:   new(c.HardState.GetVote()),
		Commit: new(max(c.HardState.GetCommit(), c.Applied)),
	}
	if planted.Is(planted.VoteForgotten) {
		hs.Vote = new(uint64(0)) // R4
	}
	if planted.Is(planted.CommitBehindApplied) {
		hs.Commit = new(c.HardState.GetCommit()) // R10
	}
	if hs.GetCommit() > c.LastIndex {
		return nil, fmt.Errorf("index %d is committed, the log ends at %d: acknowledged entries are lost", hs.GetCommit(), c.LastIndex)
	}
	s := &storage{
		log: c.Log, hardState: hs, confState: c.ConfState,
		truncated: c.TruncatedIndex, truncatedTerm: c.TruncatedTerm, last: c.LastIndex,
		applied: c.Applied, appliedTerm: c.AppliedTerm,
		ring: ring{maxBytes: c.RingBytes},
	}
	node, err := raft.NewRawNode(&raft.Config{
		ID:                        c.ID,
		ElectionTick:              c.ElectionTicks,
		HeartbeatTick:             c.HeartbeatTicks,
		Storage:                   s,
		Applied:                   c.Applied,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             c.MaxMessageBytes,
		MaxCommittedSizePerReady:  c.MaxApplyBytes,
		MaxUncommittedEntriesSize: c.MaxUncommittedBytes,
		MaxInflightMsgs:           maxInflightMessages,
		MaxInflightBytes:          max(c.MaxInflightBytes, c.MaxMessageBytes),
		CheckQuorum:               true,
		PreVote:                   true,
		ReadOnlyOption:            readOnlyOption(),
		DisableProposalForwarding: true,
		StepDownOnRemoval:         true,
		Logger:                    c.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("raft: %w", err)
	}
	r := &Replica{id: c.ID, node: node, storage: s, last: c.LastIndex, term: hs.GetTerm(), commit: hs.GetCommit()}
	r.reads.epoch = c.ReadEpoch
	// What the log was read from may be in memory only, for all that the replica knows.
	r.promises = promises{term: hs.GetTerm(), vote: hs.GetVote(), open: true}
	return r, nil
}

const maxInflightMessages = 256

// readOnlyOption: a read asks a quorum whether the leader still leads. No clock is trusted for that.
func readOnlyOption() raft.ReadOnlyOption {
	if planted.Is(planted.LeaseReads) {
		return raft.ReadOnlyLeaseBased // R16
	}
	return raft.ReadOnlySafe
}

// Tick moves the replica's clock on by one tick.
func (r *Replica) Tick() {
	r.reads.age++
	r.guard(func() error { r.node.Tick(); return nil }) //nolint:errcheck // Ready has it
}

// Step takes a message of another member. The owner has checked who sent it; Step checks whether it can be true (R26). An error that
// wraps ErrRejected concerns the message alone; any other stops the replica.
func (r *Replica) Step(m *raftpb.Message) error {
	if err := r.validate(m); err != nil {
		return err
	}
	err := r.guard(func() error { return r.stepPeer(m) })
	switch {
	case err == nil, errors.Is(err, raft.ErrProposalDropped):
		return nil
	case errors.Is(err, raft.ErrStepPeerNotFound), errors.Is(err, raft.ErrStepLocalMsg):
		return fmt.Errorf("%w: %w", ErrRejected, err)
	default:
		return fmt.Errorf("step %s: %w", m.GetType(), err)
	}
}

// stepPeer makes a panic of raft over a message of another member the failure of this replica: together with its log the message cannot be
// true, as when a leader says to be committed what its own message before has cut off here. validate knows the log as of the last Ready.
// No other replica of the node has to end for that.
func (r *Replica) stepPeer(m *raftpb.Message) error {
	defer func() {
		if p := recover(); p != nil && r.storage.failure == nil {
			r.storage.failure = fmt.Errorf("a message of member %d contradicts the log: %v", m.GetFrom(), p) // guard returns it
		}
	}()
	return r.node.Step(m)
}

// Propose appends one entry. The owner drains Ready before it calls Propose, so that the Ready after it holds this entry alone and with it
// the index and the term by which its fate is known: applied under the same term, or never.
func (r *Replica) Propose(data []byte) error {
	return r.propose(func() error { return r.node.Propose(data) })
}

func (r *Replica) propose(entry func() error) error {
	if r.state != raft.StateLeader {
		return ErrNotLeader
	}
	err := r.guard(entry)
	switch {
	case err == nil:
		return nil
	case r.storage.failure != nil:
		return fmt.Errorf("propose: %w", err)
	default:
		return fmt.Errorf("%w: %w", ErrNotLeader, err)
	}
}

// Apply is work for the state machine: committed entries, in order.
type Apply struct {
	Entries []*raftpb.Entry

	responses []*raftpb.Message
}

// Read is a confirmed ReadIndex round: its reads, and those of all rounds before it, may be served from a state that has applied Index.
type Read struct {
	Round uint64
	Index uint64
}

// Output is what a replica asks its owner to do.
type Output struct {
	Append *Append
	// Messages go to other members, at once: raft puts those that imply durability into Append (R4).
	Messages []*raftpb.Message
	Apply    *Apply
	Reads    []Read
	// RoleChanged says that term, leader or role have changed.
	RoleChanged bool
}

// HasReady says whether Ready has anything. A replica whose log has failed always has: the error.
func (r *Replica) HasReady() bool { return r.storage.failure != nil || r.node.HasReady() }

// Ready returns what is to be done now, or the error of the log for which the replica must stop.
func (r *Replica) Ready() (Output, error) {
	var rd raft.Ready
	if err := r.guard(func() error { rd = r.node.Ready(); return nil }); err != nil {
		return Output{}, fmt.Errorf("read what is to be done: %w", err)
	}
	var out Output
	if rd.SoftState != nil {
		r.lead, r.state = rd.SoftState.Lead, rd.SoftState.RaftState
		out.RoleChanged = true
	}
	if !raft.IsEmptyHardState(rd.HardState) {
		out.RoleChanged = out.RoleChanged || rd.HardState.GetTerm() != r.term
		r.term, r.commit = rd.HardState.GetTerm(), rd.HardState.GetCommit()
	}
	if !raft.IsEmptySnap(rd.Snapshot) {
		r.last = rd.Snapshot.GetMetadata().GetIndex()
		r.restored = r.last
	}
	if n := len(rd.Entries); n > 0 {
		r.last = rd.Entries[n-1].GetIndex()
	}
	if rd.SoftState != nil && r.state == raft.StateLeader {
		r.leadFrom = r.last // The entry with which the term begins is the last in this Ready.
	}
	for _, rs := range rd.ReadStates {
		if round, ok := r.confirmed(rs); ok {
			out.Reads = append(out.Reads, Read{Round: round, Index: rs.Index})
		}
	}
	for _, m := range rd.Messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			out.Append = r.newAppend(m)
		case raft.LocalApplyThread:
			out.Apply = &Apply{Entries: m.GetEntries(), responses: m.GetResponses()}
		default:
			out.Messages = append(out.Messages, m)
		}
	}
	if !planted.Is(planted.CandidacyNotDurable) { // R4
		holdVotes(&out)
	}
	return out, r.hurry(&out)
}

// ApplyDone reports that an Apply is in the state machine, in the order in which they were handed out.
func (r *Replica) ApplyDone(a *Apply) error {
	last := a.Entries[len(a.Entries)-1]
	r.storage.applied, r.storage.appliedTerm = last.GetIndex(), last.GetTerm()
	if err := r.changed(a.Entries); err != nil {
		return err
	}
	for _, m := range a.responses {
		if err := r.guard(func() error { return r.node.Step(m) }); err != nil {
			return fmt.Errorf("step %s: %w", m.GetType(), err)
		}
	}
	r.storage.ring.evict(last.GetIndex())
	return nil
}

// Truncate forgets the log up to index, as far as that is applied. A member that needs a forgotten entry gets a snapshot. Unless tight is set, a
// leader keeps what members need that it hears of: one that has just taken a snapshot would otherwise need the next before it has caught up. A
// member that it does not hear of never holds a log for which tight is set.
func (r *Replica) Truncate(index uint64, tight bool) (uint64, error) {
	index = min(index, r.storage.applied)
	r.node.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) {
		switch {
		case p.State == tracker.StateSnapshot && (!tight || p.RecentActive):
			// Its next entry is the one behind the snapshot on its way; without it, it would need another.
			index = min(index, p.PendingSnapshot)
		case r.Leads() && !tight && id != r.id && p.RecentActive:
			index = min(index, p.Match)
		}
	})
	if index <= r.storage.truncated {
		return r.storage.truncated, nil
	}
	if err := r.storage.truncate(index); err != nil {
		return 0, fmt.Errorf("truncate at %d: %w", index, err)
	}
	return index, nil
}

// guard calls raft and returns the error of the log that it met, now or before: then the replica must stop (R15). Raft panics on the errors
// of its storage that are not of its protocol; such a panic ends here, any other goes on. After it raft is not to be called again.
func (r *Replica) guard(call func() error) (err error) {
	if r.storage.failure != nil {
		return r.storage.failure
	}
	defer func() {
		if r.storage.failure != nil {
			recover() //nolint:errcheck // the failure says more than the panic that it has led to
			err = r.storage.failure
		}
	}()
	return call()
}
