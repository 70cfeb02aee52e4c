package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/agentlab-mcp/agentlab/internal/config"
)

// errHeld is that another process holds the lock.
type errHeld struct {
	path, holder string
	since        time.Time // zero if that is not known
}

func (e errHeld) Error() string {
	if e.since.IsZero() {
		return fmt.Sprintf("%s is locked by another daemon (%s)", e.path, e.holder)
	}
	return fmt.Sprintf("%s is locked by another daemon (%s, for %v)", e.path, e.holder, time.Since(e.since).Round(time.Second))
}

// hold locks the file name in dir, waiting at most wait for whoever has it, and
// writes note into it for whoever finds it locked. The kernel unlocks it when
// we end, however we end; the file stays, since removing it would let two hold
// it.
//
// Errors: errHeld, and those of the file system.
func hold(ctx context.Context, dir *os.File, name, note string, wait time.Duration) (*flock.Flock, error) {
	path := dir.Name() + "/" + name
	l := flock.New(config.At(dir, name), flock.SetFlag(os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW))
	ok, err := l.TryLock()
	if err == nil && !ok {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		const retry = 10 * time.Millisecond
		ok, err = l.TryLockContext(ctx, retry)
	}
	switch {
	case ok:
		// The note is for people. A full disk takes the lock but no note.
		_ = os.WriteFile(config.At(dir, name), []byte(note+"\n"), 0o600)
		return l, nil
	case errors.Is(err, context.DeadlineExceeded):
		held := errHeld{path: path}
		text, _ := os.ReadFile(config.At(dir, name))
		held.holder = strings.TrimSpace(string(text))
		if info, err := os.Stat(config.At(dir, name)); err == nil {
			held.since = info.ModTime() // the note was written then
		}
		return nil, held
	}
	return nil, fmt.Errorf("lock %s: %w", path, config.Cause(err))
}
