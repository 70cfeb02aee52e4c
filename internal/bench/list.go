package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/internal/stage"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
)

// listed is how many sandboxes agentlab sandbox list lists.
const listed = 1000

// list measures the command agentlab sandbox list, with a daemon running, above
// that which only starts and prints, agentlab version, turn by turn. The sandboxes
// are of a backend that is not set up, so that the daemon leaves them alone.
func (b *bench) list(ctx context.Context) (_ []figure, err error) {
	st, err := stage.New(filepath.Dir(b.stage.Bin("agentlab")))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.StopDaemon(), st.Close()) }()
	if err := recordListed(ctx, st); err != nil {
		return nil, err
	}
	if _, err := agentlab(ctx, st, "sandbox", "list"); err != nil { // it starts the daemon
		return nil, err
	}
	var lists, versions, above sample
	const turns = 50
	for range turns {
		err := timed(&versions, func() error { _, err := agentlab(ctx, st, "version"); return err })
		if err != nil {
			return nil, err
		}
		err = timed(&lists, func() error {
			out, err := agentlab(ctx, st, "sandbox", "list")
			if n := strings.Count(out, "\n"); err == nil && n != listed+1 {
				err = fmt.Errorf("agentlab sandbox list printed %d lines, want %d", n, listed+1)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		above = append(above, lists[len(lists)-1]-versions[len(versions)-1])
	}
	f := size("cli_list", "agentlab sandbox list of 1,000 above agentlab version: median", "ms", ms(above.median()), 50, turns)
	f.ours, f.theirs, f.Floor = lists.String(), versions.String(), round(ms(versions.median()))
	return []figure{f}, nil
}

// recordListed writes the records that the daemon is to find.
func recordListed(ctx context.Context, st *stage.Stage) error {
	state := filepath.Join(st.Dir, "state", "agentlab")
	dir, err := config.OpenDir(state, config.StateMode())
	if err != nil {
		return err
	}
	defer dir.Close()
	if _, err := config.InstanceKey(dir); err != nil { // a database without one is refused
		return err
	}
	db, err := store.Open(ctx, filepath.Join(state, config.DatabaseFile), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	for i := range listed {
		sb := sessions.Sandbox{
			ID: sandboxID(i), Name: fmt.Sprintf("name-%d", i), Owner: owner(), Profile: "default", Backend: "elsewhere", State: sessions.Ready,
			Handle: fmt.Sprint(i), Created: now.Add(time.Duration(i)), End: now.Add(time.Hour), MaxEnd: now.Add(time.Hour), MemoryMB: 16,
		}
		if _, _, err = db.Add(ctx, sb, sessions.Quota{}, sessions.Change{At: now}); err != nil {
			break
		}
	}
	return errors.Join(err, db.Close())
}

// agentlab runs it and returns what it printed.
func agentlab(ctx context.Context, st *stage.Stage, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, st.Bin("agentlab"), args...)
	cmd.Env = st.Env
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("agentlab %s: %w", strings.Join(args, " "), err)
	}
	return string(out), nil
}
