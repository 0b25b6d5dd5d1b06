package transport

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestDeadPathsAreGivenUp(t *testing.T) {
	tr := start(t, options("b"), newOwner())
	c := stranger(t, tr)
	tune(c, 6*time.Second)
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []struct {
		name, want int
	}{
		{unix.TCP_USER_TIMEOUT, 6000}, {unix.TCP_KEEPIDLE, 3}, {unix.TCP_KEEPINTVL, 1}, {unix.TCP_KEEPCNT, 3},
	} {
		var got int
		if e := raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, o.name) }); e != nil || err != nil {
			t.Fatal(e, err)
		}
		if got != o.want {
			t.Errorf("option %d is %d, want %d", o.name, got, o.want)
		}
	}
}
