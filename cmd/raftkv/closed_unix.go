//go:build unix

package main

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// closedLookMs is how often closed looks whether it is still wanted.
const closedLookMs = 500

// closed calls do when nobody reads any more what is written to w, which a writer that has nothing to write does not notice otherwise. It returns then, when ctx
// ends, or at once if w is no pipe.
func closed(ctx context.Context, w io.Writer, do func()) {
	f, ok := w.(*os.File)
	if !ok {
		return
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
		return
	}
	for ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(f.Fd())}} //nolint:gosec // descriptors are small
		n, err := unix.Poll(fds, closedLookMs)
		if err != nil && !errors.Is(err, unix.EINTR) || n > 0 && fds[0].Revents&unix.POLLNVAL != 0 {
			return // then a write has to find out
		}
		if n > 0 {
			do()
			return
		}
	}
}
