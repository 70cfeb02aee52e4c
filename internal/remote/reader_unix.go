//go:build unix

package remote

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// errUnread: whoever read what we write is gone.
var errUnread = errors.New("nobody reads the answers any more")

// WhileRead returns a context that ends when nobody can read any more what is
// written to f, a pipe or a socket: a client that was killed says so by nothing
// else as long as calls are running. Other files are read for ever.
func WhileRead(ctx context.Context, f *os.File) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	fd := f.Fd()
	go func() {
		for ctx.Err() == nil {
			ends := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLHUP}} // Linux tells unasked, macOS does not
			n, err := unix.Poll(ends, -1)
			if n > 0 && ends[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0 {
				cancel(errUnread)
			}
			if n > 0 || err != nil && !errors.Is(err, unix.EINTR) { // macOS polls no terminals
				return
			}
		}
	}()
	return ctx
}
