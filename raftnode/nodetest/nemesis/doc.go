// Nemesis runs a cluster of real raftkv processes under real faults, with clients that remember everything, and checks what they saw.
//
// It runs in namespaces of its own (network, mounts, processes), so that whatever it does to them ends with it, however it ends.
// DESIGN.md tells the rest.
package main
