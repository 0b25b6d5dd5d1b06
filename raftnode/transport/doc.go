// Package transport carries messages, snapshots and calls between the nodes of a cluster over TCP or mutual TLS.
//
// Everything travels in frames with a length, a CRC-32C, a kind and a version; the first frame in each direction of a connection
// is a Hello, which names cluster, sender, receiver and the incarnation of the sender's disk (R13). Messages to a peer share one
// connection that only this side writes to: what waits while a write is under way goes out together with the next one.
// Every snapshot and every call has a connection of its own, so that neither holds up a heartbeat.
//
// The transport promises little and bounds everything: a message that Send accepts arrives at most once and in order, or is lost
// with its connection, and PeerDown says so. It knows no Raft; whether a message may be stepped is for its owner to judge (R26).
// DESIGN.md tells why.
package transport
