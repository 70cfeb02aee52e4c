package mcpserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// entry says what something that a client can ask for needs, and how to ask for
// it: the arguments of a tool or a prompt, or the URI of a resource. ID stands
// for a sandbox.
type entry struct {
	scope sessions.Scope
	ask   string
}

// entries have one for each tool, resource, template and prompt that there is.
// What is new fails TestAccess until it stands here.
func entries() map[string]entry {
	const read, write, admin = sessions.ScopeRead, sessions.ScopeWrite, sessions.ScopeAdmin
	return map[string]entry{
		"tool create_sandbox":       {write, `{"wait_seconds":0}`},
		"tool list_sandboxes":       {read, `{"sandbox_id":"ID"}`},
		"tool extend_ttl":           {write, `{"sandbox_id":"ID"}`},
		"tool stop_sandbox":         {write, `{"sandbox_id":"ID"}`},
		"tool start_sandbox":        {write, `{"sandbox_id":"ID"}`},
		"tool resize_sandbox":       {write, `{"sandbox_id":"ID","cpu":2}`},
		"tool destroy":              {write, `{"sandbox_id":"ID"}`},
		"tool exec":                 {write, `{"sandbox_id":"ID","command":"true"}`},
		"tool read_process":         {read, `{"sandbox_id":"ID","process_id":"p_1"}`},
		"tool control_process":      {write, `{"sandbox_id":"ID","process_id":"p_1","signal":"KILL"}`},
		"tool read_file":            {read, `{"sandbox_id":"ID","path":"x"}`},
		"tool write_file":           {write, `{"sandbox_id":"ID","path":"x","content":""}`},
		"tool edit_file":            {write, `{"sandbox_id":"ID","path":"x","old_string":"a","new_string":"b"}`},
		"tool list_files":           {read, `{"sandbox_id":"ID"}`},
		"prompt clean_up_sandboxes": {read, `{}`},
		"prompt reproduce_bug":      {read, `{"repo_url":"https://example.org/r","issue":"it breaks"}`},
		"prompt run_in_sandbox":     {read, `{"task":"look"}`},

		"resource sandbox://profiles":  {read, "sandbox://profiles"},
		"resource sandbox://sandboxes": {read, "sandbox://sandboxes"},

		"template sandbox://{sandbox_id}/files{+path}":               {read, "sandbox://ID/files/x"},
		"template sandbox://{sandbox_id}/processes/{process_id}/log": {read, "sandbox://ID/processes/p_1/log"},

		"tool upload_file":   {write, `{"sandbox_id":"ID","local_path":"DIR"}`},
		"tool download_file": {read, `{"sandbox_id":"ID","path":"x","local_path":"DIR/x"}`},
		"tool upload_url":    {write, `{"sandbox_id":"ID","path":"x"}`},
		"tool download_url":  {read, `{"sandbox_id":"ID","path":"x"}`},

		"tool event_list":    {admin, `{}`},
		"tool sandbox_prune": {admin, `{"dry_run":true}`},
		"tool server_status": {admin, `{}`},
		"tool token_create":  {admin, `{"name":"new","scopes":"sandbox:read"}`},
		"tool token_list":    {admin, `{}`},
		"tool token_revoke":  {admin, `{"token":"nobody"}`},
	}
}

// inventory is all that the server has, as the operator is shown it.
func (p *premises) inventory(operator func() (sessions.Principal, error)) []string {
	p.t.Helper()
	var all []string
	for method, key := range map[string][3]string{
		"tools/list": {"tool", "tools", "name"}, "resources/list": {"resource", "resources", "uri"},
		"resources/templates/list": {"template", "resourceTemplates", "uriTemplate"}, "prompts/list": {"prompt", "prompts", "name"},
	} {
		var answer struct {
			Result map[string]json.RawMessage
		}
		text := p.ask(operator, method, "{}")
		if err := json.Unmarshal([]byte(text), &answer); err != nil {
			p.t.Fatalf("%s: %s: %v", method, text, err)
		}
		var list []map[string]any
		if answer.Result[key[1]] != nil {
			if err := json.Unmarshal(answer.Result[key[1]], &list); err != nil {
				p.t.Fatalf("%s: %s: %v", method, text, err)
			}
		}
		for _, item := range list {
			all = append(all, fmt.Sprintf("%s %v", key[0], item[key[2]]))
		}
	}
	slices.Sort(all)
	return all
}

// request is how a thing is asked for.
func (e entry) request(thing, id string) (method, params string) {
	kind, name, _ := strings.Cut(thing, " ")
	ask := strings.ReplaceAll(e.ask, "ID", id)
	switch kind {
	case "tool":
		return "tools/call", fmt.Sprintf(`{"name":%q,"arguments":%s}`, name, ask)
	case "prompt":
		return "prompts/get", fmt.Sprintf(`{"name":%q,"arguments":%s}`, name, ask)
	}
	return "resources/read", fmt.Sprintf(`{"uri":%q}`, ask)
}

// What an answer can say.
var (
	lacksScope = regexp.MustCompile(`needs the scope (sandbox:read|sandbox:write|admin), and you have`)
	notFound   = regexp.MustCompile(`does not exist or is not yours|was gone already`)
	broken     = regexp.MustCompile(`internal error|invalid|unknown argument`) // it was not asked for rightly
)

// TestAccess asks for everything there is, as everybody, about a sandbox of
// theirs, of another and of nobody.
func TestAccess(t *testing.T) {
	p := newPremises(t)
	const hour = time.Hour
	_, operator := p.token("operator", hour, sessions.ScopeAdmin)
	things := p.inventory(operator)
	if diff := slices.Compare(things, slices.Sorted(maps.Keys(entries()))); diff != 0 {
		t.Fatalf("there are\n%q\nand entries for\n%q", things, slices.Sorted(maps.Keys(entries())))
	}
	other, _ := p.token("other", hour, sessions.ScopeWrite)
	for _, role := range []struct {
		name   string
		scopes []sessions.Scope
		spoil  func(tok auth.Token)
	}{
		{"none", nil, nil},
		{"read", []sessions.Scope{sessions.ScopeRead}, nil},
		{"write", []sessions.Scope{sessions.ScopeWrite}, nil},
		{"admin", []sessions.Scope{sessions.ScopeAdmin}, nil},
		{"revoked", []sessions.Scope{sessions.ScopeAdmin}, func(tok auth.Token) { _, _ = p.tokens.Revoke(t.Context(), tok.ID) }},
		{"expired", []sessions.Scope{sessions.ScopeAdmin}, func(auth.Token) { p.now = p.now.Add(hour) }},
	} {
		tok, login := p.token(role.name, hour, role.scopes...)
		who, err := login()
		if err != nil {
			t.Fatal(err)
		}
		if role.spoil != nil {
			role.spoil(tok)
		}
		for _, thing := range things {
			t.Run(role.name+"/"+thing, func(t *testing.T) {
				e := entries()[thing]
				want := "reached"
				switch {
				case role.spoil != nil:
					want = "unauthenticated"
				case !who.May(e.scope):
					want = "needs the scope " + string(e.scope)
				}
				p.checkAccess(t, e, thing, login, who.Name, other.Principal().Name, want)
			})
		}
	}
}

// checkAccess asks for one thing about the three sandboxes.
func (p *premises) checkAccess(t *testing.T, e entry, thing string, login func() (sessions.Principal, error), owner, other, want string) {
	ask := func(id string) string {
		method, params := e.request(thing, id)
		params = strings.ReplaceAll(params, "DIR", p.dir)
		return strings.ReplaceAll(p.ask(login, method, params), id, "ID")
	}
	own, foreign, absent := ask(p.sandbox(owner)), ask(p.sandbox(other)), ask("sb-aaaaaaaaaaaaaaaaaaaa")
	got := own
	if want == "reached" && !lacksScope.MatchString(own) && !notFound.MatchString(own) && !broken.MatchString(own) && own != "unauthenticated" {
		got = "reached"
	}
	if !strings.Contains(got, want) {
		t.Errorf("own: %s; want %s", own, want)
	}
	if !strings.Contains(e.ask, "ID") {
		return
	}
	if foreign != absent {
		t.Errorf("foreign and absent differ:\n%s\n%s", foreign, absent)
	}
	if want != "reached" {
		if foreign != own {
			t.Errorf("foreign: %s; want as own: %s", foreign, own)
		}
	} else if !notFound.MatchString(foreign) {
		t.Errorf("foreign: %s; want not found", foreign)
	}
}

// Lists show what can be used and nothing else.
func TestListsShowWhatIsAllowed(t *testing.T) {
	p := newPremises(t)
	_, operator := p.token("operator", 0, sessions.ScopeAdmin)
	all := p.inventory(operator)
	for _, scope := range append(sessions.Scopes(), "") {
		var scopes []sessions.Scope
		if scope != "" {
			scopes = append(scopes, scope)
		}
		_, login := p.token("x"+strings.ReplaceAll(string(scope), ":", "."), 0, scopes...)
		who, err := login()
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, thing := range all {
			if who.May(entries()[thing].scope) {
				want = append(want, thing)
			}
		}
		if got := p.inventory(login); !slices.Equal(got, want) {
			t.Errorf("%q is shown\n%q\nwant\n%q", scope, got, want)
		}
	}
}

// Nobody may use a tool that says no scope, or one that is unknown.
func TestWithoutAScopeItIsForNobody(t *testing.T) {
	p := newPremises(t)
	p.server.Tools = append(p.server.Tools, tools.Tool{Name: "forgotten", Call: func(context.Context, json.RawMessage) tools.Result {
		t.Error("called")
		return tools.Result{}
	}})
	_, operator := p.token("operator", 0, sessions.ScopeAdmin)
	for _, tool := range []string{"forgotten", "unknown"} {
		if got := p.ask(operator, "tools/call", `{"name":"`+tool+`"}`); !strings.Contains(got, `tool \"`+tool+`\" not found`) || !strings.Contains(got, "-32602") {
			t.Errorf("%s: %s", tool, got)
		}
	}
	if got := p.ask(operator, "tasks/list", `{}`); !strings.Contains(got, "-32601") {
		t.Errorf("tasks/list: %s", got)
	}
	nobody := func() (sessions.Principal, error) { return sessions.Principal{Scopes: sessions.Scopes()}, nil }
	for _, method := range []string{"initialize", "tools/list", "ping"} {
		if got := p.ask(nobody, method, `{}`); !strings.Contains(got, "token is not valid") {
			t.Errorf("%s without a principal: %s", method, got)
		}
	}
}

// Every method that the MCP library serves is either in our table or known to
// be none of ours, so that a new version of it brings nothing unseen.
func TestEveryMethodIsConsidered(t *testing.T) {
	refused := []string{"tasks/get", "tasks/list", "tasks/result", "tasks/cancel", // not offered
		"elicitation/create", "roots/list", "sampling/createMessage"} // the client's
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.Dir}}", "github.com/mark3labs/mcp-go/mcp").Output()
	if err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "types.go"))
	if err != nil {
		t.Fatal(err)
	}
	p := newPremises(t)
	var n int
	for _, m := range regexp.MustCompile(`MCPMethod = "([^"]+)"`).FindAllStringSubmatch(string(src), -1) {
		if strings.HasPrefix(m[1], "notifications/") {
			continue
		}
		n++
		if need := mcpserver.NeedOf(p.server, m[1]); (need == "") != (slices.Contains(refused, m[1]) || m[1] == "tools/call") {
			t.Errorf("%s needs %q", m[1], need)
		}
	}
	if n < 20 {
		t.Errorf("only %d methods were found", n)
	}
}

// A revocation cancels what runs and refuses what comes.
func TestEndOfAPrincipal(t *testing.T) {
	f := start(t)
	done := make(chan []byte, 2)
	ctx := sessions.WithPrincipal(t.Context(), sessions.Principal{Name: "token:a/tok-1", Scopes: sessions.Scopes()})
	other := sessions.WithPrincipal(t.Context(), sessions.Principal{Name: "token:b/tok-2", Scopes: sessions.Scopes()})
	go func() { done <- mcpserver.Ask(ctx, f.Server, callLine("1", "block", `"a"`)) }()
	go func() { done <- mcpserver.Ask(other, f.Server, callLine("2", "block", `"b"`)) }()
	<-f.started
	<-f.started
	f.End("token:a/tok-1")
	if got := <-f.ended; got != `"a"` {
		t.Errorf("ended: %s", got)
	}
	if got := string(<-done); !strings.Contains(got, "cancelled: token is not valid") {
		t.Errorf("answer: %s", got)
	}
	if got := string(mcpserver.Ask(ctx, f.Server, callLine("3", "whoami", "{}"))); !strings.Contains(got, "token is not valid") {
		t.Errorf("afterwards: %s", got)
	}
	close(f.release)
	if got := string(<-done); !strings.Contains(got, "released") {
		t.Errorf("another's call: %s", got)
	}
}

// What runs ends with the token that it was asked with, and what is asked with
// another one of the same principal does not.
func TestEndOfAToken(t *testing.T) {
	f := start(t)
	done := make(chan []byte, 2)
	with := func(expires time.Time) context.Context {
		return sessions.WithPrincipal(t.Context(), sessions.Principal{Name: "oidc:a", Scopes: sessions.Scopes(), Expires: expires})
	}
	go func() {
		done <- mcpserver.Ask(with(time.Now().Add(time.Hour)), f.Server, callLine("1", "block", `"later"`))
	}()
	<-f.started
	go func() {
		done <- mcpserver.Ask(with(time.Now().Add(time.Second)), f.Server, callLine("2", "block", `"soon"`))
	}()
	<-f.started
	if got := <-f.ended; got != `"soon"` {
		t.Errorf("ended: %s", got)
	}
	if got := string(<-done); !strings.Contains(got, "token is not valid") {
		t.Errorf("answer: %s", got)
	}
	close(f.release)
	if got := string(<-done); !strings.Contains(got, "released") {
		t.Errorf("the other call: %s", got)
	}
}

// What is the operator's is neither shown to an agent nor done for it.
func TestOnlyAHelloMakesAnOperator(t *testing.T) {
	f := start(t, func(s *mcpserver.Server) {
		s.Tools = append(s.Tools, tools.Tool{Name: "token_list", Scope: sessions.ScopeAdmin, Call: func(context.Context, json.RawMessage) tools.Result {
			return tools.Result{Content: []tools.Content{{Text: "the tokens"}}}
		}})
	})
	list := `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`
	agent := f.dial(t)
	agent.send(list)
	if a := agent.answer(); strings.Contains(string(a.Result), "token_list") || !strings.Contains(string(a.Result), "block") {
		t.Errorf("an agent is shown %s", a.Result)
	}
	agent.send(callLine("2", "token_list", "{}"))
	agent.want("2", "token_list needs the scope admin, and you have sandbox:read sandbox:write")
	agent.send(mcpserver.Hello{Admin: true}.Line() + callLine("3", "token_list", "{}"))
	agent.wantError("null", mcp.PARSE_ERROR, "not valid JSON") // too late for a hello
	agent.want("3", "needs the scope admin")

	operator := f.dial(t)
	operator.send(mcpserver.Hello{Admin: true}.Line() + list)
	operator.want("1", "token_list")
	operator.send(callLine("2", "token_list", "{}"))
	operator.want("2", "the tokens")

	stranger := f.dial(t)
	stranger.send(`agentlab {"admin":true,"root":true}` + "\n" + list)
	stranger.wantError("null", mcp.INVALID_REQUEST, `unknown field "root"`)
	if rest, err := io.ReadAll(stranger.in); err != nil || len(rest) > 0 {
		t.Errorf("after a hello that is not understood: %q, %v", rest, err)
	}
}
