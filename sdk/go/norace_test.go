//go:build !race

package raftkv

// raceEnabled: the race detector allocates, and pools forget on purpose.
const raceEnabled = false
