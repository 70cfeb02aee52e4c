package tools

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"strconv"
	"sync/atomic"

	"github.com/agentlab-mcp/agentlab/internal/terminal"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// Terminals run commands with their streams, for people and not for models.
type Terminals struct {
	Open Source
	Log  *slog.Logger
}

// TerminalStreams are those of a command. Without a terminal there is no Resize.
type TerminalStreams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan terminal.Size
	// Ending is called when the command is being ended, since its sandbox is. Whoever
	// has not read what it wrote may keep it waiting till then, and not for long any more.
	Ending func()
}

// Run runs what req says in a sandbox of the caller's until it ends, or ctx, which
// kills it. failed is why there is no exit, as the tools say it.
func (t *Terminals) Run(ctx context.Context, req terminal.Request, std TerminalStreams) (exit terminal.Exit, failed *terminal.Failure) {
	s := &service{log: t.Log}
	m, err := t.Open(ctx)
	if err != nil {
		return exit, failureOf(s.broken("terminal", err))
	}
	err = m.Use(ctx, req.Sandbox, bootWait(0), func(ctx context.Context, sb sessions.Sandbox, conn guest.Conn) error {
		defer context.AfterFunc(ctx, std.Ending)()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // ends the translation of sizes
		programs, err := terminalPrograms(shell(m, sb), absolute(sb, ""), req)
		if err != nil {
			return err
		}
		cmd := guest.Cmd{Dir: absolute(sb, ""), User: req.User}
		if cmd.Env, err = environment(req.Env); err != nil {
			return err
		}
		streams := guest.Streams{Stdin: std.Stdin, Stdout: std.Stdout, Stderr: std.Stderr}
		if req.TTY != nil {
			streams.TTY = &guest.TTY{Term: req.TTY.Term, Cols: req.TTY.Cols, Rows: req.TTY.Rows, Resize: sizes(ctx, std.Resize)}
		}
		exit.Code, err = runFirst(ctx, conn, cmd, programs, streams)
		if errors.Is(err, guest.ErrNoUser) {
			return noUser(req.User, user(m, sb))
		}
		return lacking(req, err)
	})
	if err != nil {
		return exit, failureOf(s.present(ctx, "terminal", err))
	}
	return exit, nil
}

// lacking says what a sandbox lacks for a request.
func lacking(req terminal.Request, err error) error {
	switch {
	case !errors.Is(err, guest.ErrNoCommand) || errors.Is(err, guest.ErrNoBecome):
		return err
	case req.TTY != nil:
		return sessions.Errorf(sessions.Unavailable, "this sandbox can't have a terminal: it lacks its shell or, where only the guest agent of QEMU reaches it, the program script; exec works without one")
	case req.Service != nil && req.Service.Port != 0:
		return sessions.Errorf(sessions.Unavailable, "ports of this sandbox need bash or agentlab-guest in it, and it has neither")
	}
	return err
}

// runFirst runs the first of some programs that the machine has. One that has read
// input is the last: there would be two readers, and the guest does not tell the truth.
func runFirst(ctx context.Context, conn guest.Conn, cmd guest.Cmd, programs [][]string, streams guest.Streams) (code int, missing error) {
	stdin := streams.Stdin
	for _, cmd.Args = range programs {
		in := &input{Reader: stdin}
		if stdin != nil {
			streams.Stdin = in
		}
		e, err := conn.Run(ctx, cmd, streams)
		if !errors.Is(err, guest.ErrNoCommand) || !in.state.CompareAndSwap(inputUnread, inputGone) {
			return e.Code, err
		}
		missing = err
	}
	return 0, missing
}

// input is standard input for one of several programs.
type input struct {
	io.Reader
	state atomic.Int32
}

// States of an input.
const (
	inputUnread = iota
	inputRead   // there is no other program
	inputGone   // there may be
)

// Read gives nothing once another program may be run.
func (in *input) Read(b []byte) (int, error) {
	if !in.state.CompareAndSwap(inputUnread, inputRead) && in.state.Load() == inputGone {
		return 0, io.EOF
	}
	return in.Reader.Read(b)
}

// Programs of an image for what agentlab-guest does where there is one: a port is
// $0, and what is said once it is open is as internal/terminal has it. It can't close
// one direction, so that a service may not see the end of input: $1 seconds after that
// the connection ends.
const (
	portPatience = "5"
	imagePort    = `exec 3<>"/dev/tcp/127.0.0.1/$0" || exec 3<>"/dev/tcp/::1/$0" || exit
echo
exec 4<&0
cat <&3 & out=$!
cat <&4 >&3 & in=$!
wait -n
if kill -0 $out 2>/dev/null; then
	sleep "$1" >/dev/null 2>&1 &
	wait -n
fi
kill $out $in $! 2>/dev/null
exit 0`
	imageSFTP = `for p in /usr/lib/openssh/sftp-server /usr/libexec/openssh/sftp-server /usr/lib/ssh/sftp-server /usr/libexec/sftp-server; do
	[ -x "$p" ] && exec "$p"
done
echo "this sandbox has no sftp-server, which copying files by SSH needs here; agentlab sandbox cp works without one" >&2
exit 127`
)

// terminalPrograms returns the programs that do what req says. The first that a
// machine has is to be run: only the last reads its input before it is known to be there.
func terminalPrograms(shell []string, home string, req terminal.Request) ([][]string, error) {
	s := req.Service
	switch {
	case s == nil && req.Command == "":
		return [][]string{{shell[0], "-l"}}, nil
	case s == nil:
		return [][]string{append(shell, req.Command)}, nil
	case req.Command != "" || req.TTY != nil || s.Files && s.Port != 0:
		return nil, invalid("service: want one alone, without a command or a terminal")
	case *s == terminal.Service{}:
		return nil, nil
	case s.Files:
		return [][]string{{guest.Program, "sftp", home}, {"sh", "-c", imageSFTP}}, nil
	case s.Port < 1 || s.Port > math.MaxUint16:
		return nil, invalid("port: got %d, want 1 to %d", s.Port, math.MaxUint16)
	}
	port := strconv.Itoa(s.Port)
	return [][]string{{guest.Program, "port", port}, {"bash", "-c", imagePort, port, portPatience}}, nil
}

// sizes passes on changes of size until ctx ends.
func sizes(ctx context.Context, from <-chan terminal.Size) <-chan guest.Size {
	to := make(chan guest.Size)
	go func() {
		for {
			select {
			case s := <-from:
				select {
				case to <- guest.Size(s):
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return to
}

func failureOf(res Result) *terminal.Failure {
	return &terminal.Failure{Kind: res.Outcome, Text: res.Content[0].Text}
}

// RecordTerminal is what is kept of a request: never what is typed.
func RecordTerminal(req terminal.Request) (sandbox, arguments string) {
	kept := map[string]any{"command": recordText(req.Command), "tty": req.TTY != nil}
	if req.Service != nil {
		kept = map[string]any{"service": req.Service}
	}
	if len(req.Env) > 0 {
		kept["env"] = recordSizes(req.Env)
	}
	if req.User != "" {
		kept["user"] = recordText(req.User)
	}
	return req.Sandbox, string(mustMarshal(kept))
}
