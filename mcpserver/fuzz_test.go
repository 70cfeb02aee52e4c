package mcpserver

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// Seeds of the fuzz tests: each kind of message that clients send.
const (
	seedInitialize = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`
	seedCall       = `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"notifies","arguments":{"x":"y"},"_meta":{"progressToken":"t"}}}`
	seedModern     = `{"jsonrpc":"2.0","id":"3","method":"tools/call","params":{"name":"notifies","arguments":{},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`
	seedListen     = `{"jsonrpc":"2.0","id":4,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`
	seedCancel     = `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}`
	seedReady      = `{"jsonrpc":"2.0","method":"notifications/initialized"}`
	seedAnswer     = `{"jsonrpc":"2.0","id":1,"result":{"action":"accept"}}`
)

func seeds() []string {
	other := func(method, params string) string {
		return `{"jsonrpc":"2.0","id":5,"method":"` + method + `","params":` + params + `}`
	}
	return []string{
		seedInitialize, seedCall, seedModern, seedListen, seedCancel, seedReady, seedAnswer,
		strings.Replace(seedCall, "notifies", "panics", 1),
		other("ping", "null"), other("tools/list", `{"cursor":"x"}`), other("server/discover", "{}"), other("nope", "[]"),
		other("logging/setLevel", `{"level":"debug"}`), other("resources/read", `{"uri":"sandbox://x"}`),
		other("prompts/get", `{"name":"x"}`), other("completion/complete", `{"ref":{"type":"ref/prompt"}}`), other("tasks/get", "{}"),
		other("logging/setLevel", `{"level":5}`), other("initialize", `{"clientInfo":[]}`), other("tools/list", `{"cursor":5}`), other("tools/call", `{"name":"notifies","_meta":[]}`),
		other("tools/call", `{"name":"notifies","_meta":{"progressToken":{}}}`), other("tools/call", `{"name":"notifies","arguments":5}`),
	}
}

// secret is what no answer may have in it: a detail of ours, another's session.
const secret = "s3cr3t"

// fuzzServer is one whose tools do what tools do.
func fuzzServer(log io.Writer) *Server {
	s := &Server{Version: "1", Log: slog.New(slog.NewTextHandler(log, nil)), Tools: []tools.Tool{
		{Name: "panics", Call: func(context.Context, json.RawMessage) tools.Result { panic(secret) }},
	}}
	s.Tools = append(s.Tools, tools.Tool{Name: "notifies", Call: func(ctx context.Context, args json.RawMessage) tools.Result {
		_ = s.mcp.SendNotificationToClient(ctx, "notifications/progress", map[string]any{"progress": 1})
		return tools.Result{Content: []tools.Content{{Text: string(args)}}, Outcome: "ok"}
	}})
	s.once.Do(s.build)
	return s
}

// wantMessage checks what is sent to a client.
func wantMessage(t *testing.T, text []byte) {
	t.Helper()
	var msg struct {
		JSONRPC string `json:"jsonrpc"`
	}
	if err := json.Unmarshal(text, &msg); err != nil || msg.JSONRPC != mcp.JSONRPC_VERSION || !utf8.Valid(text) {
		t.Fatalf("sent %q: %v", text, err)
	}
	wantNothingInternal(t, text)
}

func wantNothingInternal(t *testing.T, text []byte) {
	t.Helper()
	for _, internal := range []string{secret, "goroutine ", "runtime error", "mcpserver.", "mcp.", "Go struct", "Go value", ".go:"} {
		if bytes.Contains(text, []byte(internal)) {
			t.Fatalf("sent %q, in which there is %q", text, internal)
		}
	}
}

// FuzzSocket: whatever a client sends, each message gets at most one answer,
// which is one of JSON-RPC, and nothing is left of it.
func FuzzSocket(f *testing.F) {
	f.Add([]byte(strings.Join(seeds(), "\n")))
	for _, s := range seeds() {
		f.Add([]byte(s + "\n" + s))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		if bytes.Contains(sent, []byte("mcpserver.")) || bytes.Contains(sent, []byte(secret)) {
			return // it comes back
		}
		var log, got bytes.Buffer
		s := fuzzServer(&log)
		c := s.connect(withLocalPrincipal(t.Context(), 1), nil)
		answers := 0
		c.out = &outlet{broke: func(error) {}, put: func(line []byte, _ *response) error {
			_, err := got.Write(line)
			return err
		}}
		if err := c.readLines(bytes.NewReader(sent), &listener{}); err != nil {
			t.Fatal(err)
		}
		c.endListening()
		c.wait()
		for line := range bytes.Lines(got.Bytes()) {
			wantMessage(t, line)
			if bytes.Contains(line, []byte(`"id":`)) {
				answers++
			}
		}
		if lines := bytes.Count(sent, []byte("\n")) + 1; answers > lines {
			t.Fatalf("%d answers to %d lines: %s", answers, lines, got.Bytes())
		}
		if len(c.calls)+len(c.asks)+c.count[0]+c.count[1]+c.volume != 0 {
			t.Fatalf("left: %d calls, %d asks, %v running, %d bytes", len(c.calls), len(c.asks), c.count, c.volume)
		}
		c.close()
		wantOnlyMeantPanics(t, log.String())
	})
}

// endListening ends what does not end by itself.
func (c *conn) endListening() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.calls {
		if r.Method == string(mcp.MethodSubscriptionsListen) {
			r.cancel()
		}
	}
}

// wantOnlyMeantPanics checks that nothing panicked but the tool that does.
func wantOnlyMeantPanics(t *testing.T, log string) {
	t.Helper()
	for line := range strings.Lines(log) {
		if strings.Contains(line, "msg=panic") && !strings.Contains(line, "panic="+secret) {
			t.Fatal(line)
		}
	}
}

// keyring is an Authenticator of one token.
type keyring struct{}

func (keyring) Authenticate(_ context.Context, token string) (sessions.Principal, error) {
	if token != "good" {
		return sessions.Principal{}, ErrUnauthenticated
	}
	return sessions.Principal{Name: "token:good"}, nil
}

// FuzzHTTP: whatever a request says, it is served or refused in the words of
// the protocol, and no session but those of who asks is had.
//
// In session and query OWN stands for the id of a session of who asks, and
// FOREIGN for that of another.
func FuzzHTTP(f *testing.F) {
	for _, s := range seeds() {
		f.Add("POST", "/mcp", "", "localhost", "", "Bearer good", "application/json", "*/*", "", "", "", "OWN", []byte(s))
		f.Add("POST", "/mcp", "", "localhost", "http://localhost", "Bearer good", "application/json", "text/event-stream", "2026-07-28", "tools/call", "notifies", "", []byte(s))
		f.Add("POST", "/message", "sessionId=OWN", "127.0.0.1:80", "", "bearer good", "application/json; charset=utf-8", "", "", "", "", "", []byte(s))
	}
	f.Add("POST", "/mcp", "", "localhost", "", "Bearer good", "application/json", "", "2025-11-25", "", "", "FOREIGN", []byte(seedCall))
	f.Add("POST", "/message", "sessionId=FOREIGN", "localhost", "", "Bearer good", "application/json", "", "", "", "", "", []byte(seedCall))
	f.Add("GET", "/mcp", "", "[::1]:80", "null", "Bearer good", "", "text/event-stream", "2025-11-25", "", "", "OWN", []byte(nil))
	f.Add("DELETE", "/mcp", "", "localhost", "", "Bearer good", "", "", "1", "", "", "FOREIGN", []byte(nil))
	f.Add("GET", "/sse", "", "evil.example.org", "http://evil", "Basic YTpi", "", "", "", "", "", "", []byte(nil))
	f.Add("OPTIONS", "/.well-known/oauth-protected-resource/mcp", "", "", "http://", "Bearer", "", "", "", "", "", "", []byte(nil))
	f.Fuzz(func(t *testing.T, method, path, query, host, origin, auth, kind, accept, version, mcpMethod, mcpName, id string, body []byte) {
		sent := strings.Join([]string{method, path, query, host, origin, auth, kind, accept, version, mcpMethod, mcpName, id, string(body)}, "\n")
		if strings.Contains(sent, secret) || strings.Contains(sent, "mcpserver.") || strings.Contains(sent, ".go:") || strings.Contains(sent, "goroutine ") {
			return // it comes back
		}
		var log bytes.Buffer
		w := newWeb(fuzzServer(&log), HTTP{Auth: keyring{}, MaxBody: 1 << 16})
		own, foreign := w.addSession("token:good", kind == ""), w.addSession("token:"+secret, kind == "")
		named := strings.NewReplacer("OWN", own.id, "FOREIGN", foreign.id)
		h := http.Header{}
		for name, value := range map[string]string{
			"Origin": origin, "Authorization": auth, "Content-Type": kind, "Accept": accept, mcp.HeaderSessionID: named.Replace(id),
			mcp.HeaderProtocolVersion: version, "Mcp-Method": mcpMethod, "Mcp-Name": mcpName,
		} {
			if value != "" {
				h.Set(name, value)
			}
		}
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}))
		defer cancel()
		res := &recorder{header: http.Header{}, flushed: cancel}
		w.handler().ServeHTTP(res, (&http.Request{
			Method: method, URL: &url.URL{Path: path, RawQuery: named.Replace(query)}, Host: host, Header: h,
			Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
		}).WithContext(ctx))
		res.check(t)
		if got := strings.Contains(res.text(), foreign.id) && res.status < 300; got || len(foreign.calls) > 0 || foreign.ctx.Err() != nil {
			t.Fatalf("another's session was had: %s", res.text())
		}
		wantOnlyMeantPanics(t, log.String())
		w.sessions.endAll()
		own.wait()
		w.shares.sweep()
		if n := len(w.shares.byName); n > 0 {
			t.Fatalf("%d principals are left", n)
		}
	})
}

// addSession opens a session, which is one of 2024 if sse.
func (w *web) addSession(owner string, sse bool) *conn {
	sh := w.shares.of(owner)
	defer sh.letGo()
	c := w.srv.connect(context.Background(), sh)
	if sse {
		c.out = &outlet{put: func([]byte, *response) error { return nil }, broke: func(error) {}}
	}
	w.sessions.add(c, owner)
	return c
}

// recorder takes a response.
type recorder struct {
	header  http.Header
	status  int
	body    bytes.Buffer
	flushed func()
}

func (r *recorder) Header() http.Header { return r.header }

func (*recorder) SetReadDeadline(time.Time) error  { return nil }
func (*recorder) SetWriteDeadline(time.Time) error { return nil }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(b)
}

// FlushError is called for each event: a stream ends with its first.
func (r *recorder) FlushError() error {
	r.flushed()
	return nil
}

func (r *recorder) text() string {
	var b strings.Builder
	_ = r.header.Write(&b)
	return b.String() + "\n" + r.body.String()
}

func (r *recorder) check(t *testing.T) {
	t.Helper()
	if r.status == http.StatusInternalServerError {
		t.Fatalf("status %d: %s", r.status, r.body.String())
	}
	wantNothingInternal(t, []byte(r.text()))
	switch r.header.Get("Content-Type") {
	case "application/json":
		if bytes.Contains(r.body.Bytes(), []byte(`"authorization_servers"`)) {
			return
		}
		wantMessage(t, r.body.Bytes())
	case "text/event-stream":
		for line := range bytes.Lines(r.body.Bytes()) {
			if data, ok := bytes.CutPrefix(line, []byte("data: {")); ok {
				wantMessage(t, append([]byte("{"), data...))
			}
		}
	}
}
