package tools_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/tools"
)

// recorder returns what is recorded of calls of a tool.
func recorder(t *testing.T, name string) func(args json.RawMessage) (sandbox, arguments string) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	for _, tool := range append(tools.All(nil, nil, log), tools.Admin(nil, nil, log)...) {
		if tool.Name == name {
			return tool.Record
		}
	}
	t.Fatalf("no tool %s", name)
	return nil
}

func TestRecord(t *testing.T) {
	digest := func(text string) string {
		return fmt.Sprintf(`"bytes":%d,"sha256":"%x"`, len(text), sha256.Sum256([]byte(text)))
	}
	long := strings.Repeat("echo 1234;", 200)
	for _, tt := range []struct{ tool, args, sandbox, want string }{
		{"exec", `{"sandbox_id":"sb-1","command":"make test","wait_seconds":5,"workdir":null}`, "sb-1", `{"command":"make test","sandbox_id":"sb-1","wait_seconds":5}`},
		{"exec", `{"command":"curl -H 'Authorization: Bearer canary123' u","stdin":"canary","env":{"TOKEN":"canary"}}`, "",
			`{"command":"curl -H 'Authorization: Bearer [redacted]' u","env":{"bytes":{"TOKEN":6}},"stdin":{` + digest("canary") + `}}`},
		{"exec", `{"command":"` + long + `"}`, "", `{"command":{"begins":"` + long[:1000] + `",` + digest(long) + `}}`},
		{"exec", `{"command":"x","env":"A=canary"}`, "", `{"command":"x","env":{` + digest(`"A=canary"`) + `}}`},
		{"write_file", `{"sandbox_id":"sb-1","path":"a/b","content":"canary","append":true}`, "sb-1", `{"append":true,"content":{` + digest("canary") + `},"path":"a/b","sandbox_id":"sb-1"}`},
		{"write_file", `{"mode":"canary-canary"}`, "", `{"mode":{` + digest("canary-canary") + `}}`}, // longer than it may be
		{"edit_file", `{"old_string":"canary","new_string":"canary2"}`, "", `{"new_string":{` + digest("canary2") + `},"old_string":{` + digest("canary") + `}}`},
		{"control_process", `{"stdin":"canary","signal":"INT"}`, "", `{"signal":"INT","stdin":{` + digest("canary") + `}}`},
		{"control_process", `{"input":"canary"}`, "", `{"unknown":{` + digest(`{"input":"canary"}`) + `}}`},
		{"token_revoke", `{"token":"agentlab_abcdefghij_canarycanary"}`, "", `{"token":"[redacted]"}`},
		{"destroy", `["canary"]`, "", `{"malformed":{` + digest(`["canary"]`) + `}}`},
		{"list_sandboxes", ``, "", `{}`},
	} {
		sandbox, got := recorder(t, tt.tool)(json.RawMessage(tt.args))
		if sandbox != tt.sandbox || got != tt.want {
			t.Errorf("%s %.80s\n got %s %s\nwant %s %s", tt.tool, tt.args, sandbox, got, tt.sandbox, tt.want)
		}
	}
}
