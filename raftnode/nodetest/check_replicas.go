package nodetest

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/raftkv/raftkv/raftnode"
	"github.com/raftkv/raftkv/raftnode/logstore"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/simfs"
	"github.com/raftkv/raftkv/raftnode/state"
)

// replicaState is what a replica holds, at an applied index.
type replicaState struct {
	node   placement.NodeID
	digest state.Digest
	// export is a hash over everything: records, history, results of requests, slots, members.
	export uint64
}

// Disk is where a node keeps its data.
type Disk struct {
	FS  vfs.FS
	Dir string
}

// CheckReplicas is CheckDisks for simulated nodes.
func CheckReplicas(disks map[placement.NodeID]*simfs.FS) (compared int, err error) {
	return CheckDisks(simulated(disks))
}

// simulated are the disks of simulated nodes.
func simulated(disks map[placement.NodeID]*simfs.FS) map[placement.NodeID]Disk {
	all := make(map[placement.NodeID]Disk)
	for node, disk := range disks {
		all[node] = Disk{disk, dataDir}
	}
	return all
}

// CheckDisks compares the disks of nodes that were closed in good order after a time without writes: all replicas of a shard have applied
// the same index and are equal in every byte (R20, R21), kept digests are those of the records (R25), and the logs agree on all entries
// that both hold and know to be committed. It returns how many pairs of states were compared.
func CheckDisks(disks map[placement.NodeID]Disk) (compared int, err error) {
	states := make(map[shardIndex]replicaState)
	terms := make(map[shardIndex]uint64)
	reached := make(map[placement.ShardID]reachedBy)
	var errs []error
	for _, node := range slices.Sorted(maps.Keys(disks)) {
		applied, n, err := compareStates(states, node, disks[node])
		compared += n
		errs = append(errs, err, compareLogs(terms, node, disks[node]))
		for _, shard := range slices.Sorted(maps.Keys(applied)) {
			at := reachedBy{node, applied[shard]}
			if first, ok := reached[shard]; ok && first.index != at.index {
				errs = append(errs, fmt.Errorf("shard %d stands at index %d on %s and at %d on %s", shard, first.index, first.node, at.index, node))
			} else if !ok {
				reached[shard] = at
			}
		}
	}
	return compared, errors.Join(errs...)
}

// reachedBy is how far a node has applied a shard.
type reachedBy struct {
	node  placement.NodeID
	index uint64
}

type shardIndex struct {
	shard placement.ShardID
	index uint64
}

// compareStates compares the state on a disk with those seen before, and returns where each shard stands.
func compareStates(states map[shardIndex]replicaState, node placement.NodeID, disk Disk) (applied map[placement.ShardID]uint64, compared int, err error) {
	applied = make(map[placement.ShardID]uint64)
	err = disk.eachShard(func(v *state.View, shard placement.ShardID) error {
		at, is, err := stateOf(v, node, shard)
		if err != nil {
			return err
		}
		applied[shard] = at
		was, ok := states[shardIndex{shard, at}]
		if !ok {
			states[shardIndex{shard, at}] = is
			return nil
		}
		compared++
		if was.digest != is.digest || was.export != is.export {
			return fmt.Errorf("at index %d it is not the same on %s and %s (digests %x and %x)", at, was.node, is.node, was.digest, is.digest)
		}
		return nil
	})
	if err != nil {
		return nil, compared, fmt.Errorf("%s: %w", node, err)
	}
	return applied, compared, nil
}

// stateOf reads what a replica holds, and compares the digests that it keeps with its records.
func stateOf(v *state.View, node placement.NodeID, shard placement.ShardID) (index uint64, is replicaState, err error) {
	is.node = node
	hash := xxhash.New()
	at, err := v.Export(shard, hash)
	if err != nil {
		return 0, is, err
	}
	kept, err := v.Digests(shard)
	if err != nil {
		return 0, is, err
	}
	computed, err := v.Recompute(shard)
	if err != nil {
		return 0, is, err
	}
	if *kept != *computed {
		return 0, is, errors.New("the digests that are kept are not those of the records")
	}
	is.digest, is.export = kept.Sum(), hash.Sum64()
	return at.Index, is, nil
}

func compareLogs(terms map[shardIndex]uint64, node placement.NodeID, disk Disk) (err error) {
	logs, err := logstore.Open(raftnode.LogDir(disk.FS, disk.Dir), logstore.Options{FS: disk.FS, SegmentBytes: 1 << 20})
	if err != nil {
		return fmt.Errorf("%s: %w", node, err)
	}
	defer func() { err = errors.Join(err, logs.Close()) }()
	for _, shard := range logs.Shards() {
		log, _ := logs.State(shard)
		for i := log.TruncatedIndex + 1; i <= min(log.LastIndex, log.HardState.GetCommit()); i++ {
			term, err := logs.Term(shard, i)
			if err != nil {
				return fmt.Errorf("%s, shard %d, index %d: %w", node, shard, i, err)
			}
			at := shardIndex{shard, i}
			if was, ok := terms[at]; ok && was != term {
				return fmt.Errorf("shard %d, index %d is committed with terms %d and %d", shard, i, was, term)
			}
			terms[at] = term
		}
	}
	return nil
}
