// Package raftnode is a node of a raftkv cluster: consensus, storage and sharding. It knows no HTTP, no Connect and no gRPC.
//
// A node holds replicas of shards, each a Raft group. Its work runs through stages, each owned by one goroutine: workers step the
// replicas, the log writer makes appends of all shards durable with one fsync a round, the applier brings committed entries into
// the state machine, readers serve confirmed reads. DESIGN.md names every stage and goroutine and what they exchange.
package raftnode
