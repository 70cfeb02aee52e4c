package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/keep"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

const (
	// daemonCommand is how start starts a server. It is for no other caller.
	daemonCommand = "daemon"

	maxSeed   = 64 << 10              // bytes
	startTime = 10 * time.Second      // until a server listens
	startPoll = 10 * time.Millisecond // between looks whether it does
)

// Names in the directory of a server that was started by start.
const (
	lockFile = "lock"
	idsFile  = "ids"
	logFile  = "server.log"
	outDir   = "log"
)

// start sees to it that a server listens in dir.
func start(ctx context.Context, dir string, seed io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(seed, maxSeed))
	if err != nil {
		return fmt.Errorf("read seed: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if listens(ctx, dir) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	ended, err := detach(ctx, dir, text)
	if err != nil {
		return err
	}
	for tick := time.NewTicker(startPoll); ; {
		select {
		case err := <-ended:
			if err != nil {
				said, _ := os.ReadFile(filepath.Join(dir, logFile)) // it may have said nothing
				return fmt.Errorf("start a server: %w: %s", err, bytes.TrimSpace(said))
			}
			ended = nil // another is about to listen
		case <-ctx.Done():
			return fmt.Errorf("start a server: none listens after %v", startTime)
		case <-tick.C:
			if listens(ctx, dir) {
				return nil
			}
		}
	}
}

// detach starts a server that outlives us and our session, and tells how it ended.
func detach(ctx context.Context, dir string, seed []byte) (ended <-chan error, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	said, err := os.OpenFile(filepath.Join(dir, logFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer said.Close()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), self, daemonCommand, dir)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(seed), said
	cmd.Dir, cmd.Env = "/", []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a server: %w", err)
	}
	c := make(chan error, 1)
	go func() { c <- cmd.Wait() }()
	return c, nil
}

// listens reports whether a server listens in dir.
func listens(ctx context.Context, dir string) bool {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", filepath.Join(dir, guest.Socket))
	if err != nil {
		return false
	}
	_ = nc.Close() // it was only to see
	return true
}

// daemon is a server that start has started, with its seed in in. It ends at
// once if there is another in dir. The kernel takes its lock back, however it ends.
func daemon(ctx context.Context, dir string, in io.Reader, log *slog.Logger) error {
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	text, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("read seed: %w", err)
	}
	seed, err := parseSeed(text)
	if err != nil {
		return err
	}
	// What an earlier server left: nobody can ask for it any more.
	for _, old := range []string{guest.Socket, outDir} {
		if err := os.RemoveAll(filepath.Join(dir, old)); err != nil {
			return err
		}
	}
	if err := os.Truncate(filepath.Join(dir, logFile), 0); err != nil {
		return err
	}
	table := &keep.Table{Dir: filepath.Join(dir, outDir), IDs: filepath.Join(dir, idsFile)}
	return serveSocket(ctx, dir, seed, table, log)
}

// dial joins standard input and output to the socket in dir.
func dial(ctx context.Context, dir string) error {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", filepath.Join(dir, guest.Socket))
	if err != nil {
		return err
	}
	defer nc.Close()
	go func() {
		_, _ = io.Copy(nc, os.Stdin) // either end may close when it likes
		_ = nc.Close()
	}()
	if _, err := io.Copy(os.Stdout, nc); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
