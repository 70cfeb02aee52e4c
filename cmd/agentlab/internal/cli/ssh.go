package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

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

Exit codes:
  ...  that of the command; 128 and the number of the signal that ended it
  2    the command line is wrong
  125  AgentLab could not run it, or does not know its end; stderr says why
`

func newSSHCommand(host Host) *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use:               "ssh [flags] ID|NAME [-- COMMAND [ARGUMENT]...]",
		Aliases:           []string{"shell"},
		Short:             "Open a terminal in a sandbox",
		Long:              sshHelp,
		ValidArgsFunction: completeSandboxes(host, 1),
		Args:              cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, given []string) error {
			words := given[1:]
			if len(words) > 0 && words[0] == "--" {
				words = words[1:]
			}
			req := terminal.Request{Sandbox: given[0], User: user}
			if len(words) > 0 {
				req.Command = quote(words)
			}
			return openTerminal(cmd, host, req)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // the flags after the id are the command's
	f.StringVarP(&user, "user", "u", "", "who runs it (default the sandbox's user)")
	return cmd
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
	s := &screen{in: cmd.InOrStdin(), out: cmd.OutOrStdout(), errs: cmd.ErrOrStderr(), to: terminal.NewWriter(conn), room: make(chan struct{}, 1), left: make(chan struct{})}
	restore, err := s.take(&req)
	if err != nil {
		return notRun(err)
	}
	defer restore() // also from a panic
	code, err := s.show(conn, req)
	select {
	case <-s.left:
		return Failure{exitSignal + int(syscall.SIGHUP), errors.New("disconnected; the command was ended")}
	default:
	}
	switch {
	case ctx.Err() != nil:
		return Failure{ExitInterrupted, errors.New("interrupted; the command was ended")}
	case err != nil:
		return notRun(err)
	case code != 0:
		return Failure{code, nil}
	}
	return nil
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

// screen joins the streams of this program to a command's.
type screen struct {
	in        io.Reader
	out, errs io.Writer
	to        *terminal.Writer
	room      chan struct{} // has a value when there is room for input
	tty       bool
	left      chan struct{} // closed by ~.
}

// take makes our terminal, if there is one, that of the command: it handles no key
// itself any more, until restore.
func (s *screen) take(req *terminal.Request) (restore func(), err error) {
	in, ok := s.in.(*os.File)
	if !ok || !isTerminal(s.in) || !isTerminal(s.out) {
		return func() {}, nil
	}
	cols, rows, err := term.GetSize(int(in.Fd()))
	if err != nil {
		return nil, fmt.Errorf("size of the terminal: %w", err)
	}
	req.TTY = &terminal.TTY{Term: cmp.Or(os.Getenv("TERM"), "xterm"), Size: terminal.Size{Cols: uint16(cols), Rows: uint16(rows)}}
	was, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, fmt.Errorf("take the terminal: %w", err)
	}
	s.tty = true
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	go func() {
		for range changed {
			if cols, rows, err := term.GetSize(int(in.Fd())); err == nil {
				_ = s.to.SendJSON(terminal.Resize, terminal.Size{Cols: uint16(cols), Rows: uint16(rows)}) // fails with the connection
			}
		}
	}()
	return func() {
		signal.Stop(changed)
		_ = term.Restore(int(in.Fd()), was)
	}, nil
}

// show starts the command and hands out what it writes until it has ended.
func (s *screen) show(conn io.ReadWriteCloser, req terminal.Request) (code int, err error) {
	if err := s.to.SendJSON(terminal.Start, req); err != nil {
		return 0, fmt.Errorf("the daemon went away: %w", err)
	}
	go s.feed(conn)
	for {
		kind, part, err := terminal.Read(conn)
		if err != nil {
			return 0, errors.New("the daemon went away, and with it the command")
		}
		switch kind {
		case terminal.More:
			select {
			case s.room <- struct{}{}:
			default:
			}
		case terminal.Output:
			_, err = s.out.Write(part)
		case terminal.ErrOut:
			_, err = s.errs.Write(part)
		case terminal.Exited:
			exit, err := terminal.Decode[terminal.Exit](part)
			return exit.Code, err
		case terminal.Failed:
			f, err := terminal.Decode[terminal.Failure](part)
			return 0, errors.Join(err, refused{f.Kind, strings.TrimPrefix(f.Text, "terminal: ")})
		default: // is for the daemon
		}
		if err != nil {
			return 0, err
		}
	}
}

// feed sends what is typed, as there is room for it, until its end.
func (s *screen) feed(conn io.Closer) {
	var esc escape
	part := make([]byte, terminal.MaxPart/2) // an escape may make it one longer
	for range s.room {
		var n int
		var err error
		for n == 0 && err == nil {
			n, err = s.in.Read(part)
		}
		keys, leave := part[:n], false
		if s.tty {
			keys, leave = esc.pass(keys)
		}
		if leave {
			close(s.left)
			_ = conn.Close()
			return
		}
		switch {
		case n == 0:
			_ = s.to.Send(terminal.EOF, nil) // fails with the connection
			return
		case len(keys) > 0:
			err = s.to.Send(terminal.Input, keys)
		default: // of an escape that is not complete
			s.room <- struct{}{}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return
		}
	}
}

// escape finds ~. at the beginning of a line.
type escape struct {
	within, tilde bool // a line; after its first ~
}

// pass returns what of the keys is the command's.
func (e *escape) pass(keys []byte) (pass []byte, leave bool) {
	pass = make([]byte, 0, len(keys)+1)
	for _, k := range keys {
		switch {
		case e.tilde && k == '.':
			return nil, true
		case e.tilde:
			e.tilde = false
			if pass = append(pass, '~'); k == '~' {
				e.within = true
				continue
			}
		case !e.within && k == '~':
			e.tilde = true
			continue
		}
		pass = append(pass, k)
		e.within = k != '\r' && k != '\n'
	}
	return pass, false
}
