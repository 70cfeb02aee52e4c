package mcpserver

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// peer returns who is at the other end of a Unix socket, as the kernel knows it.
func peer(c *net.UnixConn) (uid, pid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, 0, fmt.Errorf("peer credentials: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err == nil {
		err = credErr
	}
	if err != nil {
		return 0, 0, fmt.Errorf("peer credentials: %w", err)
	}
	return int(cred.Uid), int(cred.Pid), nil
}

func withLocalPrincipal(ctx context.Context, uid int) context.Context {
	return sessions.WithPrincipal(ctx, sessions.Principal{
		Name:   "local:" + strconv.Itoa(uid),
		Scopes: []sessions.Scope{sessions.ScopeRead, sessions.ScopeWrite},
	})
}

// hungUp waits until the other end has closed both directions, and returns nil;
// an error means that c was closed here. The end of what can be read does not
// tell: a client may shut down its writing side and still wait for answers.
func hungUp(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	// Read calls the function again each time the runtime's poller, which is
	// edge-triggered, has seen a change on the socket.
	return raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(fds, 0)
		return err == nil && n == 1 && fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
}
