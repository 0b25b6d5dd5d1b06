// Package logstore keeps the Raft logs of all shards of a node in one segmented, checksummed file log.
//
// All shards share one sequence of batches: an Append of any number of updates is one write and one fdatasync. Segments are
// files that are written once, from front to back, and recycled when no shard needs them. Where an entry lies is known from an
// index in memory; its bytes are read from the file when they are asked for, and checked then.
//
// One goroutine appends. Any goroutine reads, at any time. DESIGN.md has the format, what recovery does and why.
package logstore
