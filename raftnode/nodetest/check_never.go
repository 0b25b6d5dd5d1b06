package nodetest

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	peerv1 "github.com/raftkv/raftkv/gen/go/raftkv/peer/v1"
	"github.com/raftkv/raftkv/raftnode/placement"
	"github.com/raftkv/raftkv/raftnode/state"
)

// CheckNeverApplied says whether no value of a write that certainly did not happen, as its client was told, stands in any replica: neither as a record nor in
// what is left of the history. Nor may a replica keep a result under an idempotency key whose window has passed, as all have in the end.
func CheckNeverApplied(h *History, disks map[placement.NodeID]Disk) error {
	var errs []error
	for _, node := range slices.Sorted(maps.Keys(disks)) {
		look := func(v *state.View, shard placement.ShardID) error { return neverIn(h, v, shard) }
		if err := disks[node].eachShard(look); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", node, err))
		}
	}
	return errors.Join(errs...)
}

// neverIn looks through what a view shows of a shard.
func neverIn(h *History, v *state.View, shard placement.ShardID) error {
	never := func(where, key string, value []byte) error {
		if was := h.Refused[unpad(value)]; was != nil && len(value) > 0 {
			return fmt.Errorf("a refused write stands in the %s of %q: %s", where, key, was)
		}
		return nil
	}
	at, err := v.Position(shard)
	if err != nil {
		return err
	}
	if at.KeyedResults > 0 {
		return fmt.Errorf("%d results of idempotency keys are there when all windows have passed", at.KeyedResults)
	}
	records, _, err := v.Range(shard, &peerv1.RangeRead{})
	if err != nil {
		return err
	}
	for _, r := range records {
		if err := never("record", r.GetKey(), r.GetRecord().GetValue()); err != nil {
			return err
		}
	}
	return eachPart(v, shard, state.WantBoth, func(p *state.Part) error {
		for _, c := range p.Changes {
			if err := errors.Join(never("history", c.Key, c.After.GetValue()), never("history", c.Key, c.Before.GetValue())); err != nil {
				return err
			}
		}
		return nil
	})
}
