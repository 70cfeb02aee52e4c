// Package cli is the command line of people and scripts who use sandboxes. Each
// command is an MCP client of the daemon, like an agent, so that there is one
// API: what a command can't do, a tool is missing for. How the daemon is found
// and started is not known here.
package cli

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab/internal/sshd"
)

// Host is what the program around gives the commands.
type Host struct {
	// Join connects to the daemon. What is to be said to the user goes to warn.
	Join    func(ctx context.Context, want Want, warn io.Writer) (io.ReadWriteCloser, error)
	Version string
	// Self is a command line that runs this program for the daemon that cmd is run
	// for, up to the name of a command.
	Self func(cmd *cobra.Command) ([]string, error)
	// SSHKey returns the key that we show to SSH clients, and the path of a
	// known_hosts file that has it under a name.
	SSHKey func(name string) (key ed25519.PrivateKey, known string, err error)
}

// Want is what a command wants of its connection.
type Want struct {
	NoStart  bool     // start no daemon if there is none
	Admin    bool     // the operator's tools
	Terminal bool     // to speak as package terminal has it, and not MCP
	HostDirs []string // whose files may be copied
}

// Exit codes that all commands share, also those of the program around, which has
// more.
const (
	ExitFailed = 1
	ExitUsage  = 2
	ExitLost   = 5

	ExitInterrupted = exitSignal + int(syscall.SIGINT)
)

// Exit codes of these commands alone.
const (
	exitNotFound    = 6
	exitRefused     = 7
	exitUnavailable = 8
	exitNotRun      = sshd.ExitNotRun // of exec and ssh, whose others are the command's
	exitSignal      = 128             // and the signal's number
)

const exitCodes = `
Exit codes:
  0    done
  1    something else went wrong
  2    the command line is wrong, or a value in it is not accepted
  4    a directory of ours can't be made or is not safe
  5    the daemon did not start, or went away
  6    there is no such sandbox, process or file
  7    refused: not allowed, a limit is reached, or not possible as things are
  8    unavailable: the sandbox, its backend or AgentLab can't do it now
  130  interrupted
`

// Failure is an error that a command ended with, and its exit code. Every other
// error is of the command line. Without Err there is nothing to say.
type Failure struct {
	Code int
	Err  error
}

// Error returns the text of Err.
func (f Failure) Error() string {
	if f.Err == nil {
		return ""
	}
	return f.Err.Error()
}

// Unwrap returns Err.
func (f Failure) Unwrap() error { return f.Err }

// Fail gives err an exit code, unless it has one.
func Fail(code int, err error) error {
	if _, ok := errors.AsType[Failure](err); err == nil || ok {
		return err
	}
	return Failure{code, err}
}

// NewSandboxCommand returns the command sandbox.
func NewSandboxCommand(host Host) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "sandbox",
		Aliases: []string{"sb"},
		Short:   "Make, use and end sandboxes",
		Long: `Make, use and end sandboxes: yours, and those of the agents that you run on
this machine. The daemon of this user does it, and is started if none runs.

    agentlab sandbox new --name test-1 --ttl 1h
    agentlab sandbox exec sb-... -- uname -a
` + exitCodes,
	}
	cmd.AddCommand(newNewCommand(host), newListCommand(host), newShowCommand(host), newExecCommand(host), newSSHCommand(host),
		newLogsCommand(host), newCpCommand(host), newExtendCommand(host), newDestroyCommand(host), newPruneCommand(host))
	cmd.AddCommand(newPowerCommands(host)...)
	return Group(cmd, newResizeCommand(host))
}

// Group makes a command one that only has others: it shows them, and refuses one that
// is none of them.
func Group(cmd *cobra.Command, others ...*cobra.Command) *cobra.Command {
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return Fail(ExitFailed, cmd.Help()) }
	cmd.AddCommand(others...)
	return cmd
}

// body is what a command does with a client.
type body func(ctx context.Context, cmd *cobra.Command, c *Client, args []string) error

// run makes the RunE of a command. What interrupts it ends it, and after that
// interrupted says how things stand.
func run(host Host, interrupted string, f body) func(*cobra.Command, []string) error {
	return runWith(host, Want{}, interrupted, f)
}

// runWith is run for a command that wants more of its connection.
func runWith(host Host, want Want, interrupted string, f body) func(*cobra.Command, []string) error {
	return Interruptible(interrupted, func(cmd *cobra.Command, args []string) error {
		c, err := open(cmd.Context(), host, want, cmd.ErrOrStderr())
		if err == nil {
			defer c.Close()
			err = f(cmd.Context(), cmd, c, args)
		}
		return inWords(err)
	})
}

// Interruptible makes a RunE whose context ends when somebody interrupts it. If it
// fails then, interrupted says how things stand. A second interrupt ends the program
// there and then.
func Interruptible(interrupted string, f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		context.AfterFunc(ctx, stop)
		cmd.SetContext(ctx)
		err := f(cmd, args)
		if err != nil && ctx.Err() != nil {
			return Failure{ExitInterrupted, errors.New("interrupted" + interrupted)}
		}
		return err
	}
}

// seconds is a duration as the tools want it.
func seconds(flag string, d time.Duration) (int, error) {
	if d < time.Second || d%time.Second != 0 {
		return 0, errors.New("--" + flag + ": got " + d.String() + ", want whole seconds, such as 90s, 30m or 2h")
	}
	return int(d / time.Second), nil
}
