package mcpserver_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/server"

	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// fixture is a server with tools whose calls a test holds and lets go.
type fixture struct {
	*mcpserver.Server
	path    string
	log     *lockedBuffer
	started chan string        // a call of block has begun; its argument
	ended   chan string        // and was cancelled
	release chan struct{}      // closed: calls of block return
	stop    context.CancelFunc // ends the server
	served  chan error         // what it returned
}

// lockedBuffer takes the log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// start serves the fixture on a socket.
func start(t *testing.T, set ...func(*mcpserver.Server)) *fixture {
	t.Helper()
	f := newFixture(t, set...)
	ln, err := new(net.ListenConfig).Listen(t.Context(), "unix", f.path)
	if err != nil {
		t.Fatal(err)
	}
	f.serve(t, func(ctx context.Context) error { return f.ServeListener(ctx, ln) })
	return f
}

func newFixture(t *testing.T, set ...func(*mcpserver.Server)) *fixture {
	f := &fixture{
		path: filepath.Join(t.TempDir(), "s"), log: &lockedBuffer{}, served: make(chan error, 1),
		started: make(chan string, 300), ended: make(chan string, 300), release: make(chan struct{}),
	}
	f.Server = &mcpserver.Server{
		Version: "1.2.3", Instructions: "how to use it", Tools: f.tools(),
		Grace: time.Millisecond, // most tests leave something running
		Log:   slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, set := range set {
		set(f.Server)
	}
	return f
}

// serve runs serve until the test or stop ends it.
func (f *fixture) serve(t *testing.T, serve func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	go func() { f.served <- serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-f.served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

func (f *fixture) tools() []tools.Tool {
	text := func(s string) tools.Result { return tools.Result{Content: []tools.Content{{Text: s}}, Outcome: "ok"} }
	block := func(ctx context.Context, args json.RawMessage) tools.Result {
		f.started <- string(args)
		select {
		case <-f.release:
			return text("released")
		case <-ctx.Done():
			f.ended <- string(args)
			return text("cancelled: " + context.Cause(ctx).Error())
		}
	}
	return []tools.Tool{
		{Name: "block", Scope: sessions.ScopeWrite, Description: "blocks", Doing: "blocking", Call: block},
		{Name: "destroy", Scope: sessions.ScopeWrite, Description: "urgent", Urgent: true, Call: func(context.Context, json.RawMessage) tools.Result { return text("destroyed") }},
		{Name: "whoami", Scope: sessions.ScopeRead, Description: "principal", Call: func(ctx context.Context, _ json.RawMessage) tools.Result {
			p, _ := sessions.PrincipalFrom(ctx)
			res := text(p.Name)
			res.Meta = map[string]any{"scopes": p.Scopes}
			return res
		}},
		{Name: "panics", Scope: sessions.ScopeWrite, Description: "panics", Call: func(context.Context, json.RawMessage) tools.Result { panic("secret detail") }},
		{Name: "late", Scope: sessions.ScopeWrite, Description: "notifies after its end", Call: func(ctx context.Context, _ json.RawMessage) tools.Result {
			f.started <- ""
			<-ctx.Done()
			err := server.ServerFromContext(ctx).SendNotificationToClient(ctx, "notifications/progress", nil)
			f.ended <- fmt.Sprint(err)
			return text("late")
		}},
		{Name: "notifies", Scope: sessions.ScopeWrite, Description: "notifies at its end", Call: func(ctx context.Context, _ json.RawMessage) tools.Result {
			for i := range 3 {
				if err := server.ServerFromContext(ctx).SendNotificationToClient(ctx, "notifications/progress", map[string]any{"progress": i}); err != nil {
					return text(err.Error())
				}
			}
			return text("done")
		}},
		{Name: "big", Scope: sessions.ScopeWrite, Description: "4 MB", Call: func(context.Context, json.RawMessage) tools.Result { return text(strings.Repeat("x", 4<<20)) }},
	}
}

// raw is a client that writes and reads lines.
type raw struct {
	t *testing.T
	*net.UnixConn
	in *bufio.Reader
}

func (f *fixture) dial(t *testing.T) *raw {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "unix", f.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	r := &raw{t, c.(*net.UnixConn), bufio.NewReader(c)}
	if got := r.line(); got != "agentlab 1.2.3" {
		t.Fatalf("greeting %q", got)
	}
	return r
}

func (r *raw) send(lines ...string) {
	r.t.Helper()
	if _, err := io.WriteString(r, strings.Join(lines, "\n")+"\n"); err != nil {
		r.t.Fatal(err)
	}
}

func (r *raw) line() string {
	r.t.Helper()
	_ = r.SetReadDeadline(time.Now().Add(20 * time.Second)) // only a broken server lets it pass
	s, err := r.in.ReadString('\n')
	if err != nil {
		r.t.Fatalf("read line: %v (got %q)", err, s)
	}
	return strings.TrimSuffix(s, "\n")
}

// answer is a JSON-RPC message from the server.
type answer struct {
	ID     json.RawMessage
	Method string
	Params json.RawMessage
	Result json.RawMessage
	Error  *struct {
		Code    int
		Message string
	}
}

func (r *raw) answer() answer {
	r.t.Helper()
	var a answer
	line := r.line()
	if err := json.Unmarshal([]byte(line), &a); err != nil {
		r.t.Fatalf("answer %q: %v", line, err)
	}
	return a
}

// want reads an answer and checks its id and its text.
func (r *raw) want(id, text string) {
	r.t.Helper()
	a := r.answer()
	if got := string(a.Result); a.Error != nil {
		r.t.Fatalf("answer to %s: error %d %s", a.ID, a.Error.Code, a.Error.Message)
	} else if string(a.ID) != id || !strings.Contains(got, text) {
		r.t.Fatalf("answer to %s: %s; want %s: %s", a.ID, got, id, text)
	}
}

// wantError reads an answer and checks that it is this error.
func (r *raw) wantError(id string, code int, text string) {
	r.t.Helper()
	a := r.answer()
	if a.Error == nil || string(a.ID) != id || a.Error.Code != code || !strings.Contains(a.Error.Message, text) {
		r.t.Fatalf("answer %s, result %s, error %+v; want id %s, error %d %s", a.ID, a.Result, a.Error, id, code, text)
	}
}

func callLine(id, tool, args string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":%q,"arguments":%s}}`, id, tool, args)
}

func modernCall(id, tool, args string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":%q,"arguments":%s,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`, id, tool, args)
}

const ping = `{"jsonrpc":"2.0","id":"ping","method":"ping"}`

func (r *raw) ping() {
	r.t.Helper()
	r.send(ping)
	r.want(`"ping"`, "{}")
}
