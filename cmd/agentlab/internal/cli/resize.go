package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newResizeCommand(host Host) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "resize ID|NAME",
		Short: "Give a stopped sandbox other cores or memory, or more disk",
		Long: `Give a stopped sandbox other cores or memory, or more disk, up to what its profile
and the quota allow. What is not named stays. The local backend can't do it.

    agentlab sandbox stop sb-...
    agentlab sandbox resize sb-... --memory-mb 8192
    agentlab sandbox start sb-...
` + exitCodes,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeSandboxes(host, 1),
		RunE: named(host, 1, "", func(ctx context.Context, cmd *cobra.Command, c *Client, ids []string) error {
			a, err := sizes(cmd)
			if err != nil {
				return err
			}
			a["sandbox_id"] = ids[0]
			var done struct {
				ID       string `json:"sandbox_id"`
				Cores    int    `json:"cpu"`
				MemoryMB int    `json:"memory_mb"`
				DiskGB   int    `json:"disk_gb"`
			}
			if err := c.Call(ctx, "resize_sandbox", a, &done); err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), done)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s has cpu %d, memory_mb %d and disk_gb %d when it is started\n", done.ID, done.Cores, done.MemoryMB, done.DiskGB)
			return err
		}),
	}
	cmd.Flags().Int("cpu", 0, "cores")
	cmd.Flags().Int("memory-mb", 0, "memory")
	cmd.Flags().Int("disk-gb", 0, "disk")
	addJSON(cmd, &asJSON)
	return cmd
}

// sizes are the arguments of the tool for the flags that were given.
func sizes(cmd *cobra.Command) (args, error) {
	a := args{}
	for _, flag := range []string{"cpu", "memory-mb", "disk-gb"} {
		if !cmd.Flags().Changed(flag) {
			continue
		}
		n, err := cmd.Flags().GetInt(flag)
		if err != nil {
			return nil, err
		}
		a[strings.ReplaceAll(flag, "-", "_")] = n
	}
	return a, nil
}
