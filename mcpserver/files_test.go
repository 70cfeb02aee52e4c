package mcpserver_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// startFiles serves files of an installation that is broken: what gets as far
// as that is answered with 503.
func startFiles(t *testing.T) *httpFixture {
	return startHTTP(t, mcpserver.HTTP{Auth: tokens{"a"}}, func(s *mcpserver.Server) {
		s.Files = &tools.Files{Open: func(context.Context) (*sessions.Manager, error) { return nil, errors.New("secret detail") }}
	})
}

func TestTicketsAreAllThatIsNeeded(t *testing.T) {
	f := startFiles(t)
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
	f.End("token:a")
	f.peer().do("GET", read, nil).want(http.StatusForbidden, "not valid any more")
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
