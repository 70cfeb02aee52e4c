package tools_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

func TestPrompts(t *testing.T) {
	prompts := map[string]tools.Prompt{}
	for _, p := range tools.AllPrompts(slog.New(slog.DiscardHandler)) {
		prompts[p.Name] = p
		if p.Scope != sessions.ScopeRead || p.Title == "" || p.Description == "" {
			t.Errorf("%+v", p)
		}
	}
	for _, tt := range []struct {
		prompt string
		args   map[string]string
		want   string
		wrong  bool
	}{
		{"run_in_sandbox", map[string]string{"task": "count the stars"}, "count the stars", false},
		{"run_in_sandbox", map[string]string{"task": "x", "profile": "web"}, `profile "web"`, false},
		{"run_in_sandbox", nil, "task: is required", true},
		{"run_in_sandbox", map[string]string{"task": " \n"}, "task: is empty", true},
		{"run_in_sandbox", map[string]string{"task": "x", "profil": "web"}, "did you mean profile?", true},
		{"run_in_sandbox", map[string]string{"task": strings.Repeat("x", 100001)}, "at most 100,000", true},
		{"reproduce_bug", map[string]string{"repo_url": "https://host/o/n", "issue": "#12"}, "Repository: https://host/o/n\n<issue>\n#12\n", false},
		{"reproduce_bug", map[string]string{"repo_url": "git@host:o/n.git", "issue": "it crashes"}, "git@host:o/n.git", false},
		{"reproduce_bug", map[string]string{"repo_url": "https://host/o/n"}, "issue: is required", true},
		{"reproduce_bug", map[string]string{"repo_url": "https://host/o/n", "issue": " "}, "issue: is empty", true},
		{"reproduce_bug", map[string]string{"repo_url": "--upload-pack=x", "issue": "1"}, "repo_url: \"--upload-pack=x\" is not an address", true},
		{"reproduce_bug", map[string]string{"repo_url": "ext::sh -c x", "issue": "1"}, "is not an address", true},
		{"reproduce_bug", map[string]string{"repo_url": "https://host/a b", "issue": "1"}, "is not an address", true},
		{"reproduce_bug", map[string]string{"repo_url": "file:///etc", "issue": "1"}, "is not an address", true},
		{"clean_up_sandboxes", nil, "list_sandboxes", false},
		{"clean_up_sandboxes", map[string]string{"x": "1"}, "is not an argument", true},
	} {
		res := prompts[tt.prompt].Get(t.Context(), tt.args)
		if res.IsError != tt.wrong || !strings.Contains(textOf(res), tt.want) || tt.wrong && res.Outcome != "invalid" {
			t.Errorf("%s %.60v: error %v %s %.300s; want error %v, %q", tt.prompt, tt.args, res.IsError, res.Outcome, textOf(res), tt.wrong, tt.want)
		}
	}
}

// Clients cut instructions that are longer, whatever the profiles are.
func TestInstructionsFit(t *testing.T) {
	web := sessions.Profile{Name: strings.Repeat("w", 40), Network: "allowlist"}.WithDefaults()
	for _, tt := range []struct {
		profiles []sessions.Profile
		want     string
	}{
		{nil, "what the profile says"},
		{sessions.BuiltinProfiles(), "A sandbox has no network"},
		{append(sessions.BuiltinProfiles(), web), "(default none, " + web.Name + " allowlist)"},
		{[]sessions.Profile{web, web, web, web, web}, web.Name},
		{[]sessions.Profile{web, web, web, web, web, web}, "(see create_sandbox)"},
	} {
		text := tools.Instructions(tt.profiles)
		if n := utf8.RuneCountInString(text); n > 1500 || !strings.Contains(text, tt.want) {
			t.Errorf("%d profiles: %d characters, want at most 1500 and %q in\n%s", len(tt.profiles), n, tt.want, text)
		}
	}
}

func TestCompletion(t *testing.T) {
	e := newEnv(t)
	e.write("apple", "")
	e.write("a%b c", "")
	e.write("b", "")
	propose := func(who, variable, typed, sandbox string) ([]string, int) {
		return e.completer.Complete(as(t.Context(), who), variable, typed, map[string]string{"sandbox_id": sandbox})
	}
	if values, total := propose("local:1", "path", "/", e.sandbox); len(values) != 0 || total != 0 {
		t.Errorf("a sandbox that nobody has used was woken: %q", values)
	}
	e.call("exec", args{"command": "true"})
	e.call("exec", args{"command": "true"})
	sb, home := e.sandbox, e.home
	for _, tt := range []struct {
		who, variable, typed, sandbox, want string
	}{
		{"local:1", "sandbox_id", "", "", sb},
		{"local:1", "sandbox_id", "sb-", "", sb},
		{"local:1", "sandbox_id", "x", "", ""},
		{"local:2", "sandbox_id", "", "", ""},
		{"local:1", "profile", "def", "", "default"},
		{"local:1", "profile", "x", "", ""},
		{"local:1", "process_id", "p_", sb, "p_2 p_1"},
		{"local:1", "process_id", "", "", ""},
		{"local:2", "process_id", "", sb, ""},
		{"local:1", "path", home + "/a", sb, home + "/a%25b c " + home + "/apple"},
		{"local:1", "path", home + "/a%25", sb, home + "/a%25b c"},
		{"local:1", "path", home[:len(home)-1], sb, home + "/"},
		{"local:1", "path", home + "/*", sb, ""},
		{"local:1", "path", "relative", sb, ""},
		{"local:1", "path", "/%", sb, ""},
		{"local:1", "path", "/none/", sb, ""},
		{"local:2", "path", home + "/", sb, ""},
		{"local:1", "task", "", "", ""},
	} {
		values, total := propose(tt.who, tt.variable, tt.typed, tt.sandbox)
		if got := strings.Join(values, " "); got != tt.want || total != len(values) {
			t.Errorf("%s types %q for %s: %q of %d, want %q", tt.who, tt.typed, tt.variable, got, total, tt.want)
		}
	}
	if values, _ := propose("local:1", "path", "", sb); len(values) != 3 {
		t.Errorf("before anything was typed: %q", values)
	}
	for i := range 120 {
		e.write(fmt.Sprintf("many%d", i), "")
	}
	if values, total := propose("local:1", "path", home+"/many", sb); len(values) != 100 || total != 120 {
		t.Errorf("%d values of %d, want 100 of 120", len(values), total)
	}
}
