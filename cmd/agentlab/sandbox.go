package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab/internal/cli"
	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/internal/remote"
	"github.com/agentlab-mcp/agentlab/mcpserver"
)

// newSandboxCommand returns the commands that use sandboxes.
func newSandboxCommand(locate func() (config.Paths, error)) *cobra.Command {
	host := &host{locate: locate}
	cmd := cli.NewSandboxCommand(cli.Host{Version: version(), Join: host.join, Self: host.self, SSHKey: host.sshKey})
	host.addFlags(cmd.PersistentFlags())
	return cmd
}

// newStatusCommand returns the command that says how the daemon does.
func newStatusCommand(locate func() (config.Paths, error)) *cobra.Command {
	host := &host{locate: locate}
	cmd := cli.NewStatusCommand(cli.Host{Version: version(), Join: host.join})
	host.addFlags(cmd.Flags())
	return cmd
}

// errNoFarTerminal is why ssh does not work with --server.
var errNoFarTerminal = fail(exitUsage, errors.New("--server: there are no terminals on a server elsewhere yet; agentlab sandbox --server URL exec runs commands there"))

// host joins commands to the daemon of this user or to a server elsewhere.
type host struct {
	locate    func() (config.Paths, error)
	far       remote.Server
	tokenFile string
}

func (h *host) addFlags(flags *pflag.FlagSet) { addServer(flags, &h.far, &h.tokenFile) }

// join implements [cli.Host.Join].
func (h *host) join(ctx context.Context, want cli.Want, warn io.Writer) (io.ReadWriteCloser, error) {
	if h.far.URL == "" {
		return joinLocal(ctx, h.locate, !want.NoStart, mcpserver.Hello{Admin: want.Admin, Terminal: want.Terminal, HostDirs: want.HostDirs}, warn)
	}
	if len(want.HostDirs) > 0 {
		return nil, fail(exitUsage, errors.New("--server: files of this machine are not copied to a server elsewhere; its tools upload_url and download_url do that"))
	}
	if want.Terminal {
		return nil, errNoFarTerminal
	}
	h.far.Token = farToken(h.tokenFile)
	b, err := h.far.Open()
	if err != nil {
		return nil, fail(exitUsage, err)
	}
	return joinFar(ctx, b), nil
}

// joinLocal connects to the daemon of this user, and says hello if there is more
// to say than that somebody is there.
func joinLocal(ctx context.Context, locate func() (config.Paths, error), start bool, hello mcpserver.Hello, warn io.Writer) (*net.UnixConn, error) {
	paths, err := locate()
	if err != nil {
		return nil, fail(exitFailed, err)
	}
	dir, err := config.OpenDir(paths.Runtime, config.RuntimeMode)
	if err != nil {
		return nil, fail(exitUnsafe, err)
	}
	defer func() { _ = dir.Close() }()
	b := bridge{dir: dir, paths: paths, warn: warn, onlyJoin: !start, starter: os.Getenv(starterEnv)}
	conn, err := b.connect(ctx)
	if err != nil {
		return nil, fail(exitLost, err)
	}
	if !hello.Admin && !hello.Terminal && len(hello.HostDirs) == 0 {
		return conn, nil
	}
	if _, err := io.WriteString(conn, hello.Line()); err != nil {
		return nil, errors.Join(fail(exitLost, err), conn.Close())
	}
	return conn, nil
}

// far is a connection through a bridge to a server elsewhere.
type far struct {
	io.Reader
	io.WriteCloser
}

// joinFar runs the bridge until it is closed.
func joinFar(ctx context.Context, b *remote.Bridge) io.ReadWriteCloser {
	in, toServer := io.Pipe()
	fromServer, out := io.Pipe()
	go func() { _ = out.CloseWithError(b.Run(ctx, in, out)) }()
	return far{fromServer, toServer}
}
