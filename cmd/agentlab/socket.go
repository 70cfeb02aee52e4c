package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/internal/config"
)

// listen makes the socket name in dir. One that is there was left by a daemon
// that was killed: the caller holds the lock that every daemon holds.
func listen(dir *os.File, name string) (*net.UnixListener, error) {
	path := config.At(dir, name)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket %s/%s: %w", dir.Name(), name, config.Cause(err))
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		return nil, fmt.Errorf("listen on %s/%s: %w", dir.Name(), name, config.Cause(err))
	}
	if err := os.Chmod(path, 0o600); err != nil { // nobody could reach it before: its directory is ours alone
		return nil, errors.Join(fmt.Errorf("listen on %s/%s: %w", dir.Name(), name, config.Cause(err)), ln.Close())
	}
	return ln, nil
}

// dial connects to the socket name in dir. Whoever listens there must be us
// or root, since they will be told what commands to run and what is in files.
func dial(ctx context.Context, dir *os.File, name string) (*net.UnixConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", config.At(dir, name))
	if err != nil {
		return nil, fmt.Errorf("connect to %s/%s: %w", dir.Name(), name, config.Cause(err))
	}
	conn := c.(*net.UnixConn)
	uid, err := peerUID(conn)
	if err == nil && uid != os.Geteuid() && uid != 0 {
		err = fmt.Errorf("it belongs to user %d and we are user %d", uid, os.Geteuid())
	}
	if err != nil {
		return nil, errors.Join(fail(exitUnsafe, fmt.Errorf("socket %s/%s: %w", dir.Name(), name, err)), conn.Close())
	}
	return conn, nil
}

// nobodyListens says that err, from dial, means that no daemon runs.
func nobodyListens(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
}

func peerUID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}
