package main

import (
	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab/internal/cli"
	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/mcpserver"
)

// adminClient calls the operator's tools. The daemon alone has the database, so
// that the command line is one more MCP client of it, and the only one that
// asks to be the operator.
type adminClient struct{ *cli.Client }

// newAdminClient connects to the daemon, and starts it if there is none.
func newAdminClient(cmd *cobra.Command, locate func() (config.Paths, error)) (adminClient, error) {
	conn, err := joinLocal(cmd.Context(), locate, true, mcpserver.Hello{Admin: true}, cmd.ErrOrStderr())
	if err != nil {
		return adminClient{}, err
	}
	c, err := cli.NewClient(cmd.Context(), conn, version())
	return adminClient{c}, err
}
