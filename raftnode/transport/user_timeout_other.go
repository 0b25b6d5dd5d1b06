//go:build !linux

package transport

import (
	"net"
	"time"
)

// setUserTimeout does nothing: only Linux has this bound. Elsewhere the deadline of writes has to do.
func setUserTimeout(*net.TCPConn, time.Duration) {}
