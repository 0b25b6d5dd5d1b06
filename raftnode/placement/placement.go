// Package placement decides where keys, slots and replicas belong. It is pure arithmetic: no clock, no randomness, no
// input or output, and no map order that reaches a result. Every node and every SDK computes the same answers, and the
// answers are for ever: a key's slot is part of the disk format. testdata/vectors.json holds them to it.
//
//	key → routing part → 64-bit hash → slot (one of 4096) → shard (a Raft group) → replicas on nodes
//
// The last two steps are proposals. Who serves a slot is said by the replicated slot table of each shard, never by
// AssignSlots; who holds a replica is said by the shard's configuration, never by PlaceReplicas.
package placement
