package mcpserver_test

import (
	"slices"
	"strings"
	"testing"
)

// Clients that stay are told that tools are described otherwise now, once each
// time that they are; those who come read the new instructions.
func TestDefinitionsChange(t *testing.T) {
	f := start(t)
	r := f.dial(t)
	r.send(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`)
	r.want("1", `"tools":{"listChanged":true}`)
	r.send(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	r.ping()
	modern := f.dial(t)
	modern.send(`{"jsonrpc":"2.0","id":7,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},` + modernMeta + `}}`)
	if a := modern.answer(); !strings.Contains(a.Method, "acknowledged") || !strings.Contains(string(a.Params), "toolsListChanged") {
		t.Fatalf("answer %+v", a)
	}
	list := slices.Clone(f.Tools)
	for _, description := range []string{"blocks", "blocks otherwise", "blocks otherwise", "blocks again"} {
		list[0].Description = description
		f.Define(list, "how to use it "+description)
	}
	for range 2 {
		if a := r.answer(); a.Method != "notifications/tools/list_changed" {
			t.Fatalf("told %+v", a)
		}
		if a := modern.answer(); a.Method != "notifications/tools/list_changed" {
			t.Fatalf("told %+v", a)
		}
	}
	r.send(`{"jsonrpc":"2.0","id":2,"method":"tools/list"}`)
	r.want("2", `"description":"blocks again"`)
	r.send(callLine("3", "whoami", "{}"))
	r.want("3", "local:")
	late := f.dial(t)
	late.send(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`)
	late.want("1", "how to use it blocks again")
	late = f.dial(t)
	late.send(`{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{` + modernMeta + `}}`)
	late.want("1", "how to use it blocks again")
}
