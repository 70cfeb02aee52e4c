package mcpserver_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// offering has what the product offers besides tools, of an installation that
// can't be opened.
func offering(s *mcpserver.Server) {
	open := func(context.Context) (*sessions.Manager, error) { return nil, errors.New("config.yaml: line 3") }
	log := slog.New(slog.DiscardHandler)
	s.Resources, s.Prompts, s.Completer = tools.AllResources(open, log), tools.AllPrompts(log), tools.NewCompleter(open, log)
}

const modernMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`

// Each era has its code for what is not found, and is told what that was.
func TestErrorCodesOfEachEra(t *testing.T) {
	for _, tt := range []struct {
		name, method, params string
		legacy, modern       int
		text                 string
	}{
		{"absent", "resources/read", `"uri":"test://none"`, -32002, -32602, `there is no resource \"test://none\"`},
		{"space", "resources/read", `"uri":"a b"`, -32002, -32602, "there is no resource"},
		{"broken", "resources/read", `"uri":"sandbox://sandboxes"`, -32603, -32603, "line 3"},
		{"argument", "prompts/get", `"name":"run_in_sandbox","arguments":{}`, -32602, -32602, "task: is required"},
		{"prompt", "prompts/get", `"name":"none"`, -32602, -32602, "not found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, offering).dial(t)
			r.send(`{"jsonrpc":"2.0","id":1,"method":"` + tt.method + `","params":{` + tt.params + `}}`)
			r.wantError("1", tt.legacy, strings.ReplaceAll(tt.text, `\"`, `"`))
			r.send(`{"jsonrpc":"2.0","id":2,"method":"` + tt.method + `","params":{` + tt.params + `,` + modernMeta + `}}`)
			want := []string{fmt.Sprintf(`"code":%d,`, tt.modern), tt.text}
			if tt.method == "resources/read" {
				want = append(want, `"data":{`+tt.params+`}`)
			}
			line := r.line()
			for _, w := range want {
				if !strings.Contains(line, w) {
					t.Errorf("%s is not in %s", w, line)
				}
			}
		})
	}
}

func TestResourcesOverHTTP(t *testing.T) {
	f := startHTTP(t, mcpserver.HTTP{Auth: tokens{"a"}}, offering)
	read := `{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"test://none"}}`
	f.as("a").initialize("2025-11-25").post(read).want(http.StatusOK, `"code":-32002`)
}

// What is declared is there, in both eras.
func TestDeclaredCapabilities(t *testing.T) {
	r := start(t, offering).dial(t)
	r.send(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`)
	r.want("1", `"capabilities":{"logging":{},"prompts":{},"resources":{"subscribe":true},"tools":{"listChanged":true},"completions":{}}`)
	r.send(`{"jsonrpc":"2.0","id":2,"method":"logging/setLevel","params":{"level":"info"}}`)
	r.want("2", "{}")
	r.send(`{"jsonrpc":"2.0","id":3,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"none"},"argument":{"name":"x","value":"y"}}}`)
	r.want("3", `"values":[]`)
	r.send(`{"jsonrpc":"2.0","id":4,"method":"resources/subscribe","params":{"uri":"test://watched"}}`)
	r.want("4", "{}")
	r.send(`{"jsonrpc":"2.0","id":5,"method":"resources/unsubscribe","params":{"uri":"test://watched"}}`)
	r.want("5", "{}")
}

func TestTooManySubscriptions(t *testing.T) {
	w := &told{}
	r := start(t, offering, func(s *mcpserver.Server) { s.Watch = w }).dial(t)
	subscribe := func(uri string) {
		r.send(`{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"` + uri + `"}}`)
	}
	for i := range 20 {
		subscribe("sandbox://sb-1/files/" + strings.Repeat("x", i+1))
		r.want("1", "{}")
	}
	subscribe("sandbox://sb-1/files/one-more")
	r.wantError("1", -32000, "20 resources, the most there may be; unsubscribe from one; try again in")
	w.want(t, "limit subscriptions")
	subscribe("sandbox://sb-1/files/x") // there already
	r.want("1", "{}")
	r.send(`{"jsonrpc":"2.0","id":2,"method":"resources/unsubscribe","params":{"uri":"sandbox://sb-1/files/x"}}`)
	r.want("2", "{}")
	subscribe("sandbox://sb-1/files/one-more")
	r.want("1", "{}")
}

// What reads wait for a sandbox keeps out no destroy.
func TestManyReadsLeaveRoomForDestroy(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	r := start(t, func(s *mcpserver.Server) {
		s.Resources = tools.AllResources(func(context.Context) (*sessions.Manager, error) {
			began <- struct{}{}
			<-release
			return nil, errors.New("broken")
		}, slog.New(slog.DiscardHandler))
	}).dial(t)
	for i := range 30 {
		r.send(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"resources/read","params":{"uri":"sandbox://sandboxes"}}`, i))
		select {
		case <-began:
		case <-time.After(20 * time.Second): // only a read that is refused lets it pass
			t.Fatalf("read %d has not begun: %+v", i, r.answer())
		}
	}
	r.send(callLine(`"d"`, "destroy", "{}"))
	r.want(`"d"`, "destroyed")
	close(release)
	for range 30 {
		r.answer()
	}
}
