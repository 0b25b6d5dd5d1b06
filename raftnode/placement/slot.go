package placement

import (
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Slot is the unit in which keys move between shards: a number below SlotCount.
type Slot uint16

// SlotCount is the number of slots of every cluster. It is part of the disk format and can never change.
const SlotCount = 4096

// slotShift keeps the twelve highest bits of a hash: 1<<(64-slotShift) = SlotCount.
const slotShift = 52

// RoutingPart returns the part of key that is hashed: what stands between the first '{' and the first '}' after it, or
// the whole key if there is no such pair or nothing between. Keys with one routing part share a slot for ever.
func RoutingPart(key string) string {
	open := strings.IndexByte(key, '{')
	if open < 0 {
		return key
	}
	tag, _, closed := strings.Cut(key[open+1:], "}")
	if !closed || tag == "" {
		return key
	}
	return tag
}

// TagPrefix returns key up to the end of its {tag}, so that all keys which begin with that have its slot; empty if it has none.
func TagPrefix(key string) string {
	tag := RoutingPart(key)
	if len(tag) == len(key) {
		return ""
	}
	return key[:strings.IndexByte(key, '{')+len("{")+len(tag)+len("}")]
}

// SlotOf returns the slot of key: the highest twelve bits of the xxHash64 (seed 0) of its routing part.
func SlotOf(key string) Slot {
	return Slot(xxhash.Sum64String(RoutingPart(key)) >> slotShift)
}
