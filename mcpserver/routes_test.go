package mcpserver_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// routeEntry says of a route who gets past it and how to ask for it.
type routeEntry struct {
	open  bool   // it needs no token
	ask   string // METHOD PATH; SESSION, STREAM and TICKET stand for an object
	own   string // the status and the text of the answer to its owner
	other string // the same, if the object is another's or none
}

// routeEntries have one for each route that there is. What is new fails
// TestAccessToRoutes until it stands here.
func routeEntries() map[string]routeEntry {
	const none = "404 there is no"
	all := map[string]routeEntry{
		"POST /mcp":       {false, "POST /mcp SESSION", `200 "result":{}`, none},
		"GET /mcp":        {false, "GET /mcp SESSION", "200 ", none},
		"DELETE /mcp":     {false, "DELETE /mcp SESSION", "204 ", none},
		"GET /sse":        {false, "GET /sse", "200 ", ""},
		"POST /message":   {false, "POST /message?sessionId=STREAM", "202 ", none},
		"/files/{ticket}": {true, "GET /files/TICKET", "503 can't be reached", "404 does not exist or is not yours"},
		"/":               {true, "GET /elsewhere", "404 there is nothing at", ""},
	}
	for _, path := range []string{"", "/mcp", "/sse", "/message"} {
		path = "/.well-known/oauth-protected-resource" + path
		all["GET "+path] = routeEntry{true, "GET " + path, `200 "resource"`, ""}
	}
	return all
}

// TestAccessToRoutes asks for every route there is, as everybody, about what is
// theirs, another's and nobody's.
func TestAccessToRoutes(t *testing.T) {
	const hour = time.Hour
	p := newPremises(t)
	web := mcpserver.NewWeb(p.server, mcpserver.HTTP{Auth: p})
	f := p.serve(t, web)
	patterns := web.Routes()
	for _, pattern := range patterns {
		if _, ok := routeEntries()[pattern]; !ok {
			t.Errorf("there is no entry for %s", pattern)
		}
	}
	if len(patterns) != len(routeEntries()) {
		t.Errorf("%d routes and %d entries", len(patterns), len(routeEntries()))
	}
	other := p.guest(f, "other", 0, sessions.ScopeWrite)
	for _, role := range []struct {
		name   string
		scopes []sessions.Scope
		spoil  func(g *visitor) // how it loses its token
	}{
		{"none", nil, nil},
		{"read", []sessions.Scope{sessions.ScopeRead}, nil},
		{"write", []sessions.Scope{sessions.ScopeWrite}, nil},
		{"admin", []sessions.Scope{sessions.ScopeAdmin}, nil},
		{"revoked", []sessions.Scope{sessions.ScopeAdmin}, func(g *visitor) { _, _ = p.tokens.Revoke(t.Context(), g.tok.ID) }},
		{"expired", []sessions.Scope{sessions.ScopeAdmin}, func(*visitor) { p.now = p.now.Add(hour) }},
		{"no-token", []sessions.Scope{sessions.ScopeAdmin}, func(g *visitor) { g.peer.header.Del("Authorization") }},
	} {
		for _, pattern := range patterns {
			t.Run(role.name+" "+pattern, func(t *testing.T) {
				web.Forgive()
				me := p.guest(f, fmt.Sprintf("%s-%d", role.name, len(p.logins)), hour, role.scopes...)
				own, foreign, absent := me.objects(me.tok), other.objects(me.tok), strangers(p, me.tok)
				if role.spoil != nil {
					role.spoil(me)
				}
				e := routeEntries()[pattern]
				want, hidden := e.own, e.other
				switch {
				case role.spoil != nil && !e.open:
					want, hidden = "401 ", "401 "
				case role.name == "revoked" && strings.Contains(e.ask, "TICKET"): // as are those it was given
					want, hidden = "403 not valid any more", "403 not valid any more"
				}
				if hidden != "" {
					me.wants(t, e.ask, foreign, hidden)
					me.wants(t, e.ask, absent, hidden)
				}
				me.wants(t, e.ask, own, want)
			})
		}
	}
}

// visitor is a principal with a client, and what there is of its.
type visitor struct {
	premises *premises
	tok      auth.Token
	text     string
	peer     *peer
}

// serve serves the premises over HTTP.
func (p *premises) serve(t *testing.T, web mcpserver.Web) *httpFixture {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{Server: p.server, served: make(chan error, 1), log: &lockedBuffer{}}
	f.serve(t, func(ctx context.Context) error { return web.ServeOn(ctx, ln) })
	return &httpFixture{f, t, "http://" + ln.Addr().String()}
}

// guest returns a new principal with these scopes.
func (p *premises) guest(f *httpFixture, name string, ttl time.Duration, scopes ...sessions.Scope) *visitor {
	p.t.Helper()
	tok, _ := p.token(name, ttl, scopes...)
	return &visitor{premises: p, tok: tok, text: p.last, peer: f.as(p.last)}
}

// objects returns what the words of an entry are for what belongs to v. Tickets
// are the holder's, for v's sandbox.
func (v *visitor) objects(holder auth.Token) *strings.Replacer {
	v.premises.t.Helper()
	session := v.peer.as(v.text).initialize("2025-11-25").header.Get("Mcp-Session-Id")
	name, path := v.peer.as(v.text).do(http.MethodGet, "/sse", nil).event()
	_, stream, ok := strings.Cut(path, "sessionId=")
	if !ok {
		v.premises.t.Fatalf("event %s %s", name, path)
	}
	sandbox := v.premises.sandbox(v.tok.Principal().Name)
	return strings.NewReplacer("SESSION", session, "STREAM", stream, "TICKET", v.premises.ticket(holder, sandbox))
}

// strangers are objects that there are not.
func strangers(p *premises, holder auth.Token) *strings.Replacer {
	return strings.NewReplacer("SESSION", "invented", "STREAM", "invented", "TICKET", p.ticket(holder, "sb-aaaaaaaaaaaaaaaaaaaa"))
}

func (p *premises) ticket(holder auth.Token, sandbox string) string {
	return mcpserver.SignTicket(p.server, auth.Ticket{Principal: holder.Principal().Name, Sandbox: sandbox, Path: "/x", Expires: time.Now().Add(time.Hour)})
}

// wants asks for a route and checks the answer.
func (v *visitor) wants(t *testing.T, ask string, objects *strings.Replacer, want string) {
	t.Helper()
	words := strings.Fields(objects.Replace(ask))
	v.peer.header.Del("Mcp-Session-Id")
	if len(words) > 2 {
		v.peer.set("Mcp-Session-Id", words[2])
	}
	var body io.Reader
	if words[0] == http.MethodPost {
		body = strings.NewReader(ping)
	}
	res := v.peer.do(words[0], words[1], body)
	defer res.Body.Close()
	status, text, _ := strings.Cut(want, " ")
	if got := fmt.Sprint(res.StatusCode); got != status {
		t.Errorf("%s: status %s, want %s", strings.Join(words, " "), got, want)
	}
	if text == "" { // it may be a stream, which does not end
		return
	}
	got, err := io.ReadAll(res.Body)
	if err != nil || !strings.Contains(string(got), text) {
		t.Errorf("%s: %s, error %v, want %s", strings.Join(words, " "), got, err, want)
	}
}

func TestOtherMethods(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{Auth: tokens{"a"}})
	for path, allowed := range map[string]string{"/mcp": "POST, GET, DELETE", "/sse": "GET"} {
		res := f.peer().do("PUT", path, nil)
		res.want(http.StatusMethodNotAllowed, `method \"PUT\": `+path+" is for "+allowed)
		if got := res.Header.Get("Allow"); got != allowed {
			t.Errorf("%s: Allow %q, want %q", path, got, allowed)
		}
	}
}

// Of connections there are only so many, and nobody without a token keeps one.
func TestStrangersKeepNoConnection(t *testing.T) {
	f := startFiles(t, mcpserver.HTTP{Auth: tokens{"a"}}, &told{})
	ticket := mcpserver.SignTicket(f.Server, auth.Ticket{Principal: "token:a", Sandbox: "sb-1", Path: "/x", Expires: time.Now().Add(time.Hour)})
	for _, tt := range []struct {
		token, path string
		status      int
		keeps       bool
	}{
		{"a", "/mcp", http.StatusBadRequest, true},
		{"b", "/mcp", http.StatusUnauthorized, false},
		{"", "/mcp", http.StatusUnauthorized, false},
		{"", "/files/" + ticket, http.StatusMethodNotAllowed, true},
		{"", "/files/x", http.StatusForbidden, false},
		{"", "/", http.StatusNotFound, false},
	} {
		p := f.peer()
		if tt.token != "" {
			p.set("Authorization", "Bearer "+tt.token)
		}
		if res := p.do("POST", tt.path, strings.NewReader("{}")); res.StatusCode != tt.status || res.Close == tt.keeps {
			t.Errorf("token %q at %s: status %d, connection kept %v", tt.token, tt.path, res.StatusCode, !res.Close)
		}
	}
}

// Who is told to wait with the next guess keeps no connection, and is counted.
func TestGuessersAreCounted(t *testing.T) {
	w := &told{}
	f := startFiles(t, mcpserver.HTTP{Auth: tokens{"a"}}, w)
	want := []string{"auth invalid"}
	res := f.as("b").post("{}")
	for ; res.StatusCode == http.StatusUnauthorized; res = f.as("b").post("{}") {
		want = append(want, "auth invalid")
	}
	if res.StatusCode != http.StatusTooManyRequests || !res.Close {
		t.Errorf("status %d, connection kept %v", res.StatusCode, !res.Close)
	}
	w.want(t, want...)
}
