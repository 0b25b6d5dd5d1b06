//go:build race

package nodetest

// The race detector makes everything about ten times slower.
const (
	raceEnabled  = true
	seedsDefault = 5
)
