package raftnode

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/failpoint"
	"github.com/raftkv/raftkv/raftnode/logstore"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
	"github.com/raftkv/raftkv/raftnode/replica"
)

// The log of a new shard starts behind two entries that are never written: as if one of term 1 had made the slot table and the next the
// membership.
const (
	firstIndex = 2
	firstTerm  = 1
	// firstReplica is the lowest Raft id of a new shard.
	firstReplica = 1
)

// openShards brings every shard of this node to where its replica can go on, and makes the members.
func (n *Node) openShards() error {
	for _, s := range n.identity.Load().GetFormation().GetShards() {
		// A clone: the record that is made for a sound replica is not kept.
		r := replacementOf(cloneIdentity(n.identity.Load()), s, n.options.NodeID)
		if r == nil {
			continue
		}
		if err := n.openReplica(s, r); err != nil {
			return fmt.Errorf("shard %d: %w", s.GetId(), err)
		}
	}
	return n.clearStaging()
}

// openReplica lets the replica of a shard take part, or puts it in quarantine.
func (n *Node) openReplica(s *storev1.Formation_Shard, r *storev1.Replacement) error {
	shard := placement.ShardID(s.GetId())
	wait := &rebuild{n: n, shard: shard, id: r.GetReplicaId(), damage: r.GetDamage()}
	if wait.damage == "" {
		m, err := n.openShard(s, r.GetReplicaId())
		switch d, damaged := damageOf(err); {
		case damaged && d.all:
			return err // Replicas that are open already are damaged as well. The node stops, and the next start goes on from the note.
		case damaged:
			if err := n.condemn(d, err); err != nil {
				return err
			}
			wait.damage = err.Error()
		case err != nil:
			return err
		case m != nil:
			n.addMember(m)
			return nil
		default:
			wait.blank = true
		}
	}
	n.rebuilds.add(wait)
	return nil
}

// openShard recovers one shard. With A the durable applied index and S that of an intent: intent and A < S: ingest again, then reset;
// intent and A ≥ S: reset only; no intent: A must lie within the log, else acknowledged entries are lost. It returns no member for a replica
// that was taken in instead of a damaged one and has nothing yet.
func (n *Node) openShard(s *storev1.Formation_Shard, id uint64) (*member, error) {
	shard := placement.ShardID(s.GetId())
	at, err := n.engine.open(shard)
	if err != nil {
		return nil, err
	}
	log, exists := n.logs.State(shard)
	if !exists && (!n.identity.Load().GetFormed() || planted.Is(planted.LostLogBegunAnew)) { // R14
		if err := n.bootstrap(s, at); err != nil {
			return nil, err
		}
		log, exists = n.logs.State(shard)
		at = n.engine.position(shard)
	}
	if !exists {
		return nil, &damageError{shard, errors.New("its log is gone")}
	}
	if log.Intent != nil {
		if log, err = n.finishInstall(shard, log, at); err != nil {
			return nil, err
		}
		at = n.engine.position(shard)
	}
	if at.index == 0 && log.LastIndex == 0 {
		return nil, nil
	}
	c := n.engine.configuration(shard)
	if c == nil || !slices.Contains(slices.Concat(c.GetVoters(), c.GetLearners(), c.GetVotersOutgoing()), id) {
		return nil, &damageError{shard, fmt.Errorf("replica %d is not in the membership of its state", id)}
	}
	m, err := n.newMember(shard, id, log, at, c)
	if err != nil {
		return nil, err
	}
	if log.LastIndex == firstIndex && id == firstReplica {
		// A new shard needs no election timeout to find that it has no leader: its first replica asks for votes once its peers had
		// time to connect. Should another be faster, it finds a leader by then.
		m.campaignAt = n.runtime.Now().Add(2 * n.options.HeartbeatInterval)
	}
	return m, nil
}

// newMember makes a member that goes on where its log and its state stand.
func (n *Node) newMember(shard placement.ShardID, id uint64, log logstore.State, at position, c *storev1.Configuration) (*member, error) {
	r, err := replica.New(n.replicaConfig(shard, id, log, at, c))
	if err != nil {
		return nil, &damageError{shard, err}
	}
	m := &member{shard: shard, replica: r, applied: at.index, staged: make(map[uint64]string)}
	m.clock.tick(n.runtime.Now(), n.options.HeartbeatInterval)
	m.setConfiguration(c)
	return m, nil
}

// bootstrap gives a founding replica its first state and then its log, so that a crash between the two begins again.
func (n *Node) bootstrap(s *storev1.Formation_Shard, at position) error {
	shard := placement.ShardID(s.GetId())
	if at.index == 0 {
		c := &storev1.Configuration{Index: firstIndex, Replicas: s.GetReplicas()}
		for _, r := range s.GetReplicas() {
			c.Voters = append(c.Voters, r.GetId())
		}
		if err := n.engine.bootstrap(shard, c, s.GetSlots()); err != nil {
			return fmt.Errorf("bootstrap: %w", err)
		}
	}
	failpoint.Hit(failpoint.FirstState)
	err := n.logs.Append([]logstore.Update{{
		Shard:     shard,
		Reset:     &logstore.Reset{Index: firstIndex, Term: firstTerm},
		HardState: &raftpb.HardState{Term: new(uint64(firstTerm)), Vote: new(uint64(0)), Commit: new(uint64(firstIndex))},
	}}, true)
	if err != nil {
		return fmt.Errorf("bootstrap the log: %w", err)
	}
	return nil
}

// finishInstall completes a snapshot install that a crash has interrupted (R8).
func (n *Node) finishInstall(shard placement.ShardID, log logstore.State, at position) (logstore.State, error) {
	fs, intent := n.options.FS, log.Intent
	if at.index < intent.Index {
		dir := fs.PathJoin(n.options.Dir, stagingName, intent.Dir)
		if err := n.engine.ingest(shard, dir); err != nil {
			return log, fmt.Errorf("finish the install of the snapshot at index %d: %w", intent.Index, asDamage(shard, err))
		}
	}
	hs := &raftpb.HardState{
		Term: new(max(log.HardState.GetTerm(), intent.Term)), Vote: new(log.HardState.GetVote()), Commit: new(intent.Index),
	}
	if log.HardState.GetTerm() < intent.Term {
		hs.Vote = new(uint64(0)) // The vote was of an earlier term.
	}
	err := n.logs.Append([]logstore.Update{{
		Shard: shard, Reset: &logstore.Reset{Index: intent.Index, Term: intent.Term}, HardState: hs,
	}}, true)
	if err != nil {
		return log, fmt.Errorf("reset the log behind a snapshot: %w", err)
	}
	n.log.Info("finished the install of a snapshot", "shard", shard, "index", intent.Index)
	log, _ = n.logs.State(shard)
	return log, nil
}

func (n *Node) replicaConfig(shard placement.ShardID, id uint64, log logstore.State, at position, c *storev1.Configuration) replica.Config {
	epoch := n.random()
	if planted.Is(planted.ReadContextReused) {
		epoch = id // R16
	}
	return replica.Config{
		ID:             id,
		ElectionTicks:  int(n.options.ElectionTimeout / n.options.HeartbeatInterval),
		HeartbeatTicks: 1,
		Log:            shardLog{n.logs, shard},
		HardState:      log.HardState,
		TruncatedIndex: log.TruncatedIndex, TruncatedTerm: log.TruncatedTerm, LastIndex: log.LastIndex,
		Applied: at.index, AppliedTerm: at.term, ConfState: confState(c),
		ReadEpoch: epoch,
		RingBytes: ringBytes, MaxMessageBytes: messageBytesMax, MaxInflightBytes: inflightBytesMax,
		MaxApplyBytes: applyBytesMax, MaxUncommittedBytes: min(uncommittedMax, max(n.reserve.bytes/16, entryBytesMax)),
		Logger: raftLogger{n.log.With("shard", shard)},
	}
}

// clearStaging removes the snapshots that were taken in and not installed when the node last stopped.
func (n *Node) clearStaging() error {
	fs := n.options.FS
	dir := fs.PathJoin(n.options.Dir, stagingName)
	names, err := fs.List(dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	for _, name := range names {
		if err := fs.RemoveAll(fs.PathJoin(dir, name)); err != nil {
			return fmt.Errorf("clear %s: %w", dir, err)
		}
	}
	return nil
}

// shardLog is the log of one shard as its replica reads it.
type shardLog struct {
	log   *logstore.Log
	shard placement.ShardID
}

func (l shardLog) Entries(lo, hi, maxBytes uint64) ([]*raftpb.Entry, error) {
	return l.log.Entries(l.shard, lo, hi, maxBytes)
}
func (l shardLog) Term(index uint64) (uint64, error) { return l.log.Term(l.shard, index) }
