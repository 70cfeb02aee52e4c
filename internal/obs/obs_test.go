package obs_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentlab-mcp/agentlab/internal/obs"
	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
	"github.com/agentlab-mcp/agentlab/tools"
)

// patience of the tests with what must happen by itself.
const patience = time.Minute

// fixture is a daemon's server over HTTP and its store, and who watches them.
type fixture struct {
	*obs.Watch
	t   *testing.T
	db  *store.DB
	mcp string // URL of the server
	url string // of what is watched

	stuck []sessions.Stuck
	load  []sessions.Load
}

// start serves; open, if not nil, is asked for the store in place of what
// returns the fixture's.
func start(t *testing.T, open func(context.Context) (sessions.Store, error)) *fixture {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "agentlab.db"), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if open == nil {
		open = func(context.Context) (sessions.Store, error) { return db, nil }
	}
	result := func(res tools.Result) func(context.Context, json.RawMessage) tools.Result {
		return func(context.Context, json.RawMessage) tools.Result { return res }
	}
	server := &mcpserver.Server{Version: "1.2.3", Log: log, Tools: []tools.Tool{
		{Name: "works", Scope: sessions.ScopeRead, Call: result(tools.Result{Outcome: "ok", Sandbox: "sb-private"})},
		{Name: "fails", Scope: sessions.ScopeRead, Call: result(tools.Result{Outcome: "invalid", IsError: true})},
		{Name: "panics", Scope: sessions.ScopeRead, Call: func(context.Context, json.RawMessage) tools.Result { panic("private") }},
	}}
	f := &fixture{t: t, db: db}
	f.Watch = obs.New(obs.Daemon{Version: "1.2.3", Clients: server, Store: open, Stuck: func() []sessions.Stuck { return f.stuck },
		Load: func() []sessions.Load { return f.load }, State: t.TempDir(), Log: log})
	server.Watch = f.Watch
	f.mcp = serve(t, func(ctx context.Context, ln net.Listener) error { return server.ServeHTTPOn(ctx, ln, mcpserver.HTTP{}) }) + "/sse"
	f.url = serve(t, f.Serve)
	return f
}

// serve serves on a listener until the test ends, and returns its URL.
func serve(t *testing.T, on func(context.Context, net.Listener) error) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- on(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		if c, err := net.Dial("tcp", ln.Addr().String()); err == nil {
			c.Close()
			t.Error("somebody still listens after the end")
		}
	})
	return "http://" + ln.Addr().String()
}

// get returns status and body.
func (f *fixture) get(path string) (int, string) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, f.url+path, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.do(req)
}

func (f *fixture) do(req *http.Request) (int, string) {
	f.t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// metrics returns a scrape.
func (f *fixture) metrics() string {
	f.t.Helper()
	status, body := f.get("/metrics")
	if status != http.StatusOK {
		f.t.Fatalf("/metrics: %d %s", status, body)
	}
	return body
}

// has checks that the metrics have all these lines.
func (f *fixture) has(lines ...string) {
	f.t.Helper()
	body := f.metrics()
	for _, line := range lines {
		if !strings.Contains("\n"+body, "\n"+line+"\n") {
			f.t.Errorf("no line %s in\n%s", line, grep(body, "agentlab_"))
		}
	}
}

func grep(text, word string) string {
	var some strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			some.WriteString(line)
		}
	}
	return some.String()
}

// connect is a client of another's making. It holds a connection.
func (f *fixture) connect() *mcp.ClientSession {
	f.t.Helper()
	client := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	session, err := client.Connect(f.t.Context(), &mcp.SSEClientTransport{Endpoint: f.mcp}, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return session
}

func (f *fixture) add(id, backend string) {
	f.t.Helper()
	f.addUntil(id, backend, time.Now().Add(time.Hour))
}

func (f *fixture) addUntil(id, backend string, end time.Time) {
	f.t.Helper()
	f.record(sessions.Sandbox{ID: id, Owner: "token:private", Profile: "p", Backend: backend, End: end})
}

// pooled adds a member of the pool of a profile.
func (f *fixture) pooled(id, profile string) {
	f.t.Helper()
	f.record(sessions.Sandbox{ID: id, Owner: sessions.PoolOwner(profile), Profile: profile, Backend: "local", End: time.Now().Add(time.Hour)})
}

func (f *fixture) record(sb sessions.Sandbox) {
	f.t.Helper()
	sb.State, sb.Created, sb.MaxEnd, sb.Network = sessions.Requested, sb.End.Add(-time.Hour), sb.End, "none"
	if _, _, err := f.db.Add(f.t.Context(), sb, sessions.Quota{}, sessions.Change{At: sb.Created}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) move(id string, states ...sessions.State) {
	f.t.Helper()
	for _, s := range states {
		if _, err := f.db.Move(f.t.Context(), id, s, sessions.Change{At: time.Now()}); err != nil {
			f.t.Fatal(err)
		}
	}
}
