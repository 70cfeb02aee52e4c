package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func newResizeCommand(host Host) *cobra.Command {
	var cores, memory, disk int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "resize ID",
		Short: "Give a stopped sandbox other cores or memory, or more disk",
		Long: `Give a stopped sandbox other cores or memory, or more disk, up to what its profile
and the quota allow. What is not named stays. The local backend can't do it.

    agentlab sandbox stop sb-...
    agentlab sandbox resize sb-... --memory-mb 8192
    agentlab sandbox start sb-...
` + exitCodes,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeSandboxes(host, 1),
		RunE: run(host, "", func(ctx context.Context, cmd *cobra.Command, c *Client, ids []string) error {
			a := args{"sandbox_id": ids[0]}
			for flag, param := range map[string]struct {
				name  string
				value int
			}{"cpu": {"cpu", cores}, "memory-mb": {"memory_mb", memory}, "disk-gb": {"disk_gb", disk}} {
				if cmd.Flags().Changed(flag) {
					a[param.name] = param.value
				}
			}
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
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s has cpu %d, memory_mb %d and disk_gb %d when it is started\n", done.ID, done.Cores, done.MemoryMB, done.DiskGB)
			return err
		}),
	}
	cmd.Flags().IntVar(&cores, "cpu", 0, "cores")
	cmd.Flags().IntVar(&memory, "memory-mb", 0, "memory")
	cmd.Flags().IntVar(&disk, "disk-gb", 0, "disk")
	addJSON(cmd, &asJSON)
	return cmd
}
