package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
)

func newStoreCommand(locate func() (config.Paths, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Back up what the daemon keeps, or rebuild it from the machines",
	}
	cmd.AddCommand(newStoreBackupCommand(locate), newStoreRebuildCommand(locate))
	return cmd
}

func newStoreBackupCommand(locate func() (config.Paths, error)) *cobra.Command {
	return &cobra.Command{
		Use:   "backup DIRECTORY",
		Short: "Copy the database and the instance key to a new directory",
		Long: `Copy the database and the instance key to a new directory, also while a daemon
runs. The copy is of one moment and is read back. Who has it can do with the
machines as the daemon does, so only you can read it.

To go back to it, end the daemon, remove agentlab.db-wal and agentlab.db-shm from
the state directory if they are there, since they would undo it, and put both
files there. Tokens that were revoked since are valid again: revoke them anew.
` + exitCodes,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			paths, err := locate()
			if err != nil {
				return fail(exitFailed, err)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			if err := backUp(ctx, paths.State, args[0]); err != nil {
				return fail(exitFailed, fmt.Errorf("back up to %s: %w", args[0], err))
			}
			_, err = fmt.Fprintln(cmd.ErrOrStderr(), "agentlab: backed up to", args[0])
			return fail(exitFailed, err)
		},
	}
}

// backUp makes the directory to, whole or not at all.
func backUp(ctx context.Context, state, to string) (err error) {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(to)) // ours: it was not there before
		}
	}()
	dir, err := config.OpenDir(state, config.StateMode())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	key, err := config.KeyBytes(dir)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(to, config.KeyFile), key, 0o600); err != nil {
		return err
	}
	return store.Backup(ctx, filepath.Join(state, config.DatabaseFile), filepath.Join(to, config.DatabaseFile))
}

func newStoreRebuildCommand(locate func() (config.Paths, error)) *cobra.Command {
	return &cobra.Command{
		Use:   "rebuild",
		Short: "Make the database anew from the machines that there are",
		Long: `Make the database anew from the papers of the machines that there are: their
sandboxes, owners and ends. No machine is touched. The old database is kept beside
it; its tokens, and what had ended, are taken over if it can be read. If a backend
can't be read, all stays as it was.

No daemon may run. One that finds its database damaged or gone does the same by
itself, without the tokens.
` + exitCodes,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			paths, err := locate()
			if err != nil {
				return fail(exitFailed, err)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelError}))
			in := &installation{paths: paths, log: log, level: new(slog.LevelVar), turn: make(chan struct{}, 1)}
			found, err := in.rebuild(ctx, cmd.ErrOrStderr())
			if err == nil {
				err = printSandboxes(cmd.OutOrStdout(), found)
			}
			return fail(exitFailed, errors.Join(err, in.close()))
		},
	}
}

// rebuild replaces the database. If that fails the old one is there again.
func (in *installation) rebuild(ctx context.Context, told io.Writer) (found []sessions.Sandbox, err error) {
	var held errHeld
	if err := in.lockState(ctx, 0); errors.As(err, &held) {
		return nil, fail(exitHeld, fmt.Errorf("%w; end it first", err))
	} else if err != nil {
		return nil, fail(exitUnsafe, err)
	}
	if _, err := config.KeyBytes(in.state); err != nil { // without it no machine is ours
		return nil, err
	}
	path := filepath.Join(in.paths.State, config.DatabaseFile)
	aside, err := store.SetAside(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	old := err == nil
	found, err = in.refill(ctx, old, aside, told)
	if err == nil || !old {
		return found, err
	}
	if o := in.opened.Swap(nil); o != nil {
		err = errors.Join(err, o.store.Close())
	}
	return nil, errors.Join(fmt.Errorf("%w\nthe database is as it was", err), store.PutBack(aside, path))
}

// refill fills a new database: from the old one first, since that knows what
// was to be removed.
func (in *installation) refill(ctx context.Context, old bool, aside string, told io.Writer) ([]sessions.Sandbox, error) {
	o, err := in.use(ctx)
	if err != nil {
		return nil, err
	}
	if old {
		text := "agentlab: the old database is kept as " + aside
		if err := o.store.Inherit(ctx, aside); err != nil {
			text += "; its tokens are lost, since it can't be read: " + err.Error()
		}
		_, _ = fmt.Fprintln(told, text)
	}
	return o.manager.Rebuild(ctx)
}

func printSandboxes(out io.Writer, list []sessions.Sandbox) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "SANDBOX\tNAME\tOWNER\tPROFILE\tSTATE\tENDS") // Flush has the error
	for _, sb := range list {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", sb.ID, sb.Name, sb.Owner, sb.Profile, sb.State, sb.End.UTC().Format(time.RFC3339))
	}
	return w.Flush()
}
