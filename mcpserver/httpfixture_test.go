package mcpserver_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// tokens are an Authenticator for whom each token is the name of its principal.
type tokens []string

func (ts tokens) Authenticate(_ context.Context, token string) (sessions.Principal, error) {
	if token == "down" {
		return sessions.Principal{}, errors.New("the database is gone")
	}
	if !slices.Contains(ts, token) {
		return sessions.Principal{}, fmt.Errorf("no such token: %w", mcpserver.ErrUnauthenticated)
	}
	return sessions.Principal{Name: "token:" + token, Scopes: []sessions.Scope{sessions.ScopeWrite}}, nil
}

// httpFixture is the fixture served over HTTP.
type httpFixture struct {
	*fixture
	t   *testing.T
	url string
}

func startHTTP(t *testing.T, h mcpserver.HTTP, set ...func(*mcpserver.Server)) *httpFixture {
	t.Helper()
	f := newFixture(t, set...)
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.serve(t, func(ctx context.Context) error { return f.ServeHTTPOn(ctx, ln, h) })
	return &httpFixture{f, t, "http://" + ln.Addr().String()}
}

// peer is a client that makes requests with headers of its own.
type peer struct {
	*httpFixture
	header http.Header
	client http.Client
}

// peer returns a client with connections of its own.
func (f *httpFixture) peer(header ...string) *peer {
	p := &peer{httpFixture: f, header: http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}}
	p.set(header...)
	p.client.Transport = &http.Transport{}
	f.t.Cleanup(p.client.CloseIdleConnections)
	return p
}

func (p *peer) set(header ...string) {
	for i := 0; i < len(header); i += 2 {
		p.header.Set(header[i], header[i+1])
	}
}

// as returns a client with that token.
func (f *httpFixture) as(token string) *peer { return f.peer("Authorization", "Bearer "+token) }

// initialize opens a session.
func (p *peer) initialize(version string) *peer {
	p.t.Helper()
	res := p.post(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"` + version + `","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`)
	res.want(http.StatusOK, `"protocolVersion":"`+version+`"`)
	p.set("Mcp-Session-Id", res.Header.Get("Mcp-Session-Id"), "Mcp-Protocol-Version", version)
	p.post(`{"jsonrpc":"2.0","method":"notifications/initialized"}`).want(http.StatusAccepted, "")
	return p
}

// modern makes the client one of 2026-07-28 that calls a tool.
func (p *peer) modern(method, name string) *peer {
	p.set("Mcp-Protocol-Version", "2026-07-28", "Mcp-Method", method, "Mcp-Name", name)
	return p
}

// response is one to a client.
type response struct {
	t *testing.T
	*http.Response
	in *bufio.Reader
}

func (p *peer) post(body string) *response {
	p.t.Helper()
	return p.do(http.MethodPost, "/mcp", strings.NewReader(body))
}

func (p *peer) do(method, path string, body io.Reader) *response {
	p.t.Helper()
	res, err := p.try(p.t.Context(), method, path, body)
	if err != nil {
		p.t.Fatal(err)
	}
	return res
}

// try is do for who wants the error.
func (p *peer) try(ctx context.Context, method, path string, body io.Reader) (*response, error) {
	req, err := http.NewRequestWithContext(ctx, method, p.url+path, body)
	if err != nil {
		return nil, err
	}
	req.Header = p.header
	if host := p.header.Get("Host"); host != "" {
		req.Host = host
	}
	res, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	p.t.Cleanup(func() { res.Body.Close() })
	return &response{p.t, res, bufio.NewReader(res.Body)}, nil
}

// background makes a request whose response comes later, if ever.
func (p *peer) background(body string) (got <-chan *response, cancel func()) {
	ctx, cancel := context.WithCancel(p.t.Context())
	ch := make(chan *response, 1)
	go func() {
		res, err := p.try(ctx, http.MethodPost, "/mcp", strings.NewReader(body))
		if err != nil {
			res = nil
		}
		ch <- res
	}()
	return ch, cancel
}

// want reads all of the response and checks it.
func (r *response) want(status int, text string) string {
	r.t.Helper()
	body, err := io.ReadAll(r.in)
	if err != nil {
		r.t.Fatalf("read response: %v", err)
	}
	if r.StatusCode != status || !strings.Contains(string(body), text) {
		r.t.Fatalf("response %d %s; want %d %s", r.StatusCode, body, status, text)
	}
	return string(body)
}

// event reads the next event of a stream.
func (r *response) event() (name, data string) {
	r.t.Helper()
	for {
		line, err := r.in.ReadString('\n')
		if err != nil {
			r.t.Fatalf("read event: %v", err)
		}
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "" && name != "":
			return name, data
		case strings.HasPrefix(line, "event: "):
			name = line[len("event: "):]
		case strings.HasPrefix(line, "data: "):
			data = line[len("data: "):]
		}
	}
}

// wantEvent reads a message and checks it.
func (r *response) wantEvent(text string) string {
	r.t.Helper()
	name, data := r.event()
	if name != "message" || !strings.Contains(data, text) {
		r.t.Fatalf("event %s %s; want a message with %s", name, data, text)
	}
	return data
}

// openSSE connects as clients of 2024 do. The response is what it hears.
func (p *peer) openSSE() (heard *response, say func(body string) *response) {
	p.t.Helper()
	heard = p.do(http.MethodGet, "/sse", nil)
	name, path := heard.event()
	if name != "endpoint" {
		p.t.Fatalf("first event %s %s", name, path)
	}
	return heard, func(body string) *response {
		p.t.Helper()
		return p.do(http.MethodPost, path, strings.NewReader(body))
	}
}

// soon is for what only a broken server lets pass.
const soon = 20 * time.Second

func wantErrorText(t *testing.T, body string, code int) {
	t.Helper()
	var a answer
	if err := json.Unmarshal([]byte(body), &a); err != nil || a.Error == nil || a.Error.Code != code {
		t.Errorf("body %s: want JSON-RPC error %d", body, code)
	}
}
