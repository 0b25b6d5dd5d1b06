// Package nodetest runs whole clusters of raftnode in one goroutine: the code of a real node, stage by stage, on a simulated network, simulated
// disks (simfs) and virtual time, all drawn from one seed. What a seed does it does again.
//
// A Cluster is the nodes and what can happen to them. Simulate runs one seed: clients under faults, then healing, draining and the checkers,
// which are separate objects (check_*.go) that see only histories, wires and disks.
//
// A simulation lives in a testing/synctest bubble, because Pebble has goroutines of its own: between two events the simulator waits until all of
// them are at rest. Raft draws its election timeouts from crypto/rand; testing/cryptotest makes those repeatable too.
//
// DESIGN.md says what is simulated, how, and what is not.
package nodetest
