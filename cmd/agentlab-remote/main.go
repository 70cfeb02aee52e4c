// Command agentlab-remote joins an MCP client that only speaks stdio to an
// AgentLab server elsewhere. It does what "agentlab mcp --server" does, and runs
// where the rest of AgentLab does not: on macOS and Windows.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/agentlab-mcp/agentlab/internal/remote"
)

const usage = `usage: agentlab-remote --server URL [--ca FILE]

Joins an MCP client on standard input and output to an AgentLab server, over
HTTPS. The token for it is in ` + remote.TokenEnv + `.

`

// Exit codes, those of agentlab mcp.
const (
	exitUsage = 2
	exitLost  = 5
)

func main() {
	ctx := remote.WhileRead(context.Background(), os.Stdout)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv))
}

// run is the program. It returns the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, log io.Writer, env func(string) string) int {
	s := remote.Server{Token: remote.EnvToken(env)}
	flags := flag.NewFlagSet("agentlab-remote", flag.ContinueOnError)
	flags.SetOutput(log)
	flags.Usage = func() { _, _ = io.WriteString(log, usage); flags.PrintDefaults() }
	flags.StringVar(&s.URL, "server", "", "`URL` of the server")
	flags.StringVar(&s.CA, "ca", "", "`FILE` of PEM certificates, one of which must have signed the server's")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return exitUsage // it is told already
	case flags.NArg() > 0:
		_, _ = fmt.Fprintf(log, "agentlab-remote: unexpected argument %q\n", flags.Arg(0))
		return exitUsage
	}
	b, err := s.Open()
	if err != nil {
		_, _ = fmt.Fprintf(log, "agentlab-remote: %v\n", err)
		return exitUsage
	}
	if err := b.Run(ctx, in, out); err != nil {
		_, _ = fmt.Fprintf(log, "agentlab-remote: %v\n", err)
		return exitLost
	}
	return 0
}
