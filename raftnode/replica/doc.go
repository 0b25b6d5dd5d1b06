// Package replica is one member of one Raft group: a step function around raft.RawNode without goroutine, lock, clock,
// random source or socket. Its owner feeds it ticks, messages, proposals and completions, and carries out what Ready asks
// for: appends to the log, messages to other members, entries to apply, reads that are confirmed.
//
// Appends and applies are asynchronous (raft.Config.AsyncStorageWrites): Ready hands out work, AppendDone and ApplyDone
// report it done, each in the order in which it was handed out.
package replica
