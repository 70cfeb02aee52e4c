package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/internal/release"
)

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "agentlab", version())
			return fail(exitFailed, err)
		},
	}
}

func version() string { return release.Version() }
