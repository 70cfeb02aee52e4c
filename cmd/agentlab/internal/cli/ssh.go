package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/internal/terminal"
)

const sshHelp = `Open a terminal in a sandbox, with the shell of its profile or with a command, and end
with its exit code. All keys are the sandbox's, also Ctrl-C and Ctrl-Z; ~. at the
beginning of a line ends the connection and the command, ~~ is one ~.

    agentlab sandbox ssh test-1
    agentlab sandbox ssh test-1 -- htop

Where standard input or output is no terminal, the command gets none either, and its
standard error is apart. What was begun ends with this program; agentlab sandbox exec
is for what is to go on.

For ssh, scp, sftp, rsync, git and editors that work over SSH, --ssh-config prints what
an ssh_config needs: for one sandbox or, without one, for all that there are and will
be. Nothing listens for it; ssh runs this command with --stdio.

    agentlab sandbox ssh --ssh-config > ~/.ssh/agentlab
    ssh -F ~/.ssh/agentlab test-1.agentlab     # or with Include agentlab in ~/.ssh/config

Exit codes:
  ...  that of the command; 128 and the number of the signal that ended it
  2    the command line is wrong
  125  AgentLab could not run it, or does not know its end; stderr says why
`

// sshOrder is what ssh is asked for.
type sshOrder struct {
	user          string
	config, stdio bool
}

func newSSHCommand(host Host) *cobra.Command {
	var o sshOrder
	cmd := &cobra.Command{
		Use:               "ssh [flags] ID|NAME [-- COMMAND [ARGUMENT]...]",
		Aliases:           []string{"shell"},
		Short:             "Open a terminal in a sandbox, or let SSH clients in",
		Long:              sshHelp,
		ValidArgsFunction: completeSandboxes(host, 1),
		RunE:              func(cmd *cobra.Command, given []string) error { return o.run(cmd, host, given) },
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // the flags after the id are the command's
	f.StringVarP(&o.user, "user", "u", "", "who runs it (default the sandbox's user)")
	f.BoolVar(&o.config, "ssh-config", false, "print what an SSH client needs to know, as ssh_config(5) has it")
	f.BoolVar(&o.stdio, "stdio", false, "be an SSH server on standard input and output, for ssh's ProxyCommand")
	cmd.MarkFlagsMutuallyExclusive("ssh-config", "stdio")
	cmd.MarkFlagsMutuallyExclusive("user", "stdio") // it is the client's to say
	return cmd
}

func (o sshOrder) run(cmd *cobra.Command, host Host, given []string) error {
	if len(given) == 0 && !o.config {
		return errors.New("name a sandbox by its id or name: agentlab sandbox ssh ID")
	}
	if len(given) > 1 && (o.config || o.stdio) {
		return fmt.Errorf("got the command %q: the SSH client says what to run", given[1:])
	}
	switch {
	case o.config:
		return printSSHConfig(cmd, host, o.user, given)
	case o.stdio:
		return serveSSH(cmd, host, given[0])
	}
	words := given[1:]
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	req := terminal.Request{Sandbox: given[0], User: o.user}
	if len(words) > 0 {
		req.Command = quote(words)
	}
	return openTerminal(cmd, host, req)
}

// openTerminal runs a command with the streams of this program.
func openTerminal(cmd *cobra.Command, host Host, req terminal.Request) (err error) {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	var conn io.ReadWriteCloser
	if req.Sandbox, err = resolveOne(ctx, cmd, host, req.Sandbox); err == nil {
		conn, err = host.Join(ctx, Want{Terminal: true}, cmd.ErrOrStderr())
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return Failure{ExitInterrupted, errInterrupted}
	case err != nil:
		return notRun(err)
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	s := &screen{in: cmd.InOrStdin(), out: cmd.OutOrStdout(), errs: cmd.ErrOrStderr(), to: terminal.NewClient(conn)}
	code, err := s.show(req, func() { _ = conn.Close() })
	switch {
	case s.left.Load():
		return Failure{exitSignal + int(syscall.SIGHUP), errors.New("disconnected; the command was ended")}
	case ctx.Err() != nil:
		return Failure{ExitInterrupted, errors.New("interrupted; the command was ended")}
	case err != nil:
		return notRun(errors.New(saidOfTerminal(err)))
	case code != 0:
		return Failure{code, nil}
	}
	return nil
}

// saidOfTerminal is an error of package terminal as it is told here.
func saidOfTerminal(err error) string {
	return words().Replace(strings.TrimPrefix(err.Error(), "terminal: "))
}

// resolveOne returns the id of a sandbox that is named by id or name.
func resolveOne(ctx context.Context, cmd *cobra.Command, host Host, given string) (string, error) {
	if idForm.MatchString(given) {
		return given, nil
	}
	a := args{"sandbox_id": given}
	c, err := openFor(ctx, host, a, cmd.ErrOrStderr())
	if err != nil {
		return "", err
	}
	c.Close()
	return a["sandbox_id"].(string), nil
}
