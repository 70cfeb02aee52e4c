package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newManCommand is for who packages AgentLab; people read what it writes.
func newManCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIRECTORY",
		Short:  "Write a manual page for each command",
		Long:   "Write a manual page for each command to a directory that is there. Their date is\n$SOURCE_DATE_EPOCH, in seconds since 1970, if it is set.\n" + exitCodes,
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if info, err := os.Stat(args[0]); err != nil || !info.IsDir() {
				return fail(exitUsage, fmt.Errorf("DIRECTORY: %q is not one", args[0]))
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			root.InitDefaultHelpCmd()
			head := doc.GenManHeader{Title: "AGENTLAB", Section: "1", Source: "AgentLab " + version(), Manual: "AgentLab"}
			return fail(exitFailed, doc.GenManTree(root, &head, args[0]))
		},
	}
}
