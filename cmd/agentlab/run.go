package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab/internal/cli"
	"github.com/agentlab-mcp/agentlab/internal/config"
)

// Exit codes, as the help texts tell them.
const (
	exitFailed = cli.ExitFailed
	exitUsage  = cli.ExitUsage
	exitHeld   = 3
	exitUnsafe = 4
	exitLost   = cli.ExitLost
)

const exitCodes = `
Exit codes:
  0    done
  1    something else went wrong
  2    the command line is wrong
  3    another daemon keeps this state directory
  4    a directory of ours can't be made or is not safe
  5    the daemon did not start, or went away
  130  interrupted
`

// fail gives err an exit code, unless it has one. An error without is of the
// command line.
func fail(code int, err error) error { return cli.Fail(code, err) }

// run is the program. It returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {

	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	ran, err := root.ExecuteC()
	if err == nil {
		return 0
	}
	f, ok := errors.AsType[cli.Failure](err)
	if !ok {
		_, _ = fmt.Fprintf(stderr, "agentlab: %v\nusage: %s; --help says more\n", err, ran.UseLine())
		return exitUsage
	}
	if f.Err != nil {
		_, _ = fmt.Fprintf(stderr, "agentlab: %v\n", err)
	}
	return f.Code
}

func newRootCommand() *cobra.Command {
	var file string
	root := &cobra.Command{
		Use:           "agentlab",
		Short:         "Disposable Linux machines for agents",
		Long:          "Disposable Linux machines for agents, as MCP tools.\n\n    claude mcp add agentlab -- agentlab mcp\n" + exitCodes,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentFlags().StringVar(&file, "config", "", "configuration file (default $AGENTLAB_CONFIG, else by the XDG rules)")
	locate := func() (config.Paths, error) { return locate(file) }
	root.AddCommand(newServeCommand(locate), newMCPCommand(locate), newDoctorCommand(locate), newProxmoxCommand(locate),
		newSandboxCommand(locate), newStatusCommand(locate), newTemplateCommand(locate), newProfileCommand(locate), newConfigCommand(locate),
		newTokenCommand(locate), newStoreCommand(locate), newEventsCommand(locate), newAuditCommand(locate), newManCommand(), newVersionCommand())
	root.SetHelpCommand(newHelpCommand())
	root.InitDefaultCompletionCmd()
	if completion, _, err := root.Find([]string{"completion"}); err == nil {
		cli.Group(completion)
	}
	return root
}

// newHelpCommand is that of the library, which takes a command that there is not for
// no error.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]...",
		Short: "Say more of a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err == nil && len(rest) > 0 {
				err = fmt.Errorf("unknown command %q for %q", rest[0], found.CommandPath())
			}
			if err != nil {
				return err
			}
			return fail(exitFailed, found.Help())
		},
	}
}

// writeJSON writes the answer of a command for programs.
func writeJSON(w io.Writer, answer any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(answer)
}

// locate finds the directories of whoever runs us. file is the argument of --config.
func locate(file string) (config.Paths, error) {
	if file == "" {
		file = os.Getenv("AGENTLAB_CONFIG")
	}
	if file != "" {
		var err error
		if file, err = filepath.Abs(file); err != nil { // the daemon works in another directory
			return config.Paths{}, err
		}
	}
	home, err := os.UserHomeDir()
	if err != nil {
		u, err := user.Current() // some launchers pass no environment
		if err != nil {
			return config.Paths{}, fmt.Errorf("find the home directory: %w", err)
		}
		home = u.HomeDir
	}
	p, err := config.Locate(file, os.Geteuid(), home, os.Getenv)
	return p, fail(exitUnsafe, err)
}
