//go:build unix

package main

import "golang.org/x/sys/unix"

// openFilesMax is how many files this process may have open; 0 if that is unlimited or cannot be known. Go has raised the soft limit to the hard one.
func openFilesMax() uint64 {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil || r.Cur == unix.RLIM_INFINITY {
		return 0
	}
	return uint64(r.Cur) //nolint:unconvert,nolintlint // it is signed on FreeBSD
}
