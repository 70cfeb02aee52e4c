package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab/internal/cli"
	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/internal/durable"
	"github.com/agentlab-mcp/agentlab/internal/failpoint"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
)

func newStoreCommand(locate func() (config.Paths, error)) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "store",
		Short: "Back up what the daemon keeps, or rebuild it from the machines",
	}, newStoreBackupCommand(locate), newStoreRebuildCommand(locate))
}

func newStoreBackupCommand(locate func() (config.Paths, error)) *cobra.Command {
	return &cobra.Command{
		Use:   "backup DIRECTORY",
		Short: "Copy the database and the instance key to a new directory",
		Long: `Copy the database and the instance key to a new directory, also while a daemon
runs. The copy is of one moment and is read back. Who has it can do with the
machines as the daemon does, so only you can read it.

The directory has its name when all of it is on the disk, and is DIRECTORY.partial
before.

To go back to it, end the daemon, move agentlab.db, agentlab.db-wal and
agentlab.db-shm out of the state directory, since a log that stays behind would
undo it, and copy both files there. Then run agentlab store rebuild before the
daemon starts: the machines know what was made and extended since. Tokens that
were revoked since are valid again: revoke them anew.
` + exitCodes,
		Args: cobra.ExactArgs(1),
		RunE: cli.Interruptible("; there is no backup", func(cmd *cobra.Command, args []string) error {
			paths, err := locate()
			if err != nil {
				return fail(exitFailed, err)
			}
			if err := backUp(cmd.Context(), paths.State, filepath.Clean(args[0]), points()); err != nil {
				return fail(exitFailed, fmt.Errorf("back up to %s: %w", args[0], err))
			}
			_, err = fmt.Fprintln(cmd.ErrOrStderr(), "agentlab: backed up to", args[0])
			return fail(exitFailed, err)
		}),
	}
}

// backUp makes the directory to, whole or not at all: it has another name until
// all that is in it is on the disk.
func backUp(ctx context.Context, state, to string, points *failpoint.Points) (err error) {
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return cmp.Or(err, fs.ErrExist)
	}
	partial := to + ".partial"
	err = points.Around("backup begin", func() error { return os.Mkdir(partial, 0o700) })
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there, of a backup that runs or was cut short; remove it if none runs", partial)
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(partial)) // ours: it was not there before
		}
	}()
	err = points.Around("backup copy key", func() error { return copyKey(state, partial) })
	if err != nil {
		return err
	}
	err = points.Around("backup copy database", func() error {
		return store.Backup(ctx, filepath.Join(state, config.DatabaseFile), filepath.Join(partial, config.DatabaseFile))
	})
	if err != nil {
		return err
	}
	if err := durable.SyncDir(partial); err != nil {
		return err
	}
	return points.Around("backup name", func() error {
		return errors.Join(os.Rename(partial, to), durable.SyncDir(filepath.Dir(to)))
	})
}

// copyKey copies the instance key of a state directory to another directory.
func copyKey(state, to string) (err error) {
	dir, err := config.OpenDir(state, config.StateMode())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	key, err := config.KeyBytes(dir)
	if err != nil {
		return err
	}
	return durable.WriteNew(filepath.Join(to, config.KeyFile), key)
}

func newStoreRebuildCommand(locate func() (config.Paths, error)) *cobra.Command {
	return &cobra.Command{
		Use:   "rebuild",
		Short: "Make the database anew from the machines that there are",
		Long: `Make the database anew from the papers of the machines that there are: their
sandboxes, owners and ends. No machine is touched. The old database is in force
until the new one is whole, and is kept beside it then; its events, its tokens,
what had ended and what was being made are taken over if it can be read. If a backend can't be
read, or anything else fails, all stays as it was.

No daemon may run. One that finds its database damaged or gone does the same by
itself, without events and tokens.
` + exitCodes,
		Args: cobra.NoArgs,
		RunE: cli.Interruptible("; the database is as it was", func(cmd *cobra.Command, _ []string) error {
			paths, err := locate()
			if err != nil {
				return fail(exitFailed, err)
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelError}))
			in := &installation{paths: paths, log: log, level: new(slog.LevelVar), turn: make(chan struct{}, 1), points: points()}
			found, err := in.rebuild(cmd.Context(), cmd.ErrOrStderr())
			if err == nil {
				err = printSandboxes(cmd.OutOrStdout(), found)
			}
			return fail(exitFailed, errors.Join(err, in.close()))
		}),
	}
}

// rebuild makes a database anew and puts it in the place of the one there is.
// Until that is done, and if it fails, the latter is in force.
func (in *installation) rebuild(ctx context.Context, told io.Writer) ([]sessions.Sandbox, error) {
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
	left, err := store.Tidy(path)
	if err != nil {
		return nil, err
	}
	if len(left) > 0 {
		_, _ = fmt.Fprintln(told, "agentlab: an earlier rebuild was cut short; what it left is removed:", strings.Join(left, ", "))
	}
	in.database = store.Draft(path)
	found, err := in.refill(ctx, path, told)
	if o := in.opened.Swap(nil); o != nil {
		err = errors.Join(err, o.store.Close())
	}
	var aside string
	if err == nil {
		aside, err = store.Replace(ctx, path, in.points.Around)
	}
	if err != nil {
		_, terr := store.Tidy(path)
		return nil, errors.Join(fmt.Errorf("%w\nthe database is as it was", err), terr)
	}
	if aside != "" {
		_, _ = fmt.Fprintln(told, "agentlab: the old database is kept as", aside)
	}
	return found, nil
}

// refill fills a new database: from the old one first, since that knows what
// was to be removed.
func (in *installation) refill(ctx context.Context, old string, told io.Writer) ([]sessions.Sandbox, error) {
	o, err := in.use(ctx)
	if err != nil {
		return nil, err
	}
	err = in.points.Around("store inherit", func() error { return o.store.Inherit(ctx, old) })
	switch {
	case errors.Is(err, store.ErrDamaged):
		_, _ = fmt.Fprintln(told, "agentlab: the tokens of the old database, and what had ended, are lost, since it can't be read:", err)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("take over from %s: %w", old, err)
	}
	return o.manager.Rebuild(ctx)
}

func printSandboxes(out io.Writer, list []sessions.Sandbox) error {
	t := cli.Table{Header: []string{"SANDBOX", "NAME", "OWNER", "PROFILE", "STATE", "ENDS"}, Flexible: 1}
	for _, sb := range list {
		t.Rows = append(t.Rows, []string{sb.ID, sb.Name, sb.Owner, sb.Profile, string(sb.State), sb.End.UTC().Format(time.RFC3339)})
	}
	return t.Print(out)
}
