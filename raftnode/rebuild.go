package raftnode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/failpoint"
	"github.com/raftkv/raftkv/raftnode/logstore"
	"github.com/raftkv/raftkv/raftnode/placement"
)

// rebuilds are the replicas of this node that are in quarantine, or that were taken in instead of such a one and have nothing yet.
type rebuilds struct {
	// mu guards waiting. It is a leaf.
	mu      sync.Mutex
	waiting map[placement.ShardID]*rebuild
}

// rebuild has a replica replaced. The leader of its shard removes the old one from the membership, which is the tombstone that lets this node
// remove what it has of it (R14), and takes in a new one as a learner, under an id that was never used (R12, R13). The new one begins with nothing
// and gets a snapshot; the leader makes it a voter when it has caught up.
type rebuild struct {
	n     *Node
	shard placement.ShardID
	// id is the Raft id that the replica had last. blank: it is one that was taken in and has nothing yet.
	id    uint64
	blank bool
	// damage says what is wrong with the old replica.
	damage string
	// warned: a refusal of the leader was logged.
	warned bool
}

// why says why the replica does not take part.
func (r *rebuild) why() string {
	if r.blank {
		return "it waits for its leader to be taken in"
	}
	return r.damage
}

const (
	// rebuildTimeout bounds one question to the leader, rebuildPause is the time to the next while the membership changes, rebuildRetry that after
	// a failure.
	rebuildTimeout = 2 * time.Second
	rebuildPause   = 100 * time.Millisecond
	rebuildRetry   = 500 * time.Millisecond
)

func (r *rebuilds) add(b *rebuild) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting == nil {
		r.waiting = make(map[placement.ShardID]*rebuild)
	}
	r.waiting[b.shard] = b
}

// remove takes one out and says whether it was the last.
func (r *rebuilds) remove(shard placement.ShardID) (last bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, shard)
	return len(r.waiting) == 0
}

func (r *rebuilds) none() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiting) == 0
}

func (r *rebuilds) of(shard placement.ShardID) *rebuild {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waiting[shard]
}

// startRebuilds begins to ask for what is to be rebuilt.
func (n *Node) startRebuilds() error {
	if n.rebuilds.none() {
		return n.clearQuarantine() // A crash may have interrupted it.
	}
	for _, id := range n.shards.ids() {
		if r := n.rebuilds.of(id); r != nil {
			n.runtime.After(0, r.ask)
		}
	}
	return nil
}

// ask asks the leader of the shard how far the replacement is.
func (r *rebuild) ask() {
	n := r.n
	if n.failed() || n.closing.Load() {
		return
	}
	n.dispatch(&Request{
		Shard:    r.shard,
		Deadline: n.runtime.Now().Add(rebuildTimeout),
		replace:  &peerv1.ReplaceReplica{ReplicaId: r.id, Blank: r.blank},
		Done:     r.answered,
	})
}

func (r *rebuild) answered(res Result) {
	n := r.n
	switch id := res.replaced.GetReplicaId(); {
	case n.failed() || n.closing.Load():
	case res.Err != nil:
		if invalid := (*InvalidError)(nil); errors.As(res.Err, &invalid) && !r.warned {
			r.warned = true
			n.log.Warn("the leader does not replace a damaged replica", "shard", r.shard, "replica", r.id, "err", res.Err)
		}
		n.log.Debug("a replica waits to be rebuilt", "shard", r.shard, "err", res.Err)
		n.runtime.After(rebuildRetry+n.jitter(rebuildPause), r.ask)
	case id == 0:
		n.runtime.After(rebuildPause, r.ask)
	case r.blank && id == r.id:
		n.runtime.Go("rebuild", func(context.Context) { r.check(r.begin(id, res.replaced.GetConfiguration())) })
	case id <= r.id:
		r.check(fmt.Errorf("replica %d is to be replaced by replica %d, whose id is not new", r.id, id))
	default:
		r.renew(id, res.replaced.GetConfiguration())
	}
}

func (r *rebuild) check(err error) {
	if err != nil {
		r.n.fail(fmt.Errorf("rebuild shard %d: %w", r.shard, err))
	}
}

// renew removes what there is of the old replica and begins with a new one. The log goes first and the new id is noted last: a crash anywhere
// between leaves a replica that may not speak, and begins again.
func (r *rebuild) renew(id uint64, c *storev1.Configuration) {
	n := r.n
	n.logWriter.reset(r.shard, logstore.Reset{}, &raftpb.HardState{}, func() {
		n.runtime.Go("rebuild", func(context.Context) {
			failpoint.Hit(failpoint.ReplicaReset)
			err := n.engine.forget(r.shard)
			failpoint.Hit(failpoint.ReplicaForgotten)
			if err == nil {
				_, err = n.engine.open(r.shard)
			}
			if err == nil {
				err = n.noteReplaced(r.shard, id)
				failpoint.Hit(failpoint.ReplicaRenewed)
			}
			if err == nil {
				err = r.begin(id, c)
			}
			r.check(err)
		})
	})
}

// noteReplaced makes durable under which id the replica of a shard begins.
func (n *Node) noteReplaced(shard placement.ShardID, id uint64) error {
	n.identityMu.Lock()
	defer n.identityMu.Unlock()
	next := cloneIdentity(n.identity.Load())
	for _, r := range next.GetReplacements() {
		if r.GetShard() == uint32(shard) {
			r.ReplicaId, r.Damage = id, ""
		}
	}
	return n.replaceIdentity(next)
}

// begin lets the new replica take part, with nothing but the knowledge of who the others are.
func (r *rebuild) begin(id uint64, c *storev1.Configuration) error {
	n := r.n
	log, _ := n.logs.State(r.shard)
	m, err := n.newMember(r.shard, id, log, n.engine.position(r.shard), nil)
	if err != nil {
		return err
	}
	m.setConfiguration(c)
	n.addMember(m)
	n.log.Info("a new replica begins in place of a damaged one", "shard", r.shard, "replica", id, "was", r.id)
	n.metrics.rebuilds.Add(1)
	if n.rebuilds.remove(r.shard) {
		return n.clearQuarantine()
	}
	return nil
}

// clearQuarantine removes what was set aside: all replicas that it was of have been replaced.
func (n *Node) clearQuarantine() error {
	fs := n.options.FS
	dir := fs.PathJoin(n.options.Dir, quarantineName)
	if _, err := fs.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	failpoint.Hit(failpoint.QuarantineCleared)
	if err := fs.RemoveAll(dir); err != nil {
		return fmt.Errorf("clear %s: %w", dir, err)
	}
	return nil
}

// Rebuilding returns the shards whose replica on this node was damaged and is not a voter again yet, in order.
func (n *Node) Rebuilding() []placement.ShardID {
	if !n.serving.Load() {
		return nil
	}
	var out []placement.ShardID
	for _, id := range n.shards.ids() {
		m := n.member(id)
		if n.rebuilds.of(id) != nil || m != nil && !slices.Contains(m.membership.Load().GetVoters(), m.replica.ID()) {
			out = append(out, id)
		}
	}
	return out
}
