package mcpserver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// startFiles serves files of an installation that is broken: what gets as far
// as that is answered with 503.
func startFiles(t *testing.T, h mcpserver.HTTP, w mcpserver.Watcher) *httpFixture {
	return startHTTP(t, h, brokenFiles(w))
}

func brokenFiles(w mcpserver.Watcher) func(*mcpserver.Server) {
	return func(s *mcpserver.Server) {
		s.Watch = w
		s.Files = &tools.Files{Open: func(context.Context) (*sessions.Manager, error) { return nil, errors.New("secret detail") }}
	}
}

func TestTicketsAreAllThatIsNeeded(t *testing.T) {
	f := startFiles(t, mcpserver.HTTP{Auth: tokens{"a"}}, nil)
	ticket := auth.Ticket{Principal: "token:a", Sandbox: "sb-1", Path: "/x", Expires: time.Now().Add(time.Hour)}
	read := "/files/" + mcpserver.SignTicket(f.Server, ticket)
	ticket.Write = true
	write := "/files/" + mcpserver.SignTicket(f.Server, ticket)
	ticket.Expires = time.Now().Add(-time.Minute)
	late := "/files/" + mcpserver.SignTicket(f.Server, ticket)
	ticket.Expires = time.Now().Add(time.Hour)
	other := "/files/" + mcpserver.SignTicket(&mcpserver.Server{}, ticket)

	for _, tt := range []struct {
		method, path, header string
		status               int
		text                 string
	}{
		{"GET", read, "", 503, "not usable"},
		{"HEAD", read, "", 503, ""},
		{"PUT", write, "", 503, "not usable"},
		{"PUT", write, "bytes 0-4/10", 503, "not usable"},
		{"PUT", read, "", 405, "this URL is for GET, HEAD"},
		{"GET", write, "", 405, "this URL is for PUT"},
		{"DELETE", write, "", 405, "this URL is for PUT"},
		{"PUT", late, "", 403, "not any more"},
		{"PUT", other, "", 403, "not valid"},
		{"GET", read[:len(read)-2] + "xx", "", 403, "not valid"},
		{"GET", "/files/x", "", 403, "not valid"},
		{"GET", "/files/", "", 404, ""},
		{"PUT", write, "bytes */10", 400, "the range has 0 bytes"},
		{"PUT", write, "bytes 0-9/10", 400, "the range has 10 bytes"},
		{"PUT", write, "bytes 4-0/10", 400, "FIRST <= LAST"},
		{"PUT", write, "bytes 6-10/10", 400, "FIRST <= LAST"},
		{"PUT", write, "bytes 0-4/*", 400, "TOTAL"},
		{"PUT", write, "lines 1-2/3", 400, "TOTAL"},
		{"PUT", write, "bytes 0-4/99999999999999", 413, "MiB"},
		{"PUT", write, "bytes 0-4/9999999999999999999999", 400, "TOTAL"},
	} {
		var body io.Reader
		if tt.method == "PUT" {
			body = strings.NewReader("12345")
		}
		p := f.peer()
		if tt.header != "" {
			p.set("Content-Range", tt.header)
		}
		res := p.do(tt.method, tt.path, body)
		if got := res.want(tt.status, tt.text); strings.Contains(got, "secret") {
			t.Errorf("%s %s: %s", tt.method, tt.path, got)
		}
	}
	// Of a part it must be known how long it is.
	p := f.peer()
	p.set("Content-Range", "bytes 0-4/10")
	p.do("PUT", write, io.MultiReader(strings.NewReader("12345"))).want(http.StatusLengthRequired, "Content-Length, which is 5 here")
	f.End("token:a")
	f.peer().do("GET", read, nil).want(http.StatusForbidden, "not valid any more")
}

// told is a Watcher that remembers what it was told.
type told struct {
	mu  sync.Mutex
	all []string
}

func (w *told) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, fmt.Sprintf(format, args...))
}

func (w *told) ToolCall(tool, outcome string, _ time.Duration) { w.note("%s %s", tool, outcome) }
func (w *told) Transfer(direction, outcome string, bytes int64, _ time.Duration) {
	w.note("%s %s %d", direction, outcome, bytes)
}
func (w *told) LimitRefusal(limit string) { w.note("limit %s", limit) }
func (w *told) AuthFailure(reason string) { w.note("auth %s", reason) }

func (w *told) want(t *testing.T, all ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if diff := cmp.Diff(all, w.all); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	w.all = nil
}

// A transfer is a line in the log, which has neither path nor ticket, and what
// is refused is counted.
func TestTransfersAreLogged(t *testing.T) {
	w := &told{}
	f := startFiles(t, mcpserver.HTTP{Auth: tokens{"a"}}, w)
	ticket := auth.Ticket{Principal: "token:a", Sandbox: "sb-1", Path: "/hidden", Expires: time.Now().Add(time.Hour)}
	url := "/files/" + mcpserver.SignTicket(f.Server, ticket)
	f.peer().do("GET", url, nil).want(http.StatusServiceUnavailable, "")
	f.peer().do("PUT", url, strings.NewReader("x")).want(http.StatusMethodNotAllowed, "")
	f.peer().do("GET", url+"x", nil).want(http.StatusForbidden, "")
	f.peer().post("{}").want(http.StatusUnauthorized, "")
	f.as("b").post("{}").want(http.StatusUnauthorized, "")
	f.as("down").post("{}").want(http.StatusServiceUnavailable, "")
	f.stop() // and all of it is logged
	f.served <- <-f.served
	w.want(t, "download unavailable 0", "download invalid 0", "auth ticket", "auth missing", "auth invalid", "auth unavailable")
	log := f.log.String()
	if !strings.Contains(log, "msg=transfer direction=download principal=token:a sandbox=sb-1 bytes=0 outcome=unavailable ms=") {
		t.Errorf("no line of the transfer in\n%s", log)
	}
	if strings.Contains(log, "hidden") || strings.Contains(log, "eyJ") {
		t.Errorf("the log has a path or a ticket:\n%s", log)
	}
}

// Who asks too often is refused as at the other endpoints, where each request
// has its turn.
func TestTransfersAreLimited(t *testing.T) {
	w := &told{}
	const rate = 0.001
	f := &httpFixture{fixture: newFixture(t, brokenFiles(w)), t: t}
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.url = "http://" + ln.Addr().String()
	web := mcpserver.NewWeb(f.Server, mcpserver.HTTP{Auth: tokens{"a"}, Limits: mcpserver.Limits{Rate: rate}})
	f.serve(t, func(ctx context.Context) error { return web.ServeOn(ctx, ln) })
	url := "/files/" + mcpserver.SignTicket(f.Server, auth.Ticket{Principal: "token:a", Sandbox: "sb-1", Path: "/x", Expires: time.Now().Add(time.Hour)})
	f.peer().do("GET", url, nil).want(http.StatusServiceUnavailable, "not usable")
	turns := web.Pace("token:a")
	turns.SetLimit(0) // no turn comes after the first ones
	before := turns.Tokens()
	res := f.peer().do("GET", url, nil)
	if got := res.Header.Get("Retry-After"); got != "1000" && len(got) != 3 {
		t.Errorf("Retry-After: %q", got)
	}
	res.want(http.StatusTooManyRequests, "requests a second")
	w.want(t, "download unavailable 0", "limit rate")
	if left := turns.Tokens(); left != before-1 {
		t.Errorf("%g turns are left of %g", left, before)
	}
}

// A ticket for nobody, or signed in another way, is none.
func FuzzTickets(f *testing.F) {
	ts := auth.NewTickets(time.Now)
	good, err := ts.Sign(auth.Ticket{Principal: "a", Sandbox: "b", Path: "/\xff", Expires: time.Now().Add(time.Hour)})
	if err != nil {
		f.Fatal(err)
	}
	if got, err := ts.Parse(good); err != nil || got.Path != "/\xff" || got.Principal != "a" {
		f.Fatalf("%+v, %v", got, err)
	}
	head, rest, _ := strings.Cut(good, ".")
	for _, seed := range []string{good, "", "..", "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0." + rest, head + "." + rest + "A"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := ts.Parse(text); err == nil && text != good {
			t.Errorf("%q is %+v", text, got)
		}
	})
}
