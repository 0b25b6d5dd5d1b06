package placement

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// ErrBadShards says that a list of shards cannot be placed.
var ErrBadShards = errors.New("placement: bad list of shards")

// ShardSlots says which slots a shard should serve.
type ShardSlots struct {
	Shard ShardID
	Slots SlotSet
}

// slotLoadPercent bounds a shard's slots, in percent of the fair share. A tighter bound balances better and moves more
// slots when a shard comes; DESIGN.md has the figures.
const slotLoadPercent = 105

// AssignSlots spreads all slots over shards by consistent hashing with bounded load and returns the result by ascending
// shard id. It depends only on which shards there are, not on their order.
//
// No shard gets more than 105 % of its fair share, rounded up. Adding or removing one shard moves little more than that
// shard's share. The list must not be empty, nor hold duplicates, nor MetaShard, nor more shards than there are slots.
func AssignSlots(shards []ShardID) ([]ShardSlots, error) {
	shards = slices.Sorted(slices.Values(shards))
	if err := checkServing(shards); err != nil {
		return nil, err
	}
	result := make([]ShardSlots, len(shards))
	free := make([]int, len(shards)) // room left in each shard
	for i, shard := range shards {
		result[i].Shard = shard
		free[i] = bound(SlotCount, len(shards), slotLoadPercent)
	}
	// The bounds add up to at least SlotCount and every slot may go anywhere, so one pass finds a place for each.
	var placed SlotSet
	for _, p := range rankSlots(shards) {
		if free[p.bin] == 0 || placed.Has(Slot(p.item)) {
			continue
		}
		placed.Add(Slot(p.item))
		result[p.bin].Slots.Add(Slot(p.item))
		free[p.bin]--
	}
	return result, nil
}

// checkServing checks a sorted list of shards that are to serve slots.
func checkServing(shards []ShardID) error {
	switch {
	case len(shards) == 0:
		return fmt.Errorf("%w: it is empty, give at least one", ErrBadShards)
	case len(shards) > SlotCount:
		return fmt.Errorf("%w: %d shards, at most %d can have a slot each", ErrBadShards, len(shards), SlotCount)
	case shards[0] == MetaShard:
		return fmt.Errorf("%w: shard %d is the meta shard, it serves no slots", ErrBadShards, MetaShard)
	}
	return checkDistinct(shards)
}

// checkDistinct reports the first duplicate of a sorted list.
func checkDistinct(shards []ShardID) error {
	for i := 1; i < len(shards); i++ {
		if shards[i] == shards[i-1] {
			return fmt.Errorf("%w: shard %d is in it twice", ErrBadShards, shards[i])
		}
	}
	return nil
}

// pair is the wish of an item (a slot, a shard) to be in a bin (a shard, a node). Items and bins are positions in
// sorted lists.
type pair struct {
	score     uint64
	item, bin int
}

// sortPairs puts the strongest wishes first. Serving all wishes in one order that both sides share is a stable matching:
// a new bin takes the items that want it most, and only those that lose their place look further.
func sortPairs(pairs []pair) {
	slices.SortFunc(pairs, func(a, b pair) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.item, b.item), cmp.Compare(a.bin, b.bin))
	})
}

func rankSlots(shards []ShardID) []pair {
	pairs := make([]pair, 0, SlotCount*len(shards))
	var key [6]byte
	for bin, shard := range shards {
		binary.BigEndian.PutUint32(key[:], uint32(shard))
		for slot := range SlotCount {
			binary.BigEndian.PutUint16(key[4:], uint16(slot))
			pairs = append(pairs, pair{score: xxhash.Sum64(key[:]), item: slot, bin: bin})
		}
	}
	sortPairs(pairs)
	return pairs
}

// bound is percent of the fair share of items in each of bins, rounded up.
func bound(items, bins, percent int) int {
	return (items*percent + 100*bins - 1) / (100 * bins)
}
