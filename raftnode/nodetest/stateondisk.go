package nodetest

import (
	"errors"
	"fmt"

	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/state"
)

// eachShard opens the state on a disk and looks into each of its shards.
func (d Disk) eachShard(look func(v *state.View, shard placement.ShardID) error) (err error) {
	store, err := state.Open(d.FS.PathJoin(d.Dir, "state"), state.Options{FS: d.FS, CacheBytes: 1 << 20, MemTableBytes: memTableBytes})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	shards, err := store.Shards()
	if err != nil {
		return err
	}
	v := store.View()
	defer func() { err = errors.Join(err, v.Close()) }()
	for _, shard := range shards {
		if err := look(v, shard); err != nil {
			return fmt.Errorf("shard %d: %w", shard, err)
		}
	}
	return nil
}

// eachPart goes through all that is left of the history of a shard.
func eachPart(v *state.View, shard placement.ShardID, want state.Want, take func(*state.Part) error) error {
	at, err := v.Position(shard)
	if err != nil {
		return err
	}
	all := func(string, bool) state.Want { return want }
	for next := (state.Cursor{Revision: at.HistoryFloor}); next.Revision <= at.Revision; {
		var parts []*state.Part
		if parts, next, err = v.Changes(shard, state.ChangesRead{From: next, MaxBytes: 1 << 30, Want: all}); err != nil {
			return err
		}
		for _, p := range parts {
			if err := take(p); err != nil {
				return err
			}
		}
	}
	return nil
}
