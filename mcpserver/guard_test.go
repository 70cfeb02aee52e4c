package mcpserver_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/mcpserver"
)

// A web page of somebody else's can make a browser send requests to us, also
// by binding a name of its own to our address.
func TestOnlyWhatIsMeantForUs(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{
		PublicURL: "https://lab.example.org/agents", Hosts: []string{"proxied.example.org", "other.example.org:8080"}, Origins: []string{"https://app.example.org"},
	})
	port := f.url[strings.LastIndex(f.url, ":"):]
	for _, tt := range []struct {
		name, host, origin string
		ok                 bool
	}{
		{"plain", "", "", true},
		{"localhost", "localhost" + port, "", true},
		{"ipv6", "[::1]" + port, "", true},
		{"public", "lab.example.org", "", true},
		{"listed", "Proxied.example.org:1", "", true},
		{"listed-with-port", "other.example.org:8080", "", true},
		{"other-port", "other.example.org:8081", "", false},
		{"rebound", "evil.example.org" + port, "", false},
		{"looks-local", "localhost.evil.example.org", "", false},
		{"own-origin", "localhost" + port, "http://localhost" + port, true},
		{"public-origin", "lab.example.org", "https://lab.example.org", true},
		{"listed-origin", "", "https://app.example.org", true},
		{"other-origin", "", "https://evil.example.org", false},
		{"other-scheme", "", "http://app.example.org", false},
		{"other-local-port", "localhost" + port, "http://localhost:1", false},
		{"no-origin-at-all", "", "null", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for path, method := range map[string]string{"/mcp": http.MethodPost, "/sse": http.MethodGet, "/message": http.MethodPost} {
				p := f.peer()
				if tt.host != "" {
					p.set("Host", tt.host)
				}
				if tt.origin != "" {
					p.set("Origin", tt.origin)
				}
				res := p.do(method, path, strings.NewReader(ping))
				if got := res.StatusCode != http.StatusForbidden; got != tt.ok {
					t.Errorf("%s %s: status %d", method, path, res.StatusCode)
				}
				allowed := res.Header.Get("Access-Control-Allow-Origin")
				if want := tt.origin; !tt.ok && allowed != "" || tt.ok && allowed != want {
					t.Errorf("%s %s: Access-Control-Allow-Origin %q", method, path, allowed)
				}
			}
		})
	}
}

// A browser asks before it lets a page send what a form could not.
func TestPreflight(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{Auth: tokens{}, Origins: []string{"https://app.example.org"}})
	p := f.peer("Origin", "https://app.example.org", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization, mcp-method")
	res := p.do(http.MethodOptions, "/mcp", nil)
	res.want(http.StatusNoContent, "")
	if got := res.Header.Get("Access-Control-Allow-Headers"); got != "authorization, mcp-method" {
		t.Errorf("headers %q", got)
	}
	p.set("Origin", "https://evil.example.org")
	p.do(http.MethodOptions, "/mcp", nil).want(http.StatusForbidden, "http_allowed_origins")
}

func TestWhoAsksOverHTTP(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{Auth: tokens{"a"}, Issuers: []string{"https://id.example.org"}, PublicURL: "https://lab.example.org/agents"})
	call := modernCall("1", "whoami", "{}")
	f.as("a").modern("tools/call", "whoami").post(call).want(http.StatusOK, "token:a")
	for name, header := range map[string]string{"none": "", "wrong": "Bearer b", "basic": "Basic YTph", "empty": "Bearer "} {
		for path, method := range map[string]string{"/mcp": http.MethodPost, "/sse": http.MethodGet, "/message": http.MethodPost} {
			res := f.peer("Authorization", header).do(method, path, strings.NewReader(call))
			res.want(http.StatusUnauthorized, "")
			want := `resource_metadata="https://lab.example.org/agents/.well-known/oauth-protected-resource` + path + `", scope="sandbox:read sandbox:write"`
			got := res.Header.Get("WWW-Authenticate")
			if !strings.HasPrefix(got, "Bearer ") || !strings.HasSuffix(got, want) || strings.Contains(got, "invalid_token") != (name == "wrong") {
				t.Errorf("%s %s: WWW-Authenticate: %s\nwant ... %s", name, path, got, want)
			}
		}
	}
	f.as("down").post(call).want(http.StatusServiceUnavailable, "try again")
	if log := f.log.String(); !strings.Contains(log, "the database is gone") {
		t.Errorf("log:\n%s", log)
	}
	for path, resource := range map[string]string{"": "/mcp", "/mcp": "/mcp", "/sse": "/sse", "/message": "/message"} {
		var doc struct {
			Resource string   `json:"resource"`
			Servers  []string `json:"authorization_servers"`
			Scopes   []string `json:"scopes_supported"`
		}
		body := f.peer().do(http.MethodGet, "/.well-known/oauth-protected-resource"+path, nil).want(http.StatusOK, "")
		if err := json.Unmarshal([]byte(body), &doc); err != nil {
			t.Fatal(err)
		}
		if doc.Resource != "https://lab.example.org/agents"+resource || len(doc.Servers) != 1 || len(doc.Scopes) != 2 {
			t.Errorf("%s: %s", path, body)
		}
	}
}

// What others can reach is not served in the open, nor to everybody.
func TestExposedIsRefused(t *testing.T) {
	for name, h := range map[string]mcpserver.HTTP{
		"neither": {}, "no-tls": {Auth: tokens{}}, "no-authentication": {TLS: &tls.Config{}},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "0.0.0.0:0")
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // one that serves ends at once
			if err := newFixture(t).ServeHTTPOn(ctx, ln, h); !errors.Is(err, mcpserver.ErrExposed) {
				t.Errorf("error %v", err)
			}
			if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("listener is open: %v", err)
			}
		})
	}
}

func TestContentTypeIsChecked(t *testing.T) {
	startHTTP(t, mcpserver.HTTP{}).peer("Content-Type", "text/plain").post(ping).want(http.StatusUnsupportedMediaType, "application/json")
}

func TestHeadersOf2026(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{})
	call := modernCall("1", "whoami", "{}")
	for name, tt := range map[string]struct {
		header []string
		body   string
		code   int
	}{
		"no-version-in-header": {[]string{"Mcp-Protocol-Version", ""}, call, -32020},
		"no-version-in-body":   {nil, callLine("1", "whoami", "{}"), -32602},
		"other-method":         {[]string{"Mcp-Method", "tools/list"}, call, -32020},
		"other-name":           {[]string{"Mcp-Name", "destroy"}, call, -32020},
		"resumes":              {[]string{"Last-Event-ID", "1"}, call, -32020},
		"unknown-version":      {[]string{"Mcp-Protocol-Version", "2099-01-01"}, strings.ReplaceAll(call, "2026-07-28", "2099-01-01"), -32022},
		"an-answer":            {nil, `{"jsonrpc":"2.0","id":1,"result":{}}`, -32600},
	} {
		t.Run(name, func(t *testing.T) {
			p := f.peer().modern("tools/call", "whoami")
			p.set(tt.header...)
			wantErrorText(t, p.post(tt.body).want(http.StatusBadRequest, `"id":1`), tt.code)
		})
	}
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		res := f.peer().modern("", "").do(method, "/mcp", nil)
		res.want(http.StatusMethodNotAllowed, "no sessions")
		if got := res.Header.Get("Allow"); got != http.MethodPost {
			t.Errorf("Allow: %s", got)
		}
	}
	wantErrorText(t, f.peer().modern("nope", "").post(strings.Replace(call, "tools/call", "nope", 1)).want(http.StatusNotFound, ""), -32601)
}
