package remote

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// farTools are those of a server elsewhere: block runs until it is cancelled.
func farTools(started, ended chan struct{}) []tools.Tool {
	return []tools.Tool{
		{Name: "whoami", Scope: sessions.ScopeRead, Call: func(ctx context.Context, _ json.RawMessage) tools.Result {
			p, _ := sessions.PrincipalFrom(ctx)
			return tools.Result{Content: []tools.Content{{Text: p.Name}}}
		}},
		{Name: "block", Scope: sessions.ScopeRead, Call: func(ctx context.Context, _ json.RawMessage) tools.Result {
			started <- struct{}{}
			<-ctx.Done()
			ended <- struct{}{}
			return tools.Result{}
		}},
	}
}

// onlyToken knows one token.
type onlyToken string

func (o onlyToken) Authenticate(_ context.Context, token string) (sessions.Principal, error) {
	if token != string(o) {
		return sessions.Principal{}, mcpserver.ErrUnauthenticated
	}
	return sessions.Principal{Name: "token:far", Scopes: []sessions.Scope{sessions.ScopeWrite}}, nil
}

// serveFar serves over HTTP at addr until stop.
func serveFar(t *testing.T, addr string, h mcpserver.HTTP, all []tools.Tool) (url string, stop func()) {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	s := &mcpserver.Server{Tools: all, Version: "1", Log: slog.New(slog.DiscardHandler)}
	go func() { served <- s.ServeHTTPOn(ctx, ln, h) }()
	stop = func() {
		cancel()
		if err := within(t, "the end of the server", served); err != nil {
			t.Error(err)
		}
		served <- nil
	}
	t.Cleanup(stop)
	return "http://" + ln.Addr().String(), stop
}

// client is one of stdio whose bridge this is.
type client struct {
	*Bridge
	t    *testing.T
	in   *io.PipeWriter
	said <-chan string // lines; closed at the end
	done chan error
}

// within returns what comes, and fails if nothing does for so long that only
// what is broken lets it pass.
func within[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(time.Minute):
		t.Fatalf("waited in vain for %s", what)
		panic("not reached")
	}
}

// holds is a Token.
func holds(token string) func() (redact.String, error) {
	return EnvToken(func(name string) string { return map[string]string{TokenEnv: token + "\n"}[name] })
}

func join(t *testing.T, url, token string) *client {
	t.Helper()
	b, err := Server{URL: url, Token: holds(token)}.Open()
	if err != nil {
		t.Fatal(err)
	}
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	said := make(chan string, 100) // more than any test leaves unread, so that nothing waits for a reader
	go func() {
		defer close(said)
		for in := bufio.NewScanner(outR); in.Scan(); {
			said <- in.Text()
		}
	}()
	c := &client{b, t, inW, said, make(chan error, 1)}
	go func() { c.done <- b.Run(t.Context(), inR, outW); outW.Close() }()
	t.Cleanup(func() { inW.Close() })
	return c
}

func (c *client) say(line string) {
	c.t.Helper()
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) hear(text string) {
	c.t.Helper()
	if line := within(c.t, text, c.said); !strings.Contains(line, text) {
		c.t.Fatalf("heard %s; want %s", line, text)
	}
}

// end closes the client's side and returns what else was said.
func (c *client) end() (rest string, err error) {
	c.t.Helper()
	c.in.Close()
	err = within(c.t, "the end of the bridge", c.done)
	for line := range c.said {
		rest += line + "\n"
	}
	return rest, err
}

const (
	opening = `{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`
	ready   = `{"jsonrpc":"2.0","method":"notifications/initialized"}`
)

func farCall(id, tool string, modern bool) string {
	meta := ""
	if modern {
		meta = `,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	}
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":%q,"arguments":{}%s}}`, id, tool, meta)
}

func TestRemoteBothEras(t *testing.T) {
	url, _ := serveFar(t, "127.0.0.1:0", mcpserver.HTTP{Auth: onlyToken("s3cret")}, farTools(nil, nil))
	for name, address := range map[string]string{"no path": url, "path": url + "/mcp"} {
		c := join(t, address, "s3cret")
		t.Run(name, func(t *testing.T) {
			c.say(farCall("9007199254740993", "whoami", true))
			c.hear(`"id":9007199254740993,"result":{"_meta"`)
			c.say(opening)
			c.hear(`"protocolVersion":"2025-11-25"`)
			c.say(ready)
			c.say(farCall(`"a"`, "whoami", false))
			c.hear("token:far")
			c.say("{") // and it goes on
			c.hear("not valid JSON")
			c.say(`[{"jsonrpc":"2.0","id":9,"method":"ping"}]`)
			c.hear("batches are not supported")
			if rest, err := c.end(); rest != "" || err != nil {
				t.Errorf("at the end: %q, error %v", rest, err)
			}
		})
	}
}

// A cancelled call ends at the server, and nothing more is said of it.
func TestRemoteCancels(t *testing.T) {
	started, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	url, _ := serveFar(t, "127.0.0.1:0", mcpserver.HTTP{}, farTools(started, ended))
	for name, modern := range map[string]bool{"legacy": false, "modern": true} {
		t.Run(name, func(t *testing.T) {
			c := join(t, url, "")
			if !modern {
				c.say(opening)
				c.hear("serverInfo")
				c.say(ready)
			}
			c.say(farCall("1", "block", modern))
			within(t, "the call", started)
			c.say(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`)
			within(t, "the end of the call", ended)
			if rest, err := c.end(); rest != "" || err != nil {
				t.Errorf("at the end: %q, error %v", rest, err)
			}
		})
	}
}

// A server that was started anew has forgotten the session; the client does
// not notice.
func TestRemoteOutlivesTheServer(t *testing.T) {
	all := farTools(nil, nil)
	url, stop := serveFar(t, "127.0.0.1:0", mcpserver.HTTP{}, all)
	c := join(t, url, "")
	c.client.Transport.(*http.Transport).DisableKeepAlives = true // what the server has closed, and we have not seen, may have been asked
	c.say(opening)
	c.hear("serverInfo")
	c.say(ready)
	c.say(farCall("1", "whoami", false))
	c.hear("local:")
	stop()
	serveFar(t, strings.TrimPrefix(url, "http://"), mcpserver.HTTP{}, all)
	c.say(farCall("2", "whoami", false))
	c.hear("local:")
	if rest, err := c.end(); rest != "" || err != nil {
		t.Errorf("at the end: %q, error %v", rest, err)
	}
}

// A server that is ending has not begun what it refuses, so it is asked again;
// one that goes away in the middle may have done it, so it is not.
func TestRemoteRepeatsWhatIsSafe(t *testing.T) {
	var posts atomic.Int64
	far := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch posts.Add(1) {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"jsonrpc":"2.0","id":1,"result":{}}`)
		default:
			panic(http.ErrAbortHandler)
		}
	}))
	defer far.Close()
	c := join(t, far.URL, "")
	c.say(farCall("1", "x", true))
	c.hear(`"id":1,"result"`)
	c.say(farCall("2", "x", true))
	c.hear("not known")
	if n := posts.Load(); n != 3 {
		t.Errorf("asked %d times, want 3", n)
	}
}

func TestRemoteSaysWhatIsWrong(t *testing.T) {
	url, _ := serveFar(t, "127.0.0.1:0", mcpserver.HTTP{Auth: onlyToken("s3cret")}, nil)
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }))
	defer page.Close()
	redirect := httptest.NewServer(http.RedirectHandler(page.URL, http.StatusFound))
	defer redirect.Close()
	for name, tt := range map[string]struct{ url, want string }{
		"no-token":   {url, "AGENTLAB_TOKEN or the file of --token-file"},
		"wrong-path": {url + "/mpc", "is that the address of an MCP endpoint?"},
		"no-mcp":     {page.URL, "is that the address of an MCP endpoint?"},
		"elsewhere":  {redirect.URL, "redirects to " + page.URL},
	} {
		t.Run(name, func(t *testing.T) {
			c := join(t, tt.url, "")
			c.say(farCall("1", "x", true))
			c.hear(tt.want)
		})
	}
}

func TestServerIsNamedRightly(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "text"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		server Server
		token  string
		want   string
	}{
		"no-scheme":    {Server{URL: "lab.example.org"}, "", "--server: got"},
		"user":         {Server{URL: "https://me@lab.example.org"}, "", "--server: got"},
		"plain":        {Server{URL: "http://lab.example.org"}, "x", "want https://"},
		"ca-not-pem":   {Server{URL: "https://lab.example.org", CA: filepath.Join(dir, "text")}, "", "want certificates in PEM"},
		"ca-not-there": {Server{URL: "https://lab.example.org", CA: filepath.Join(dir, "none")}, "", "--ca"},
	} {
		t.Run(name, func(t *testing.T) {
			tt.server.Token = holds(tt.token)
			if _, err := tt.server.Open(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

// A client that was killed has no use for its session, of which there are only so many.
func TestKilledClientLeavesNoSession(t *testing.T) {
	ended := make(chan string, 1)
	far := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			ended <- r.Header.Get("Mcp-Session-Id")
			return
		}
		w.Header().Set("Mcp-Session-Id", "s1")
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"jsonrpc":"2.0","id":"i","result":{"protocolVersion":"2025-11-25"}}`)
	}))
	defer far.Close()
	b, err := Server{URL: far.URL, Token: holds("")}.Open()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	in, client := io.Pipe()
	said, out := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx, in, out) }()
	if _, err := io.WriteString(client, opening+"\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(said).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	cancel()
	client.Close()
	if err := within(t, "the end of the bridge", done); err != nil {
		t.Error(err)
	}
	if got := within(t, "the end of the session", ended); got != "s1" {
		t.Errorf("session %q has ended", got)
	}
}

func TestReadEvents(t *testing.T) {
	const stream = "event: message\ndata: {}\n\n: \n\nid: 7\ndata:a\r\ndata: b\r\n\r\n\n\ndata: cut off"
	var got []string
	if err := readEvents(strings.NewReader(stream), func(text []byte) { got = append(got, string(text)) }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"{}", "a\nb"}, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}
