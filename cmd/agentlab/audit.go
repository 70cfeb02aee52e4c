package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab/internal/cli"
	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/store"
)

func newAuditCommand(locate func() (config.Paths, error)) *cobra.Command {
	return cli.Group(&cobra.Command{Use: "audit", Short: "Check the record of what happened"}, newAuditVerifyCommand(locate))
}

func newAuditVerifyCommand(locate func() (config.Paths, error)) *cobra.Command {
	return &cobra.Command{
		Use:   "verify [DIRECTORY]",
		Short: "Look whether an event was changed, removed or inserted",
		Long: `Read all events of the state directory, or of a backup, and look whether one was
changed, removed or inserted since it was written. The first that was is named by
its number, with exit code 1. Nothing is changed, and a daemon may run.

The instance key in the directory vouches for the oldest and the newest event.
Without it they are taken on trust, which is said.
` + exitCodes,
		Args: cobra.MaximumNArgs(1),
		RunE: cli.Interruptible("", func(cmd *cobra.Command, args []string) error {
			dir := append(args, "")[0]
			if dir == "" {
				paths, err := locate()
				if err != nil {
					return fail(exitFailed, err)
				}
				dir = paths.State
			}
			return fail(exitFailed, verifyTrail(cmd.Context(), dir, cmd.OutOrStdout(), cmd.ErrOrStderr()))
		}),
	}
}

// verifyTrail audits the database of a directory.
func verifyTrail(ctx context.Context, dir string, out, told io.Writer) error {
	path := filepath.Join(dir, config.DatabaseFile)
	if _, err := os.Stat(path); err != nil {
		return err
	}
	key, err := keyIn(dir)
	if errors.Is(err, fs.ErrNotExist) {
		_, _ = fmt.Fprintf(told, "agentlab: there is no instance key in %s: that nothing is missing before the oldest event and after the newest is taken on trust\n", dir)
	} else if err != nil {
		return err
	}
	t, err := store.Audit(ctx, path, key)
	if b, ok := errors.AsType[*store.Broken](err); ok {
		return fmt.Errorf("%s: %w; before it %d events are as they were written", path, b, t.Rows)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%d events are as they were written, up to event %d with hash %x; retention has removed those up to %d\n", t.Rows, t.Last, t.Hash, t.Removed)
	return err
}

// keyIn returns the instance key that is in a directory; nil if it fails.
func keyIn(dir string) (_ *provisioner.Key, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	secret, err := config.KeyBytes(f)
	if err != nil {
		return nil, err
	}
	key, err := provisioner.NewKey(secret)
	return &key, err
}
