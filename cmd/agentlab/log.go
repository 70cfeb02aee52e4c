package main

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/internal/config"
)

const (
	// maxLog is the size in bytes from which on a log is put aside.
	maxLog = 10 << 20
	// logLook is how often that is looked at.
	logLook = time.Minute
)

// detach ends the wait of launch: standard output and error become the log, which
// then also holds what the runtime says of a crash.
func detach(log *os.File) error { return redirect(log, unix.Stdout, unix.Stderr) }

// redirect makes what is written to descriptors go to a file. Programs that we
// start get none but the usual.
func redirect(to *os.File, fds ...int) error {
	for _, fd := range fds {
		flags := unix.O_CLOEXEC
		if fd <= unix.Stderr {
			flags = 0
		}
		if err := unix.Dup3(int(to.Fd()), fd, flags); err != nil {
			return fmt.Errorf("redirect output to the log: %w", err)
		}
	}
	return nil
}

// openLog opens the log of a detached daemon in its state directory. When that
// can't be, on a full disk for one, the daemon serves without: what is wrong
// is said in its answers.
func openLog(state *os.File) (*os.File, error) {
	if state != nil {
		if f, err := nextLog(state); err == nil {
			return f, nil
		}
	}
	return os.OpenFile(os.DevNull, os.O_WRONLY, 0)
}

// nextLog opens the log, and puts one that is too long aside before.
func nextLog(state *os.File) (*os.File, error) {
	path := config.At(state, config.LogFile)
	if info, err := os.Lstat(path); err == nil && info.Size() > maxLog {
		_ = os.Rename(path, path+".1")
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
}

// keepLog puts the log aside whenever it has become too long, until ctx ends.
func keepLog(ctx context.Context, state, log *os.File) {
	look := time.NewTicker(logLook)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		_ = renewLog(state, log, unix.Stdout, unix.Stderr) // else it goes on as it was
	}
}

// renewLog puts the log aside if it is too long. What is written to it, or to the
// other descriptors, then goes to a new one; if there can be none now, all goes on
// in what was put aside until there can.
func renewLog(state, log *os.File, others ...int) error {
	info, err := log.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() <= maxLog {
		return err
	}
	next, err := nextLog(state)
	if err != nil {
		return err
	}
	defer func() { _ = next.Close() }()
	return redirect(next, append(others, int(log.Fd()))...)
}
