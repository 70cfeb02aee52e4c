package cli

import (
	"context"

	"github.com/spf13/cobra"
)

func newLogsCommand(host Host) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs [-f] ID|NAME PROCESS",
		Short: "Print what a process has written",
		Long: `Print what a process of a sandbox has written so far, its standard output and
standard error apart. agentlab sandbox show names the processes. Of a long output
the last 64 MiB are kept.
` + exitCodes,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeSandboxes(host, 1),
		RunE: named(host, 1, "; the process goes on", func(ctx context.Context, cmd *cobra.Command, c *Client, given []string) error {
			r := &remote{client: c, sandbox: given[0], process: given[1], stderr: cmd.ErrOrStderr()}
			_, err := r.copy(ctx, 0, follow, cmd.OutOrStdout(), cmd.ErrOrStderr())
			return err
		}),
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the process has ended")
	return cmd
}
