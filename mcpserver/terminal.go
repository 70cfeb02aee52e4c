package mcpserver

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/terminal"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// terminalName is what a terminal is called where tools have their names.
const terminalName = "terminal"

// terminalNeed is what who asks for a terminal must have.
const terminalNeed = sessions.ScopeWrite

// Terminals run commands with their streams; see [tools.Terminals].
type Terminals interface {
	Run(ctx context.Context, req terminal.Request, std tools.TerminalStreams) (terminal.Exit, *terminal.Failure)
}

// reader is who a terminal is for, at the other end of a connection.
type reader interface {
	io.Writer
	SetWriteDeadline(t time.Time) error
}

// terminal serves a connection whose [Hello] has asked for one: a command with its
// streams, which ends with the connection. Who reads it may take any time for that.
func (s *Server) terminal(ctx context.Context, src io.Reader, nc reader) {
	start := time.Now()
	_ = nc.SetWriteDeadline(time.Time{}) // that of the greeting holds for all that follows
	ctx, leave := s.enter(ctx)
	defer leave()
	out := terminal.NewWriter(nc)
	req, err := readRequest(src)
	if err != nil {
		_ = out.SendJSON(terminal.Failed, terminal.Failure{Kind: sessions.Invalid.String(), Text: err.Error()}) // who sends that may not listen
		return
	}
	what := work{kind: "tool", name: terminalName, record: func() (string, string) { return tools.RecordTerminal(req) }}
	who, _ := sessions.PrincipalFrom(ctx)
	exit, failed := terminal.Exit{}, s.refusal(ctx)
	if failed == nil {
		s.happened(ctx, what, start, "", "begun") // its end may be hours away, and never come
		exit, failed = s.runTerminal(ctx, req, src, out, func() {
			_ = nc.SetWriteDeadline(time.Now().Add(s.writeTimeout())) // fails when closed, as Write then does
		})
	}
	outcome := "ok"
	if failed != nil {
		outcome = failed.Kind
	}
	s.happened(ctx, what, start, "", outcome)
	_ = nc.SetWriteDeadline(time.Now().Add(s.writeTimeout()))
	if failed != nil {
		err = out.SendJSON(terminal.Failed, failed)
	} else {
		err = out.SendJSON(terminal.Exited, exit)
	}
	s.Log.Info("terminal", "principal", who.Name, "sandbox", short(req.Sandbox), "outcome", outcome, "ms", time.Since(start).Milliseconds(), "err", err)
}

func readRequest(src io.Reader) (req terminal.Request, err error) {
	kind, part, err := terminal.Read(src)
	if err == nil && kind != terminal.Start && kind != terminal.Serve {
		err = fmt.Errorf("kind %d, want %d or %d first", kind, terminal.Start, terminal.Serve)
	}
	if err == nil {
		req, err = terminal.Decode[terminal.Request](part)
	}
	if err == nil && (kind == terminal.Serve) != (req.Service != nil) {
		err = fmt.Errorf("kind %d, and its request is of the other", kind)
	}
	if err != nil {
		return req, fmt.Errorf("terminal: %w", err)
	}
	return req, nil
}

// refusal says why who asks gets no terminal; nil is that they do.
func (s *Server) refusal(ctx context.Context) *terminal.Failure {
	if err := s.allow(ctx, terminalName, terminalNeed); err != nil {
		return &terminal.Failure{Kind: tools.OutcomeRefused, Text: err.Error()}
	}
	if s.Terminals == nil {
		return &terminal.Failure{Kind: sessions.Unavailable.String(), Text: "this server has no terminals"}
	}
	return nil
}

// runTerminal runs the command.
func (s *Server) runTerminal(ctx context.Context, req terminal.Request, src io.Reader, out *terminal.Writer, ending func()) (exit terminal.Exit, failed *terminal.Failure) {
	defer func() {
		if r := recover(); r != nil {
			failed = &terminal.Failure{Kind: sessions.Internal.String(), Text: "internal error (ref " + s.panicked(ctx, r) + ")"}
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	keys := &keyboard{ctx: ctx, out: out, parts: make(chan []byte, 1), resize: make(chan terminal.Size, 1)}
	go func() {
		defer cancel() // nobody is there, or keeps to the protocol
		keys.follow(src)
	}()
	exit, failed = s.Terminals.Run(ctx, req, tools.TerminalStreams{
		Stdin: keys, Stdout: out.Stream(terminal.Output), Stderr: out.Stream(terminal.ErrOut), Resize: keys.resize, Ending: ending,
	})
	return exit, failed
}

// keyboard is what the other side of a terminal sends.
type keyboard struct {
	ctx    context.Context
	out    *terminal.Writer
	parts  chan []byte // of input, closed at its end
	resize chan terminal.Size

	mu   sync.Mutex // of Read: a guest that lies may have us read twice at once
	rest []byte     // of a part
}

// follow reads what is sent until nothing comes any more.
func (k *keyboard) follow(src io.Reader) {
	parts := k.parts
	for {
		kind, part, err := terminal.Read(src)
		if err != nil {
			return
		}
		switch kind {
		case terminal.Input:
			select {
			case parts <- part:
			default:
				return // it was not asked for, or is after the end
			}
		case terminal.EOF:
			if parts == nil {
				return
			}
			close(parts)
			parts = nil
		case terminal.Resize:
			size, err := terminal.Decode[terminal.Size](part)
			if err != nil {
				return
			}
			select {
			case <-k.resize: // which nobody has seen
			default:
			}
			k.resize <- size
		default:
			return
		}
	}
}

// Read asks for input when there is none.
func (k *keyboard) Read(b []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.rest) == 0 {
		if err := k.out.Send(terminal.More, nil); err != nil {
			return 0, err
		}
		select {
		case part, ok := <-k.parts:
			if !ok {
				return 0, io.EOF
			}
			k.rest = part
		case <-k.ctx.Done():
			return 0, k.ctx.Err()
		}
	}
	n := copy(b, k.rest)
	k.rest = k.rest[n:]
	return n, nil
}
