package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/tools"
)

const pruneHelp = `Remove at once what has ended or is stuck, of all users of this installation: what
is past its end, has failed, was being destroyed when something went wrong, or is a
machine that no record knows any more. The daemon does so by itself; this does not
wait for its next try, and shows what is in the way. Nothing that lives is touched.

    agentlab sandbox prune --dry-run     # only shows what it would do

Someone elsewhere needs a token with the scope admin.
`

func newPruneCommand(host Host) *cobra.Command {
	var dry, asJSON bool
	cmd := &cobra.Command{
		Use:               "prune",
		Short:             "Remove what has ended or is stuck",
		Long:              pruneHelp + exitCodes,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: runWith(host, Want{Admin: true}, "; what was begun goes on", func(ctx context.Context, cmd *cobra.Command, c *Client, _ []string) error {
			var out tools.PruneOut
			if err := c.Call(ctx, "sandbox_prune", args{"dry_run": dry}, &out); err != nil {
				return err
			}
			show := printPruned
			if asJSON {
				show = func(w io.Writer, out tools.PruneOut) error { return writeJSON(w, out) }
			}
			if err := show(cmd.OutOrStdout(), out); err != nil {
				return err
			}
			return pruneTrouble(cmd.ErrOrStderr(), out)
		}),
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "change nothing")
	addJSON(cmd, &asJSON)
	return cmd
}

// printPruned prints a line for each sandbox.
func printPruned(out io.Writer, p tools.PruneOut) error {
	if len(p.List) == 0 {
		_, err := fmt.Fprintln(out, "nothing has ended or is stuck")
		return err
	}
	t := Table{Header: []string{"ID", "OUTCOME", "WHY", "NAME", "OWNER", "BACKEND"}, Flexible: 2}
	for _, e := range p.List {
		why := e.Why
		if e.Problem != "" {
			why += "; " + e.Problem
		}
		t.Rows = append(t.Rows, []string{e.SandboxID, pruneOutcome(p.DryRun, e), why, cmp.Or(e.Name, "-"), e.Owner, e.Backend})
	}
	return t.Print(out)
}

func pruneOutcome(dry bool, e tools.Pruned) string {
	switch {
	case e.Left:
		return "wait" // for a second look
	case dry:
		return "would go"
	case e.Problem != "":
		return "stuck"
	}
	return "gone"
}

// pruneTrouble tells of backends that could not be looked at, and is an error if
// there are any or something could not be removed.
func pruneTrouble(stderr io.Writer, p tools.PruneOut) error {
	stuck := 0
	for _, e := range p.List {
		if !p.DryRun && e.Problem != "" {
			stuck++
		}
	}
	for _, u := range p.Unread {
		_, _ = fmt.Fprintf(stderr, "agentlab: backend %s: nothing is decided: %s\n", u.Backend, u.Problem)
	}
	switch {
	case stuck > 0:
		return Failure{exitUnavailable, fmt.Errorf("%d could not be removed; the daemon goes on trying", stuck)}
	case len(p.Unread) > 0:
		return Failure{exitUnavailable, nil}
	}
	return nil
}
