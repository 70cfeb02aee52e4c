package mcpserver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/terminal"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// A terminal is for who may write, says what is wrong, and is recorded.
func TestTerminalIsGuarded(t *testing.T) {
	ask := func(send func(w *terminal.Writer)) *bytes.Buffer {
		var b bytes.Buffer
		send(terminal.NewWriter(&b))
		return &b
	}
	start := ask(func(w *terminal.Writer) {
		_ = w.SendJSON(terminal.Start, terminal.Request{Sandbox: "sb-x", Command: "true"})
	}).Bytes()
	for _, tt := range []struct {
		scope  sessions.Scope
		sent   []byte
		kind   string
		text   string
		events string // their outcomes
	}{
		{sessions.ScopeRead, start, "refused", "terminal needs the scope sandbox:write", " refused"},
		{sessions.ScopeWrite, start, "unavailable", "not usable until its operator mends it", " begun unavailable"},
		{sessions.ScopeWrite, ask(func(w *terminal.Writer) { _ = w.Send(terminal.Input, nil) }).Bytes(), "invalid", "want 1 or 10 first", ""},
		{sessions.ScopeWrite, ask(func(w *terminal.Writer) { _ = w.SendJSON(terminal.Serve, terminal.Request{Sandbox: "sb-x"}) }).Bytes(), "invalid", "of the other", ""},
		{sessions.ScopeWrite, ask(func(w *terminal.Writer) { _ = w.Send(terminal.Start, []byte("x")) }).Bytes(), "invalid", "malformed", ""},
		{sessions.ScopeWrite, []byte("GET / HTTP/1.1\r\n\r\n"), "invalid", "malformed", ""},
	} {
		events := ""
		var out listener
		log := slog.New(slog.DiscardHandler)
		s := &Server{Log: log, Terminals: &tools.Terminals{Log: log, Open: func(context.Context) (*sessions.Manager, error) { return nil, io.ErrUnexpectedEOF }}}
		s.Record = func(_ context.Context, e sessions.Event) error {
			if e.Tool != "terminal" || e.Sandbox != "sb-x" || out.Len() > 0 {
				t.Errorf("event %+v, when %d bytes were answered", e, out.Len())
			}
			events += " " + e.Detail
			return nil
		}
		ctx := sessions.WithPrincipal(t.Context(), sessions.Principal{Name: "p", Scopes: []sessions.Scope{tt.scope}})
		s.terminal(ctx, bytes.NewReader(tt.sent), &out)
		kind, part, err := terminal.Read(&out)
		if kind != terminal.Failed || err != nil {
			t.Fatalf("kind %d, %v", kind, err)
		}
		f, err := terminal.Decode[terminal.Failure](part)
		if err != nil || f.Kind != tt.kind || !strings.Contains(f.Text, tt.text) {
			t.Errorf("got %+v, %v; want %s, %s", f, err, tt.kind, tt.text)
		}
		if events != tt.events {
			t.Errorf("%s: events %q", tt.text, events)
		}
	}
}

// listener is who a terminal is for, and listens.
type listener struct{ bytes.Buffer }

func (*listener) SetWriteDeadline(time.Time) error { return nil }

// eager are terminals whose command writes until nobody takes it any more, and whose
// sandbox ends meanwhile.
type eager struct{ err error }

func (b *eager) Run(_ context.Context, _ terminal.Request, std tools.TerminalStreams) (terminal.Exit, *terminal.Failure) {
	std.Ending()
	_, b.err = io.WriteString(std.Stdout, "y")
	return terminal.Exit{}, &terminal.Failure{Text: "it has ended"}
}

// Who does not read what a command wrote keeps nothing when its sandbox ends.
func TestTerminalOfWhoDoesNotRead(t *testing.T) {
	b := &eager{}
	s := &Server{Log: slog.New(slog.DiscardHandler), Terminals: b, WriteTimeout: time.Millisecond}
	ours, theirs := net.Pipe()
	defer theirs.Close()
	var start bytes.Buffer
	if err := terminal.NewWriter(&start).SendJSON(terminal.Start, terminal.Request{}); err != nil {
		t.Fatal(err)
	}
	ctx := sessions.WithPrincipal(t.Context(), sessions.Principal{Name: "p", Scopes: []sessions.Scope{sessions.ScopeWrite}})
	s.terminal(ctx, io.MultiReader(&start, ours), ours)
	if !errors.Is(b.err, os.ErrDeadlineExceeded) {
		t.Errorf("the command's output: %v", b.err)
	}
}

// late are terminals whose command says something when it is let go.
type late struct{ begun, release chan struct{} }

func (b late) Run(_ context.Context, _ terminal.Request, std tools.TerminalStreams) (terminal.Exit, *terminal.Failure) {
	close(b.begun)
	<-b.release
	_, err := io.WriteString(std.Stdout, "late")
	if err != nil {
		return terminal.Exit{}, &terminal.Failure{Text: err.Error()}
	}
	return terminal.Exit{Code: 3}, nil
}

// A command may run for longer than a client has to read one message.
func TestTerminalOutlivesTheWriteTimeout(t *testing.T) {
	b := late{make(chan struct{}), make(chan struct{})}
	s := &Server{Log: slog.New(slog.DiscardHandler), Terminals: b, WriteTimeout: time.Minute}
	ours, theirs := net.Pipe()
	defer theirs.Close()
	passed := time.Now() // as the greeting's deadline has when the command is done
	if err := ours.SetWriteDeadline(passed); err != nil {
		t.Fatal(err)
	}
	var start bytes.Buffer
	if err := terminal.NewWriter(&start).SendJSON(terminal.Start, terminal.Request{}); err != nil {
		t.Fatal(err)
	}
	ctx := sessions.WithPrincipal(t.Context(), sessions.Principal{Name: "p", Scopes: []sessions.Scope{sessions.ScopeWrite}})
	go s.terminal(ctx, io.MultiReader(&start, ours), ours)
	<-b.begun
	close(b.release)
	for _, want := range []terminal.Kind{terminal.Output, terminal.Exited} {
		if kind, part, err := terminal.Read(theirs); err != nil || kind != want {
			t.Fatalf("kind %d, %q, %v; want kind %d", kind, part, err, want)
		}
	}
}

// Who reads twice at once gets each byte once.
func TestKeyboardIsReadTwice(t *testing.T) {
	const parts = 200
	k := &keyboard{ctx: t.Context(), out: terminal.NewWriter(io.Discard), parts: make(chan []byte, parts)}
	for range parts {
		k.parts <- []byte("abcdefg")
	}
	close(k.parts)
	var wg sync.WaitGroup
	var total atomic.Int64
	for range 2 {
		wg.Go(func() {
			n, err := io.Copy(io.Discard, struct{ io.Reader }{k})
			total.Add(n)
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if total.Load() != 7*parts {
		t.Errorf("%d bytes were read, %d sent", total.Load(), 7*parts)
	}
}
