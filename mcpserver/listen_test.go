package mcpserver

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// serveMCP serves what is in m over HTTP.
func serveMCP(t *testing.T, m *server.MCPServer) (url string, stop func() error) {
	t.Helper()
	s := &Server{Log: slog.New(slog.DiscardHandler), Grace: time.Hour}
	s.once.Do(func() { s.mcp = m })
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	served := make(chan error, 1)
	go func() { served <- s.ServeHTTPOn(ctx, ln, HTTP{}) }()
	return "http://" + ln.Addr().String() + "/mcp", func() error { cancel(); return <-served }
}

// request makes one of 2026-07-28, and returns what it is answered.
func request(t *testing.T, url, method, params string) io.Reader {
	t.Helper()
	meta := `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	body := `{"jsonrpc":"2.0","id":7,"method":"` + method + `","params":{` + params + "," + meta + "}}"
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"Content-Type": "application/json", "Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": method, "Mcp-Name": "panics",
	} {
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res.Body
}

// Who listens hears what it asked for and no more, as of its request, and the
// end of the server ends it at once.
func TestListening(t *testing.T) {
	m := server.NewMCPServer("x", "1", server.WithToolCapabilities(true), server.WithPromptCapabilities(true))
	url, stop := serveMCP(t, m)
	in := bufio.NewReader(request(t, url, "subscriptions/listen", `"notifications":{"toolsListChanged":true}`))
	message := func() string {
		for {
			line, err := in.ReadString('\n')
			if data, ok := strings.CutPrefix(line, "data: "); ok || errors.Is(err, io.EOF) {
				return data
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := message(); !strings.Contains(got, "subscriptions/acknowledged") {
		t.Fatalf("first message %s", got)
	}
	m.AddPrompt(mcp.NewPrompt("p"), nil)
	m.AddTool(mcp.NewTool("t"), nil)
	if got := message(); !strings.Contains(got, "tools/list_changed") || !strings.Contains(got, `"io.modelcontextprotocol/subscriptionId":7`) {
		t.Errorf("next message %s", got)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if got := message(); !strings.Contains(got, `"id":7`) {
		t.Errorf("answer %s", got)
	}
}

// Not only tools can panic.
func TestPanicOfAPrompt(t *testing.T) {
	m := server.NewMCPServer("x", "1", server.WithPromptCapabilities(false))
	m.AddPrompt(mcp.NewPrompt("panics"), func(context.Context, mcp.GetPromptRequest) (*mcp.GetPromptResult, error) { panic("secret detail") })
	url, stop := serveMCP(t, m)
	body, err := io.ReadAll(request(t, url, "prompts/get", `"name":"panics"`))
	if err != nil || !strings.Contains(string(body), "internal error (ref ") || !strings.Contains(string(body), `"id":7`) || strings.Contains(string(body), "secret") {
		t.Errorf("answer %s, error %v", body, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// A client that waits is told nothing, again and again.
func TestKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Log: slog.New(slog.DiscardHandler)}
		s.build()
		c := s.connect(t.Context(), nil)
		defer c.close()
		said := 0
		out := &outlet{nothing: func() error { said++; return nil }}
		over := make(chan struct{})
		time.AfterFunc(time.Minute+time.Second, func() { close(over) })
		newCall(c, out, message{}, 0).forward(t.Context(), over)
		if said != 4 {
			t.Errorf("told %d times in a minute, want 4", said)
		}
	})
}

func TestSessionTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Log: slog.New(slog.DiscardHandler)}
		s.build()
		w := newWeb(s, HTTP{SessionTTL: time.Hour, Limits: Limits{Rate: 1}})
		defer w.endStreams()
		add := func(owner string) *conn {
			sh := w.shares.of(owner)
			defer sh.letGo()
			c := s.connect(context.Background(), sh)
			w.sessions.add(c, owner)
			time.Sleep(time.Millisecond)
			return c
		}
		first, busy := add("b"), add("a")
		_, done := w.sessions.use(busy.id, "a")
		oldest := add("a")
		for range maxSessions - 1 {
			add("a")
		}
		if oldest.ctx.Err() == nil || busy.ctx.Err() != nil || first.ctx.Err() != nil {
			t.Error("the session that gave way is not a's oldest that is not used")
		}
		time.Sleep(time.Hour)
		w.sweep()
		if len(w.sessions.byID) != 1 || busy.ctx.Err() != nil || first.ctx.Err() == nil {
			t.Errorf("%d sessions left, want the one that is used", len(w.sessions.byID))
		}
		done()
		time.Sleep(time.Hour)
		w.sweep()
		if len(w.sessions.byID) != 0 || len(w.shares.byName) != 0 {
			t.Errorf("%d sessions and %d principals left", len(w.sessions.byID), len(w.shares.byName))
		}
	})
}

// The end of a stream gives back once what it had taken of its principal's share.
func TestStreamLetsGoOnce(t *testing.T) {
	s := &Server{Log: slog.New(slog.DiscardHandler)}
	s.build()
	w := newWeb(s, HTTP{})
	defer w.endStreams()
	srv := httptest.NewServer(w.handler())
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/sse", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := res.Body.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cancel()
	srv.Close() // returns when the stream has ended
	for name, sh := range w.shares.byName {
		if sh.holds != 0 {
			t.Errorf("%s: %d holds", name, sh.holds)
		}
	}
	if w.sweep(); len(w.shares.byName) != 0 {
		t.Errorf("%d principals are not forgotten", len(w.shares.byName))
	}
}

// What got past allow just before its token was revoked ends all the same.
func TestWhoEntersAfterTheEnd(t *testing.T) {
	s := &Server{Log: slog.New(slog.DiscardHandler)}
	s.End("token:a")
	for who, want := range map[string]error{"token:a": ErrUnauthenticated, "token:b": nil} {
		ctx, leave := s.enter(sessions.WithPrincipal(t.Context(), sessions.Principal{Name: who}))
		if got := context.Cause(ctx); !errors.Is(got, want) {
			t.Errorf("%s: %v, want %v", who, got, want)
		}
		leave()
	}
}

// What is being read of one principal's requests is bounded before it is read.
func TestLoadIsBounded(t *testing.T) {
	all := shares{}
	s := all.of("a")
	for range maxBytes / maxLine {
		if problem := s.load(maxLine); problem != nil {
			t.Fatal(problem)
		}
	}
	if problem := s.load(maxLine); problem == nil || problem.Code != busy {
		t.Errorf("one more: %+v", problem)
	}
	if problem := s.load(smallBody); problem != nil {
		t.Errorf("a small one: %+v", problem)
	}
	s.unload(maxLine)
	s.unload(smallBody)
	if problem := s.load(maxLine); problem != nil {
		t.Errorf("after one has ended: %+v", problem)
	}
}

// No more wait for their turn than get it in time.
func TestTurnsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := shares{Limits: Limits{Rate: 10}} // 100 turns a second
		s := all.of("a")
		var refused atomic.Int64
		var group sync.WaitGroup
		for range 1000 {
			group.Go(func() {
				if problem := s.turn(t.Context()); problem != nil {
					refused.Add(1)
				}
			})
		}
		start := time.Now()
		group.Wait()
		if took, n := time.Since(start), refused.Load(); took > maxTurn || n != 1000-unpaced-500 {
			t.Errorf("%d refused, the last turn after %v", n, took)
		}
	})
}

// What is said before a large body is read is what is said after a small one.
func TestOftenIsAsEnterSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := shares{Limits: Limits{Rate: 0.1}} // one at once
		s := all.of("a")
		if problem := s.often(); problem != nil {
			t.Errorf("at first: %+v", problem)
		}
		if problem := s.enter(0); problem != nil {
			t.Fatal(problem)
		}
		if problem := s.often(); problem == nil || problem.Data != (retry{10, "rate"}) {
			t.Errorf("then: %+v", problem)
		}
		if problem := s.enter(0); problem == nil || problem.Data != (retry{10, "rate"}) {
			t.Errorf("which enter says: %+v", problem)
		}
	})
}
