//go:build !unix

package main

// openFilesMax is 0: these systems have no such limit.
func openFilesMax() uint64 { return 0 }
