// Package raftkv is the client of raftkv, a strongly consistent, sharded key-value service.
//
// A [Client] learns from any node which shard serves which keys and which node leads each shard, and sends every
// operation straight to that leader. Operations of many goroutines share a few streams: what waits while a message
// is under way goes together in the next one, so a client batches by itself as soon as it is busy, and adds no
// delay when it is not. One Client is meant to serve a whole process.
//
// Keys live for ever, for a time ([WithTTL]), or for as long as somebody keeps a [Lease] alive. [Client.Watch] tells what changes. Locks and leader election are in the
// package recipes; the package raftkvtest is a cluster in memory for tests.
//
// Writes carry an identity under which the cluster applies them at most once. So the client retries them, also when
// it does not know what became of an attempt, until the context of the call ends or the default timeout passes. An
// error then says which it is: *[OutcomeUnknownError] for a write that may have been applied, *[CallError] for an
// operation that was not.
package raftkv
