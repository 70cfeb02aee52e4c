package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

// wanted are the flags of new.
type wanted struct {
	profile, name, network string
	ttl                    time.Duration
	cores, memory, disk    int
	asJSON                 bool
}

const newHelp = `Make a sandbox, wait until it is ready, and print what it is. A live one of the
same name is taken instead. On a terminal the steps are shown with their times.

    agentlab sandbox new --profile default --name test-1 --ttl 30m
    id=$(agentlab sandbox new --json | jq -r .sandbox_id)

When it is interrupted, the sandbox is made nevertheless.
`

func newNewCommand(host Host) *cobra.Command {
	var w wanted
	cmd := &cobra.Command{
		Use:               "new",
		Aliases:           []string{"create"},
		Short:             "Make a sandbox",
		Long:              newHelp + exitCodes,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		PreRunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cmd.Flags().Changed("ttl") {
				_, err = seconds("ttl", w.ttl)
			}
			return err
		},
		RunE: run(host, "; the sandbox is made nevertheless: agentlab sandbox list shows it", func(ctx context.Context, cmd *cobra.Command, c *Client, _ []string) error {
			return w.make(ctx, c, cmd.OutOrStdout(), cmd.ErrOrStderr())
		}),
	}
	f := cmd.Flags()
	f.StringVar(&w.profile, "profile", "", "what it is made from")
	f.StringVar(&w.name, "name", "", "your name for it: a-z 0-9 -, at most 40")
	f.DurationVar(&w.ttl, "ttl", 0, "how long it lives (default the profile's)")
	f.IntVar(&w.cores, "cpu", 0, "cores (default the profile's)")
	f.IntVar(&w.memory, "memory-mb", 0, "memory (default the profile's)")
	f.IntVar(&w.disk, "disk-gb", 0, "disk (default the profile's)")
	f.StringVar(&w.network, "network", "", "network (default the profile's)")
	addJSON(cmd, &w.asJSON)
	_ = cmd.RegisterFlagCompletionFunc("profile", completeProfiles(host)) // the flag is there
	return cmd
}

// arguments are those of create_sandbox: what is not given is the profile's.
func (w wanted) arguments() args {
	a := args{"wait_seconds": longestWait}
	for name, value := range map[string]string{"profile": w.profile, "name": w.name, "network": w.network} {
		if value != "" {
			a[name] = value
		}
	}
	for name, value := range map[string]int{"ttl_seconds": int(w.ttl / time.Second), "cpu": w.cores, "memory_mb": w.memory, "disk_gb": w.disk} {
		if value != 0 {
			a[name] = value
		}
	}
	return a
}

// longestWait is how many seconds a tool waits at most.
const longestWait = 55

// make makes the sandbox and prints it when it is ready.
func (w wanted) make(ctx context.Context, c *Client, stdout, stderr io.Writer) error {
	steps := newSteps(stderr)
	c.step = steps.step
	var told json.RawMessage
	if err := c.Call(ctx, "create_sandbox", w.arguments(), &told); err != nil {
		return err
	}
	var sb sandbox
	for {
		if err := json.Unmarshal(told, &sb); err != nil {
			return fmt.Errorf("create_sandbox: read its answer: %w", err)
		}
		steps.step(sb.State)
		if !sb.coming() {
			break
		}
		var one page[json.RawMessage]
		if err := c.Call(ctx, "list_sandboxes", args{"sandbox_id": sb.ID, "wait_ready_seconds": longestWait}, &one); err != nil {
			return err
		}
		if len(one.Sandboxes) != 1 {
			return fmt.Errorf("list_sandboxes: want one sandbox, got %d", len(one.Sandboxes))
		}
		told = one.Sandboxes[0]
	}
	if w.asJSON {
		return writeJSON(stdout, told)
	}
	return printSandbox(stdout, sb, time.Now())
}
