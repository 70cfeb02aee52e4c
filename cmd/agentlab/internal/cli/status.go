package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/tools"
)

const statusHelp = `Say how the daemon of this user does, or a server elsewhere: its version, whether its
backends can make machines now, how many sandboxes there are of all users, how full
the pools are, and what has ended and can't be removed, and why. None is started.

Exit codes:
  0    nothing is wrong
  1    something is; it stands at the end
  2    the command line is wrong
  5    no daemon runs, or it went away
  7    refused: the token has not the scope admin
  8    it runs and can't be used; what it says is why
  130  interrupted
`

// statusOut is what status prints as JSON.
type statusOut struct {
	Version string `json:"version"`
	tools.Status
}

// NewStatusCommand returns the command status.
func NewStatusCommand(host Host) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "status",
		Short:             "Say how the daemon does, and what is wrong",
		Long:              statusHelp,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: runWith(host, Want{NoStart: true, Admin: true}, "", func(ctx context.Context, cmd *cobra.Command, c *Client, _ []string) error {
			out := statusOut{Version: c.session.InitializeResult().ServerInfo.Version}
			if err := c.Call(ctx, "server_status", nil, &out.Status); err != nil {
				return err
			}
			var err error
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), out)
			} else {
				err = printStatus(cmd.OutOrStdout(), out)
			}
			if err == nil && len(out.Problems) > 0 {
				err = Failure{ExitFailed, nil} // they were printed
			}
			return err
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// printStatus prints a table for each kind of thing that there is, and what is wrong.
func printStatus(out io.Writer, st statusOut) error {
	if _, err := fmt.Fprintf(out, "the daemon runs, version %s\n", st.Version); err != nil {
		return err
	}
	backends := Table{Header: []string{"BACKEND", "STATE", "MAKES"}, Flexible: 2}
	for _, b := range st.Backends {
		state := "ok"
		if b.Problem != "" {
			state = "broken"
		}
		backends.Rows = append(backends.Rows, []string{b.Name, state, cmp.Or(b.Profiles, "- (no profile needs it)")})
	}
	states := Table{Header: []string{"STATE", "SANDBOXES"}, Flexible: 0}
	for _, s := range st.States {
		states.Rows = append(states.Rows, []string{upper(s.State), strconv.Itoa(s.Count)})
	}
	pools := Table{Header: []string{"POOL", "SIZE", "READY", "MAKING"}, Flexible: 0}
	for _, p := range st.Pools {
		pools.Rows = append(pools.Rows, []string{p.Profile, strconv.Itoa(p.Size), strconv.Itoa(p.Ready), strconv.Itoa(p.Making)})
	}
	for _, t := range []Table{backends, states, pools} {
		if len(t.Rows) == 0 {
			continue
		}
		if _, err := fmt.Fprintln(out); err != nil {
			return err
		}
		if err := t.Print(out); err != nil {
			return err
		}
	}
	return printProblems(out, st.Problems)
}

func printProblems(out io.Writer, list []tools.Problem) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(out, "\nnothing is wrong")
		return err
	}
	if _, err := fmt.Fprintln(out, "\nWRONG"); err != nil {
		return err
	}
	for _, p := range list {
		if _, err := fmt.Fprintln(out, Lines(out, p.Problem)); err != nil {
			return err
		}
	}
	return nil
}
