package cli

import (
	"context"
	"fmt"
	"maps"

	"github.com/spf13/cobra"
)

// newPowerCommands returns those that switch sandboxes off and on, and hold them
// still.
func newPowerCommands(host Host) []*cobra.Command {
	stop := powerCommand{
		use: "stop", short: "Switch sandboxes off, with their files kept",
		long: `Switch sandboxes off. Files stay and processes end; the end of each comes at its
time all the same. A machine gets a minute to shut down. The local backend can't
do it: there a sandbox can be paused.`,
		tool: "stop_sandbox", interrupted: "; a sandbox that is being stopped stops nevertheless",
	}
	start := powerCommand{
		use: "start", short: "Start stopped sandboxes",
		long: "Start stopped sandboxes and wait until each can be used.",
		tool: "start_sandbox", interrupted: "; a sandbox that is being started starts nevertheless",
	}
	pause := powerCommand{
		use: "pause", short: "Hold sandboxes still with all that runs in them",
		long: `Hold sandboxes still with all that runs in them, until resume. They keep their
memory meanwhile, and the end of each comes at its time all the same.`,
		tool: "stop_sandbox", more: args{"pause": true},
	}
	resume := powerCommand{
		use: "resume", short: "Let paused sandboxes go on",
		long: "Let paused sandboxes go on.",
		tool: "start_sandbox",
	}
	return []*cobra.Command{stop.command(host), start.command(host), pause.command(host), resume.command(host)}
}

// powerCommand is one of them: a tool that is called for each sandbox.
type powerCommand struct {
	use, short, long string
	tool             string
	more             args   // besides the sandbox
	interrupted      string // how things stand then
}

func (p powerCommand) command(host Host) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               p.use + " ID|NAME...",
		Short:             p.short,
		Long:              p.long + "\n" + exitCodes,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeSandboxes(host, 0),
		RunE: named(host, 0, p.interrupted, func(ctx context.Context, cmd *cobra.Command, c *Client, ids []string) error {
			for _, id := range ids {
				if err := p.call(ctx, cmd, c, id, asJSON); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	addJSON(cmd, &asJSON)
	return cmd
}

func (p powerCommand) call(ctx context.Context, cmd *cobra.Command, c *Client, id string, asJSON bool) error {
	a := args{"sandbox_id": id}
	maps.Copy(a, p.more)
	var done struct {
		ID    string `json:"sandbox_id"`
		State string `json:"state"`
	}
	for {
		if err := c.Call(ctx, p.tool, a, &done); err != nil {
			return err
		}
		if done.State != "stopping" && done.State != "starting" {
			break // else the wait of one call was over
		}
	}
	if asJSON {
		return writeJSON(cmd.OutOrStdout(), done)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is %s\n", done.ID, upper(done.State))
	return err
}
