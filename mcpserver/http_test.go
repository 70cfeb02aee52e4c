package mcpserver_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/sessions"
)

func TestClientOfAnotherOverHTTP(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{})
	for name, transport := range map[string]mcp.Transport{
		"streamable": &mcp.StreamableClientTransport{Endpoint: f.url + "/mcp"},
		"sse":        &mcp.SSEClientTransport{Endpoint: f.url + "/sse"},
	} {
		t.Run(name, func(t *testing.T) {
			client := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
			session, err := client.Connect(t.Context(), transport, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer session.Close()
			list, err := session.ListTools(t.Context(), nil)
			if err != nil || len(list.Tools) != 7 {
				t.Fatalf("tools %v, error %v", list, err)
			}
			res, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "whoami"})
			if err != nil {
				t.Fatal(err)
			}
			if text := res.Content[0].(*mcp.TextContent).Text; !strings.HasPrefix(text, "local:") {
				t.Errorf("principal %q", text)
			}
		})
	}
}

func TestBothErasOverHTTP(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{})
	for _, version := range []string{"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"} {
		t.Run(version, func(t *testing.T) {
			p := f.peer().initialize(version)
			p.post(callLine("9007199254740993", "whoami", "{}")).want(http.StatusOK, `"id":9007199254740993`)
		})
	}
	t.Run("2026-07-28", func(t *testing.T) {
		f.peer().modern("tools/call", "whoami").post(modernCall("1", "whoami", "{}")).want(http.StatusOK, `"resultType":"complete"`)
	})
}

func TestSessionsOverHTTP(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{Auth: tokens{"a", "b"}})
	a := f.as("a").initialize("2025-11-25")
	id := a.header.Get("Mcp-Session-Id")
	call := callLine("2", "whoami", "{}")
	a.post(call).want(http.StatusOK, "token:a")
	none := f.as("a")
	none.post(call).want(http.StatusBadRequest, "begin with initialize")
	none.set("Mcp-Session-Id", "invented")
	none.post(call).want(http.StatusNotFound, "begin anew")

	// Another's session is none, in the same words.
	b := f.as("b")
	b.set("Mcp-Session-Id", id)
	b.post(call).want(http.StatusNotFound, "begin anew")
	b.do(http.MethodGet, "/mcp", nil).want(http.StatusNotFound, "begin anew")
	b.do(http.MethodDelete, "/mcp", nil).want(http.StatusNotFound, "begin anew")

	got, _ := a.background(callLine("3", "block", "{}"))
	<-f.started
	a.do(http.MethodDelete, "/mcp", nil).want(http.StatusNoContent, "")
	<-f.ended // with its session
	<-got
	a.post(call).want(http.StatusNotFound, "begin anew")
}

func TestSSEOverHTTP(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{Auth: tokens{"a", "b"}})
	heard, say := f.as("a").openSSE()
	say(callLine("2", "whoami", "{}")).want(http.StatusAccepted, "")
	heard.wantEvent("token:a")

	// Another's session is none.
	_, path := f.as("a").do(http.MethodGet, "/sse", nil).event()
	f.as("b").do(http.MethodPost, path, strings.NewReader(ping)).want(http.StatusNotFound, "no such session")

	// Nor is it one of the other transport.
	atMCP := f.as("a")
	atMCP.set("Mcp-Session-Id", strings.TrimPrefix(path, "/message?sessionId="))
	atMCP.post(ping).want(http.StatusNotFound, "begin anew")

	// The limits of a connection hold here too: see TestIDInUseIsRefused.
	say(callLine("3", "block", "{}")).want(http.StatusAccepted, "")
	<-f.started
	say(callLine("3", "block", "{}")).want(http.StatusAccepted, "")
	heard.wantEvent("id 3 is being served")
	say(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":3}}`).want(http.StatusAccepted, "")
	<-f.ended
	say(ping)
	heard.wantEvent(`"id":"ping"`) // and no answer to the cancelled call
}

// What a token may do is asked each time, not when the session began.
func TestScopesOfASession(t *testing.T) {
	var f fickle
	heard, say := startHTTP(t, mcpserver.HTTP{Auth: &f}).as("a").openSSE()
	say(callLine("1", "whoami", "{}")).want(http.StatusAccepted, "")
	heard.wantEvent(`"scopes":["sandbox:read","scope-2"]`)
	say(callLine("2", "whoami", "{}")).want(http.StatusAccepted, "")
	heard.wantEvent(`"scopes":["sandbox:read","scope-3"]`)
}

// fickle gives each request another scope.
type fickle struct{ n atomic.Int64 }

func (f *fickle) Authenticate(context.Context, string) (sessions.Principal, error) {
	return sessions.Principal{Name: "a", Scopes: []sessions.Scope{sessions.ScopeRead, sessions.Scope(fmt.Sprint("scope-", f.n.Add(1)))}}, nil
}

// Notifications come before the answer, where it comes, however short the time
// between.
func TestLastNotificationIsNotLost(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{})
	legacy := f.peer().initialize("2025-11-25")
	modern := f.peer().modern("tools/call", "notifies")
	for i := range 200 {
		legacy.post(callLine(fmt.Sprint(i), "notifies", "{}")).wantNotes(fmt.Sprint(i))
		modern.post(modernCall(fmt.Sprint(i), "notifies", "{}")).wantNotes(fmt.Sprint(i))
	}
}

func (r *response) wantNotes(id string) {
	r.t.Helper()
	for i := range 3 {
		r.wantEvent(fmt.Sprintf(`"progress":%d`, i))
	}
	r.wantEvent(`"id":` + id)
	if rest, err := io.ReadAll(r.in); err != nil || len(rest) > 0 {
		r.t.Fatalf("after the answer: %q, %v", rest, err)
	}
}
