package raftnode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	storev1 "github.com/raftkv/raftkv/gen/go/raftkv/store/v1"
	"github.com/raftkv/raftkv/raftnode/failpoint"
	"github.com/raftkv/raftkv/raftnode/logstore"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/state"
)

// A replica whose log or state is damaged may have forgotten votes and entries that it has acknowledged, so it must not speak again (R15). Its
// node notes that durably, before anything of it is touched, keeps it in quarantine, and has it replaced by a new one (rebuild.go).

// damageError says that what is stored of a replica is not all that it has promised others to keep.
type damageError struct {
	shard placement.ShardID
	cause error
}

func (e *damageError) Error() string { return fmt.Sprintf("shard %d: %v", e.shard, e.cause) }
func (e *damageError) Unwrap() error { return e.cause }

// damage says which replicas an error tells to be damaged: those of some shards, or of all.
type damage struct {
	shards []placement.ShardID
	all    bool
	// state: the store of the states is damaged as a whole.
	state bool
}

// damageOf returns the damage that an error tells of, and whether it does.
func damageOf(err error) (damage, bool) {
	var (
		ofReplica *damageError
		ofLog     *logstore.CorruptionError
	)
	shard, known, ofState := state.DamageOf(err)
	switch {
	case errors.As(err, &ofReplica):
		return damage{shards: []placement.ShardID{ofReplica.shard}}, true
	case errors.As(err, &ofLog):
		return damage{shards: ofLog.Shards, all: len(ofLog.Shards) == 0}, true
	case ofState && known:
		return damage{shards: []placement.ShardID{shard}}, true
	case ofState:
		return damage{all: true, state: true}, true
	default:
		return damage{}, false
	}
}

// asDamage tells damage of what is stored of a replica from an error of the system and from a format of another version, which it returns as they
// are. A file that is gone is damage.
func asDamage(shard placement.ShardID, err error) error {
	var version *state.FormatError
	var system syscall.Errno
	if errors.As(err, &version) || errors.As(err, &system) && system != syscall.ENOENT {
		return err
	}
	return &damageError{shard, err}
}

// replicasToRebuild is how many replicas a shard has at least, so that the others are a majority without a damaged one.
const replicasToRebuild = 3

// condemn notes durably that replicas of this node may not speak again, because of an error; or returns that error, if the others could not
// replace them.
func (n *Node) condemn(d damage, why error) error {
	n.identityMu.Lock()
	defer n.identityMu.Unlock()
	id := cloneIdentity(n.identity.Load())
	if err := n.rebuildable(id, d, why); err != nil {
		return err
	}
	for _, s := range id.GetFormation().GetShards() {
		if !d.of(s) {
			continue
		}
		if r := replacementOf(id, s, n.options.NodeID); r != nil && r.GetDamage() == "" {
			r.Damage = why.Error()
			n.log.Error("a replica is damaged and in quarantine; it is rebuilt from the others", "shard", s.GetId(), "replica", r.GetReplicaId(), "err", why)
		}
	}
	id.StateDamaged = id.GetStateDamaged() || d.state
	if err := n.replaceIdentity(id); err != nil {
		return err
	}
	failpoint.Hit(failpoint.DamageNoted)
	return nil
}

// of says whether the damage is of the replica of a shard.
func (d damage) of(s *storev1.Formation_Shard) bool {
	return d.all || slices.Contains(d.shards, placement.ShardID(s.GetId()))
}

// rebuildable says whether the others could replace what is damaged; if not, it returns why, and what to do.
func (n *Node) rebuildable(id *storev1.Identity, d damage, why error) error {
	if !id.GetFormed() {
		return why
	}
	for _, s := range id.GetFormation().GetShards() {
		here := slices.ContainsFunc(s.GetReplicas(), func(r *storev1.Replica) bool { return nodeID(r) == n.options.NodeID })
		if here && d.of(s) && len(s.GetReplicas()) < replicasToRebuild {
			// As text: it must not be taken for damage that a rebuild mends.
			return fmt.Errorf("%s; shard %d has too few other replicas to rebuild it from: bring back a sound disk, or restore a backup", why.Error(), s.GetId())
		}
	}
	return nil
}

// noteDamage condemns what has failed the node, aside, and then calls end: the caller may hold locks of the engine, and a disk may hang.
func (n *Node) noteDamage(d damage, why error, end func()) {
	n.runtime.Go("note damage", func(context.Context) {
		defer end()
		if err := n.condemn(d, why); err != nil {
			n.log.Error("the damage cannot be noted: do not start this node on this disk again before that is found out", "err", err)
		}
	})
	n.runtime.After(restTimeout, end)
}

// replacementOf returns what has become of the replica of a shard on a node, making the record of it in id if there is none; nil if the
// formation gives the node no replica of the shard.
func replacementOf(id *storev1.Identity, s *storev1.Formation_Shard, node placement.NodeID) *storev1.Replacement {
	i := slices.IndexFunc(s.GetReplicas(), func(r *storev1.Replica) bool { return r.GetNodeId() == string(node) })
	if i < 0 {
		return nil
	}
	for _, r := range id.GetReplacements() {
		if r.GetShard() == s.GetId() {
			return r
		}
	}
	r := &storev1.Replacement{Shard: s.GetId(), ReplicaId: s.GetReplicas()[i].GetId()}
	id.Replacements = append(id.Replacements, r)
	return r
}

// openLogs opens the logs. If they cannot be read, they are set aside, and all replicas are in quarantine.
func (n *Node) openLogs() error {
	open := func() (err error) {
		n.logs, err = logstore.Open(LogDir(n.options.FS, n.options.Dir), logstore.Options{
			FS: n.options.FS, SegmentBytes: n.options.SegmentBytes, NoSync: n.options.NoSync, Logger: n.log,
			Observe: n.options.Observer.logSynced,
		})
		return err
	}
	err := open()
	if _, damaged := damageOf(err); damaged {
		if err = n.condemn(damage{all: true}, err); err == nil {
			err = n.setAside(logName)
		}
		if err == nil {
			err = open()
		}
	}
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	for _, d := range n.logs.Damaged() {
		if err := n.condemn(damage{shards: d.Shards, all: len(d.Shards) == 0}, d); err != nil {
			return err
		}
	}
	return nil
}

// openEngine opens the states. A store that is damaged as a whole is set aside, and all replicas are in quarantine.
func (n *Node) openEngine() error {
	fs := n.options.FS
	flushed := func() {
		n.stall.flush.ended()
		if n.serving.Load() {
			n.housekeeper.wake()
		}
	}
	open := func() (err error) {
		dir := fs.PathJoin(n.options.Dir, stateName)
		if n.options.Machine != nil {
			n.engine, err = openOwn(dir, n.options, flushed)
		} else {
			n.engine, err = openKV(dir, n.options, flushed, n.fail)
		}
		return err
	}
	if n.identity.Load().GetStateDamaged() {
		if err := n.setStateAside(); err != nil {
			return err
		}
	}
	err := open()
	if _, damaged := damageOf(err); damaged && !errors.Is(err, state.ErrFatal) {
		// Not behind a fatal error: the store may still be open then. The node stops, and the next start goes on from the note.
		if err = n.condemn(damage{all: true, state: true}, err); err == nil {
			err = n.setStateAside()
		}
		if err == nil {
			err = open()
		}
	}
	if err != nil {
		n.engine = nil
		return fmt.Errorf("open the state: %w", err)
	}
	return nil
}

func (n *Node) setStateAside() error {
	if err := n.setAside(stateName); err != nil {
		return err
	}
	n.identityMu.Lock()
	defer n.identityMu.Unlock()
	id := cloneIdentity(n.identity.Load())
	id.StateDamaged = false
	return n.replaceIdentity(id)
}

// setAside moves a directory of the node into the quarantine, durably, beside what is there already.
func (n *Node) setAside(name string) error {
	fs := n.options.FS
	from, dir := fs.PathJoin(n.options.Dir, name), fs.PathJoin(n.options.Dir, quarantineName)
	if _, err := fs.Stat(from); errors.Is(err, os.ErrNotExist) {
		return nil // A crash has interrupted this behind the move.
	}
	err := fs.MkdirAll(dir, 0o700)
	to, err1 := "", error(nil)
	for i := 1; err1 == nil; i++ { // until one does not exist
		to = fs.PathJoin(dir, fmt.Sprintf("%s-%d", name, i))
		_, err1 = fs.Stat(to)
	}
	if err == nil {
		err = fs.Rename(from, to)
	}
	if err == nil {
		err = errors.Join(syncDir(fs, dir), syncDir(fs, n.options.Dir))
	}
	if err != nil {
		return fmt.Errorf("set %s aside: %w", from, err)
	}
	failpoint.Hit(failpoint.DamageAside)
	n.log.Warn("set aside what is damaged", "from", from, "to", to)
	return nil
}
