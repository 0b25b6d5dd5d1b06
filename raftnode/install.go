package raftnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/failpoint"
	"github.com/raftkv/raftkv/raftnode/logstore"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/planted"
	"github.com/raftkv/raftkv/raftnode/replica"
	"github.com/raftkv/raftkv/raftnode/transport"
)

// HandleSnapshot takes in a snapshot: it is staged, verified and durable before its MsgSnap is stepped (R8).
func (h peerHandler) HandleSnapshot(from transport.Peer, start *peerv1.SnapshotStart, body io.Reader) error {
	n := h.n
	if !n.serving.Load() {
		return ErrForming
	}
	message := &raftpb.Message{}
	if err := proto.Unmarshal(start.GetMessage(), message); err != nil {
		return fmt.Errorf("message of the snapshot: %w", err)
	}
	if message.GetType() != raftpb.MsgSnap {
		return fmt.Errorf("%w: %s instead of a snapshot", replica.ErrRejected, message.GetType())
	}
	m, sender, err := n.receiver(from, placement.ShardID(start.GetShard()), start.GetToIncarnation(), message)
	if err != nil {
		return err
	}
	select {
	case n.staging <- struct{}{}:
		defer func() { <-n.staging }()
	default:
		return overloaded("snapshots being taken in", snapshotsWaiting, snapshotsWaiting)
	}
	dir := n.stagingDir(m.shard)
	header, err := n.engine.stage(dir, body)
	if err == nil {
		meta := message.GetSnapshot().GetMetadata()
		if header.GetShard() != uint32(m.shard) || header.GetIndex() != meta.GetIndex() || header.GetTerm() != meta.GetTerm() {
			err = fmt.Errorf("%w: the image is of shard %d at index %d, its message of shard %d at index %d",
				replica.ErrRejected, header.GetShard(), header.GetIndex(), m.shard, meta.GetIndex())
		}
	}
	if err != nil {
		return errors.Join(err, n.options.FS.RemoveAll(dir))
	}
	failpoint.Hit(failpoint.SnapshotStaged)
	m.worker.post(messageEvent{m: m, sender: sender, message: message, staged: dir})
	return nil
}

// stagingDir names a new directory for an image of a shard.
func (n *Node) stagingDir(shard placement.ShardID) string {
	id := strconv.FormatUint(uint64(shard), 10) + "-" + strconv.FormatUint(n.stagings.Add(1), 10)
	return n.options.FS.PathJoin(n.options.Dir, stagingName, id)
}

// install replaces state and log of a member by a staged snapshot (R8): drain its applier, make the intent durable, ingest, reset log and
// hard state in one record, and only then let the responses out. A crash anywhere in it is finished by recovery.
func (w *worker) install(m *member, a *replica.Append) {
	meta := a.Snapshot.GetMetadata()
	dir, ok := m.staged[meta.GetIndex()]
	if !ok {
		w.check(m, fmt.Errorf("the snapshot at index %d is not staged", meta.GetIndex()))
		return
	}
	hs := a.HardState
	if hs == nil {
		// The commit index has moved to the snapshot, so there is one; resetting the log without it would forget the vote.
		w.check(m, fmt.Errorf("the snapshot at index %d comes without a hard state", meta.GetIndex()))
		return
	}
	n := w.n
	n.log.Info("installing snapshot", "shard", m.shard, "index", meta.GetIndex(), "term", meta.GetTerm())
	if planted.Is(planted.ResetWithoutHardState) {
		hs = nil // R8
	}
	reset := func() {
		n.logWriter.reset(m.shard, logstore.Reset{Index: meta.GetIndex(), Term: meta.GetTerm()}, hs, func() {
			m.worker.post(installedEvent{m: m, a: a})
		})
	}
	ingest := func() {
		n.runtime.Go("install", func(ctx context.Context) {
			failpoint.Hit(failpoint.SnapshotIntended)
			if err := n.engine.ingest(m.shard, dir); err != nil {
				n.fail(fmt.Errorf("shard %d: ingest snapshot: %w", m.shard, asDamage(m.shard, err)))
				return
			}
			failpoint.Hit(failpoint.SnapshotIngested)
			reset()
		})
	}
	n.applier.barrier(func() {
		intent := logstore.Intent{Index: meta.GetIndex(), Term: meta.GetTerm(), Dir: n.options.FS.PathBase(dir)}
		switch {
		case planted.Is(planted.IngestWithoutIntent): // R8
			ingest()
			return
		case planted.Is(planted.ResetBeforeIngest): // R8
			n.logWriter.reset(m.shard, logstore.Reset{Index: meta.GetIndex(), Term: meta.GetTerm()}, hs, ingest)
			return
		}
		n.logWriter.intend(m.shard, intent, ingest)
	})
}

func (e installedEvent) handle(w *worker) {
	failpoint.Hit(failpoint.SnapshotInstalled)
	m := e.m
	m.installing = false
	m.setConfiguration(w.n.engine.configuration(m.shard))
	m.applied = e.a.Snapshot.GetMetadata().GetIndex()
	w.n.watches.applied(m.shard, w.n.engine.position(m.shard).revision)
	// What was proposed below the snapshot will never be applied one by one.
	for _, p := range m.proposed.take(m.applied) {
		if planted.Is(planted.SnapshotIsDefinite) { // TAX
			failAll(p.requests, w.n.notLeader(m.shard))
			continue
		}
		failAll(p.requests, &UnknownOutcomeError{Shard: m.shard, Cause: "this node has taken over a snapshot instead of applying the write"})
	}
	w.n.metrics.installs.Add(1)
	w.appended(m, e.a)
	w.releaseReads(m)
	w.dropStaged(m, m.applied)
}

// awaitsSnapshot says whether raft has taken the snapshot at index, so that it is installed or about to be.
func (m *member) awaitsSnapshot(index uint64) bool {
	for _, a := range m.appends {
		if a.Snapshot.GetMetadata().GetIndex() == index {
			return true
		}
	}
	return false
}

// dropStaged removes staged snapshots that are not newer than index: raft has refused them or they are installed.
func (w *worker) dropStaged(m *member, index uint64) {
	for _, i := range slices.Sorted(maps.Keys(m.staged)) {
		if i > index || m.awaitsSnapshot(i) {
			continue
		}
		w.unstage(m.staged[i])
		delete(m.staged, i)
	}
}

func (w *worker) unstage(dir string) {
	w.n.runtime.Go("unstage", func(context.Context) {
		if err := w.n.options.FS.RemoveAll(dir); err != nil {
			w.n.log.Warn("cannot remove a staged snapshot", "dir", dir, "err", err)
		}
	})
}
