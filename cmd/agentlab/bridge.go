package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/internal/hosttree"
	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/internal/remote"
	"github.com/agentlab-mcp/agentlab/mcpserver"
)

func newMCPCommand(locate func() (config.Paths, error)) *cobra.Command {
	var far remote.Server
	var tokenFile string
	var dirs []string
	cmd := &cobra.Command{
		Use:   "mcp",
		Short: "Serve MCP over standard input and output",
		Long: `Serve MCP over standard input and output: what an MCP client launches.

It joins them to the daemon of this user and starts one if none runs, so that
all clients share one daemon, and sandboxes outlive the client that made them.
When standard input ends, it waits for the answers still due and ends.

With --allow-host-dir the agent may copy files between that directory and its
sandboxes (upload_file, download_file), and nothing else of this machine.

With --server it joins them to a server elsewhere, over HTTPS, and takes the
token for it from the file of --token-file or from ` + remote.TokenEnv + `.
` + exitCodes,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// A desktop client passes an empty one when its user has named none.
			dirs = slices.DeleteFunc(dirs, func(dir string) bool { return dir == "" })
			allowed, err := hosttree.New(dirs)
			if err != nil {
				return fmt.Errorf("--allow-host-dir: %w", err)
			}
			if cmd.Flags().Changed("server") {
				if len(dirs) > 0 {
					return errors.New("--allow-host-dir: got it with --server; files of this machine go to a server elsewhere by upload_url and download_url")
				}
				far.Token = farToken(tokenFile)
				b, err := far.Open()
				if err != nil {
					return err
				}
				return fail(exitLost, b.Run(remote.WhileRead(cmd.Context(), os.Stdout), os.Stdin, os.Stdout))
			}
			return joinDaemon(cmd, locate, allowed)
		},
	}
	cmd.Flags().StringArrayVar(&dirs, "allow-host-dir", nil, "a directory whose files the agent may copy to and from sandboxes; may be repeated")
	addServer(cmd.Flags(), &far, &tokenFile)
	return cmd
}

// addServer adds the flags that name a server elsewhere.
func addServer(flags *pflag.FlagSet, far *remote.Server, tokenFile *string) {
	flags.StringVar(&far.URL, "server", "", "URL of a server to join instead of this user's daemon")
	flags.StringVar(tokenFile, "token-file", "", "file with nothing but the token for it")
	flags.StringVar(&far.CA, "ca", "", "file of PEM certificates, one of which must have signed the server's")
}

// farToken returns what reads the token for a server elsewhere: from the file, or
// if none is named from the environment.
func farToken(file string) func() (redact.String, error) {
	if file == "" {
		return remote.EnvToken(os.Getenv)
	}
	return func() (redact.String, error) {
		token, err := config.Secret(file)
		if err == nil && token == "" {
			err = errors.New(file + " is empty")
		}
		if err != nil {
			return "", fmt.Errorf("--token-file: %w", err)
		}
		return token, nil
	}
}

// joinDaemon joins standard input and output to the daemon of this user.
func joinDaemon(cmd *cobra.Command, locate func() (config.Paths, error), allowed hosttree.Dirs) error {
	conn, err := joinLocal(cmd.Context(), locate, true, mcpserver.Hello{HostDirs: allowed.Paths()}, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	return fail(exitLost, relay(remote.WhileRead(cmd.Context(), os.Stdout), conn, os.Stdin, os.Stdout))
}

// patience is how long a daemon may take to start, and to greet.
const patience = 10 * time.Second

// bridge joins one client to the daemon.
type bridge struct {
	dir   *os.File // paths.Runtime
	paths config.Paths
	warn  io.Writer

	onlyJoin bool   // start none
	starter  string // the command that alone starts one; empty is whoever needs one
}

// noDaemon is the error that none runs, where we are to start none.
func (b *bridge) noDaemon() error {
	if b.starter != "" {
		return fmt.Errorf("no daemon runs; start it: %s", b.starter)
	}
	return errors.New("no daemon runs; whoever needs one starts it, such as agentlab mcp or agentlab sandbox new, or agentlab serve does")
}

// connect returns a connection whose other end has greeted us. A daemon that
// is about to end may still take a connection but greets nobody any more: then
// another is started.
func (b *bridge) connect(ctx context.Context) (*net.UnixConn, error) {
	const tries = 3
	var err error
	for range tries {
		var conn *net.UnixConn
		conn, err = dial(ctx, b.dir, b.paths.Socket)
		if nobodyListens(err) && !b.onlyJoin && b.starter == "" {
			conn, err = b.start(ctx)
		}
		if nobodyListens(err) {
			return nil, b.noDaemon()
		}
		if err != nil {
			return nil, err
		}
		if err = b.greeting(conn); err == nil {
			return conn, nil
		}
		_ = conn.Close()
		if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			break
		}
	}
	return nil, fmt.Errorf("the daemon takes no client: %w", err)
}

// start starts a daemon, unless another bridge was faster.
func (b *bridge) start(ctx context.Context) (*net.UnixConn, error) {
	lock := flock.New(config.At(b.dir, b.paths.Socket+".start"), flock.SetFlag(os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW))
	if err := lock.Lock(); err != nil {
		return nil, fail(exitUnsafe, fmt.Errorf("lock the start of a daemon in %s: %w", b.dir.Name(), config.Cause(err)))
	}
	defer func() { _ = lock.Close() }()
	conn, err := dial(ctx, b.dir, b.paths.Socket)
	if !nobodyListens(err) {
		return conn, err
	}
	said, err := launch(b.paths.Config)
	if err != nil {
		return nil, fmt.Errorf("start the daemon: %w", err)
	}
	conn, err = dial(ctx, b.dir, b.paths.Socket)
	if nobodyListens(err) {
		return nil, fmt.Errorf("the daemon did not start: %s", strings.TrimPrefix(said, "agentlab: "))
	}
	return conn, err
}

// greeting takes the line that the daemon sends first, byte by byte so as to
// take no more, and warns if it is of another version than we are.
func (b *bridge) greeting(conn *net.UnixConn) error {
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	const most = 200
	var line []byte
	for char := make([]byte, 1); len(line) < most; line = append(line, char[0]) {
		if _, err := conn.Read(char); err != nil {
			return err
		}
		if char[0] == '\n' {
			break
		}
	}
	theirs, ok := strings.CutPrefix(string(line), "agentlab ")
	if !ok {
		return fmt.Errorf("it greets with %q, which is none of ours", line)
	}
	if theirs != version() {
		_, _ = fmt.Fprintf(b.warn, "agentlab: the running daemon is version %s and this is %s; kill the daemon to have this one, sandboxes go on\n", theirs, version())
	}
	return conn.SetReadDeadline(time.Time{})
}

// relay copies both ways until the daemon has answered all that in gave, or ctx
// ends, which cancels what is running. It fails if the daemon ends the connection
// before in has ended.
func relay(ctx context.Context, conn *net.UnixConn, in io.Reader, out io.Writer) error {
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, in)
		ended <- err // before the daemon can know
		_ = conn.CloseWrite()
	}()
	_, err := io.Copy(out, conn)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("the connection to the daemon broke: %w", err)
	}
	select {
	case err := <-ended:
		if err == nil {
			return nil
		}
	default:
	}
	return errors.New("the daemon went away; sandboxes go on, and the next start of agentlab mcp finds them")
}
