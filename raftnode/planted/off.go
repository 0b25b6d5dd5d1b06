//go:build !planted

package planted

// Is says no, at compile time.
func Is(Bug) bool { return false }
