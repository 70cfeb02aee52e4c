package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab/internal/sshd"
	"github.com/agentlab-mcp/agentlab/internal/terminal"
)

const (
	// hostSuffix makes a host name of an id or a name, in which there is no dot.
	hostSuffix = ".agentlab"
	// keyName is what our key is known under, whichever sandbox it is.
	keyName = "agentlab"
)

// stanza is of an ssh_config, with the hosts, ProxyCommand, user, name of the key and
// file that has it.
const stanza = `# Sandboxes of AgentLab. ProxyCommand is the SSH server, and lets in who can run it.
Host %s
    ProxyCommand %s
    User %s
    PreferredAuthentications none
    HostKeyAlias %s
    UserKnownHostsFile %s
    GlobalKnownHostsFile none
    StrictHostKeyChecking yes
    UpdateHostKeys no
    ForwardAgent no
    ForwardX11 no
`

// printSSHConfig prints what an SSH client needs to know of the sandbox that is
// given, or of all.
func printSSHConfig(cmd *cobra.Command, host Host, user string, given []string) error {
	// The host name as it was typed. What a shell would take apart in it ssh refuses, but
	// not before 9.6 (CVE-2023-51385): then a name that ends the quotes is no host of ours.
	hosts, target := "*"+hostSuffix+` "!*'*"`, "'%n'"
	if len(given) > 0 {
		id, err := resolveOne(cmd.Context(), cmd, host, given[0])
		if err == nil {
			err = ping(cmd.Context(), cmd, host, id)
		}
		if err != nil {
			return inWords(err)
		}
		hosts, target = given[0]+hostSuffix, given[0]
	}
	self, err := host.Self(cmd)
	if err != nil {
		return err
	}
	_, known, err := host.SSHKey(keyName)
	if err != nil {
		return err
	}
	if user == "" {
		user = sshd.DefaultUser
	}
	said := strings.Join(self, " ") + " " + known + " " + user
	if strings.ContainsAny(said, "\n\r") || strings.Contains(said, "${") {
		return Fail(ExitFailed, fmt.Errorf("%q: an ssh_config can have neither the end of a line nor ${ in it", said))
	}
	command := proxyCommand(append(self, "sandbox", "ssh", "--stdio")) + " " + target
	_, err = fmt.Fprintf(cmd.OutOrStdout(), stanza, hosts, command, configWord(user), keyName, configWord(known))
	return Fail(ExitFailed, err)
}

// plain is a word that neither a shell nor ssh changes.
var plain = regexp.MustCompile(`^[A-Za-z0-9_@+=:,./-]+$`)

// proxyCommand is a command line for the user's shell, in which ssh replaces %.
func proxyCommand(argv []string) string {
	words := make([]string, len(argv))
	for i, w := range argv {
		if words[i] = w; !plain.MatchString(w) {
			words[i] = strings.ReplaceAll(quote([]string{w}), "%", "%%")
		}
	}
	return strings.Join(words, " ")
}

// configWord is a path as one word of an ssh_config.
func configWord(path string) string {
	if plain.MatchString(path) {
		return path
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(path) + `"`
}

// serveSSH is an SSH server for who has started us as their ProxyCommand.
func serveSSH(cmd *cobra.Command, host Host, given string) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	in, out := cmd.InOrStdin(), cmd.OutOrStdout()
	if isTerminal(in) || isTerminal(out) {
		return errors.New("--stdio: standard input and output are a terminal, and want to be an SSH client's: it is for ProxyCommand, as --ssh-config prints it")
	}
	key, _, err := host.SSHKey(keyName)
	if err != nil {
		return notRun(err)
	}
	id, err := resolveOne(ctx, cmd, host, strings.TrimSuffix(given, hostSuffix))
	if err == nil {
		err = ping(ctx, cmd, host, id)
	}
	if err != nil {
		return notRun(err)
	}
	server := sshd.Server{Key: key, Sandbox: id, Explain: saidOfTerminal, Open: func(ctx context.Context) (io.ReadWriteCloser, error) {
		return host.Join(ctx, Want{Terminal: true}, io.Discard) // warned before
	}}
	return Fail(exitNotRun, server.Serve(ctx, stream{in, out}))
}

// ping says why nobody can work in a sandbox, before an SSH client is told anything.
func ping(ctx context.Context, cmd *cobra.Command, host Host, id string) error {
	conn, err := host.Join(ctx, Want{Terminal: true}, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	t := terminal.NewClient(conn)
	if err := t.Start(terminal.Request{Sandbox: id, Service: &terminal.Service{}}); err != nil {
		return err
	}
	_, err = t.Run(strings.NewReader(""), io.Discard, io.Discard)
	if f, ok := errors.AsType[terminal.Failure](err); ok {
		return refused{f.Kind, saidOfTerminal(f)}
	}
	return err
}

// stream is standard input and output as one. What waits for input is not ended by
// closing it, but by our end.
type stream struct {
	io.Reader
	io.Writer
}

// Close is part of io.Closer.
func (stream) Close() error { return nil }
