package tools

import (
	"context"
	"errors"
	"io"
	"log/slog"

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
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // ends the translation of sizes
		cmd := guest.Cmd{Args: append(shell(m, sb), req.Command), Dir: absolute(sb, ""), User: req.User}
		if req.Command == "" {
			cmd.Args = []string{shell(m, sb)[0], "-l"}
		}
		streams := guest.Streams{Stdin: std.Stdin, Stdout: std.Stdout, Stderr: std.Stderr}
		if req.TTY != nil {
			streams.TTY = &guest.TTY{Term: req.TTY.Term, Cols: req.TTY.Cols, Rows: req.TTY.Rows, Resize: sizes(ctx, std.Resize)}
		}
		e, err := conn.Run(ctx, cmd, streams)
		exit.Code = e.Code
		if errors.Is(err, guest.ErrNoUser) {
			return noUser(req.User, user(m, sb))
		}
		if errors.Is(err, guest.ErrNoCommand) && req.TTY != nil {
			return sessions.Errorf(sessions.Unavailable, "this sandbox can't have a terminal: it lacks its shell or, where only the guest agent of QEMU reaches it, the program script; exec works without one")
		}
		return err
	})
	if err != nil {
		return exit, failureOf(s.present(ctx, "terminal", err))
	}
	return exit, nil
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
	if req.User != "" {
		kept["user"] = recordText(req.User)
	}
	return req.Sandbox, string(mustMarshal(kept))
}
