package tools_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// read reads a resource as a principal. {sb} is the sandbox, {home} its home.
func (e *env) read(who, uri string) tools.Result {
	e.t.Helper()
	uri = strings.NewReplacer("{sb}", e.sandbox, "{home}", e.home).Replace(uri)
	return e.resources.Read(as(e.t.Context(), who), uri)
}

func (e *env) wantResource(uri, mime string, want ...string) string {
	e.t.Helper()
	res := e.read("local:1", uri)
	if res.IsError {
		e.t.Fatalf("%s: %s", uri, textOf(res))
	}
	c := res.Content[0]
	if c.MIME != mime || res.Outcome != "ok" {
		e.t.Errorf("%s: MIME type %s, want %s; outcome %s", uri, c.MIME, mime, res.Outcome)
	}
	for _, w := range want {
		if !strings.Contains(c.Text, w) {
			e.t.Fatalf("%s: %q is not in\n%.500s", uri, w, c.Text)
		}
	}
	return c.Text
}

func TestListsAsResources(t *testing.T) {
	e := newEnv(t)
	e.wantResource("sandbox://sandboxes", "application/json", `"sandbox_id": "`+e.sandbox+`"`, `"expires_at"`)
	e.wantResource("SANDBOX://profiles", "application/json", `"name": "default"`, `"max_ttl_seconds": 86400`)
	if text := textOf(e.read("local:2", "sandbox://sandboxes")); text != "{\n  \"sandboxes\": []\n}" {
		t.Errorf("another principal has %s", text)
	}
}

const plainText = "text/plain; charset=utf-8"

func TestFilesAsResources(t *testing.T) {
	e := newEnv(t)
	e.write("a.txt", "hello\n")
	e.write("ä b%20?q#f.txt", "odd\n")
	e.write("empty", "")
	e.write("page", "<!DOCTYPE html><p>")
	e.write("image", "\x89PNG\x0d\x0a\x1a\x0a")
	e.write("binary", "\x00\x01")
	e.write("late", strings.Repeat("x", 9000)+"\xff")
	check(t, os.Mkdir(filepath.Join(e.home, "dir"), 0o755))
	e.write("dir/inner", "")
	for _, tt := range []struct{ uri, mime, want string }{
		{"sandbox://{sb}/files{home}/a.txt", plainText, "hello\n"},
		{"sandbox://{sb}/files{home}/%61.txt", plainText, "hello\n"},
		{"sandbox://{sb}/files{home}/dir/../a.txt", plainText, "hello\n"},
		{"sandbox://{sb}/files{home}/dir%2f..%2Fa.txt", plainText, "hello\n"},
		{"sandbox://{sb}/files//{home}//a.txt", plainText, "hello\n"},
		{"sandbox://{sb}/files{home}/%C3%A4%20b%2520%3Fq%23f.txt", plainText, "odd\n"},
		{"sandbox://{sb}/files{home}/ä b%2520?q#f.txt", plainText, "odd\n"},
		{"sandbox://{sb}/files{home}/empty", plainText, ""},
		{"sandbox://{sb}/files{home}/page", "text/html; charset=utf-8", "<p>"},
		{"sandbox://{sb}/files{home}/image", "image/png", ""},
		{"sandbox://{sb}/files{home}/binary", "application/octet-stream", ""},
		{"sandbox://{sb}/files{home}/late", "application/octet-stream", ""},
		{"sandbox://{sb}/files{home}", "inode/directory", "a.txt\n"},
		{"sandbox://{sb}/files", "inode/directory", "a.txt\n"},
		{"sandbox://{sb}/files{home}/dir/", "inode/directory", "dir/inner\n"},
		{"sandbox://{sb}/files/", "inode/directory", " /usr\n"},
		{"sandbox://{sb}/files/../../../..", "inode/directory", "/usr\n"},
	} {
		t.Run(tt.uri, func(t *testing.T) {
			e.t = t
			e.wantResource(tt.uri, tt.mime, tt.want)
		})
	}
	e.t = t
	if c := e.read("local:1", "sandbox://{sb}/files{home}/late").Content[0]; len(c.Data) != 9001 || c.Text != "" {
		t.Errorf("blob of %d bytes, text %q", len(c.Data), c.Text)
	}
}

// What is wrong is said with what to do, and never shows more than the caller has.
func TestErrorsOfResources(t *testing.T) {
	e := newEnv(t)
	e.write("a.txt", "hello\n")
	check(t, os.WriteFile(filepath.Join(e.home, "huge"), make([]byte, 5<<20+1), 0o644))
	for _, tt := range []struct{ uri, outcome, want string }{
		{"sandbox://{sb}/files{home}/a.tx", "not_found", "a.txt"},
		{"sandbox://{sb}/files{home}/a.txt?x=1", "not_found", "does not exist"},
		{"sandbox://{sb}/files{home}/a.txt/b", "invalid", "is a file"},
		{"sandbox://{sb}/files{home}/huge", "invalid", "5,242,881 bytes, a resource at most 5,242,880; the tool read_file"},
		{"sandbox://{sb}/files/dev/zero", "invalid", "exec"},
		{"sandbox://{sb}/files/%zz", "invalid", "write % as %25"},
		{"sandbox://{sb}/files/a%00b", "invalid", "NUL"},
		{"sandbox://{sb}/files/" + strings.Repeat("x", 4095), "invalid", "at most 4,095"},
		{"sandbox://{sb}/files/" + strings.Repeat("x", 1<<20), "not_found", "there is no resource"},
		{"sandbox://" + strings.Repeat("x", 101) + "/files/", "invalid", "at most 100"},
		{"sandbox://{sb}/filesystem", "not_found", "there is no resource"},
		{"sandbox://{sb}/processes/p_9/log", "not_found", `no process "p_9"`},
		{"sandbox://{sb}/processes/p_9/log/x", "not_found", "there is no resource"},
		{"sandbox://{sb}/processes/p_9", "not_found", "there is no resource"},
		{"sandbox://{sb}/processes/a%2Fb/log", "not_found", "no process"},
		{"sandbox://sandboxes/", "not_found", "there is no resource"},
		{"sandbox://sandboxes?x", "not_found", "there is no resource"},
		{"sandbox:///files/etc/passwd", "invalid", "ids begin with sb-"},
		{"sandbox://sb-none/files/etc/passwd", "not_found", "does not exist or is not yours"},
		{"sandbox://u:p@{sb}:80/files/etc/passwd", "invalid", "ids begin with sb-"},
		{"file:///etc/passwd", "not_found", "there is no resource"},
		{"sandbox", "not_found", "there is no resource"},
		{"", "not_found", "there is no resource"},
	} {
		t.Run(fmt.Sprintf("%.60q", tt.uri), func(t *testing.T) {
			res := e.read("local:1", tt.uri)
			if !res.IsError || res.Outcome != tt.outcome || !strings.Contains(textOf(res), tt.want) || len(textOf(res)) > 10000 {
				t.Errorf("%v %s: %.500s; want %s: %s", res.IsError, res.Outcome, textOf(res), tt.outcome, tt.want)
			}
		})
	}
}

// A sandbox of another's reads as one that never was.
func TestForeignResources(t *testing.T) {
	e := newEnv(t)
	e.write("a.txt", "hello\n")
	e.call("exec", args{"command": "echo secret"})
	for _, uri := range []string{"sandbox://{sb}/files{home}/a.txt", "sandbox://{sb}/files{home}/none", "sandbox://{sb}/files", "sandbox://{sb}/processes/p_1/log"} {
		foreign := e.read("local:2", uri)
		absent := e.read("local:2", strings.ReplaceAll(uri, "{sb}", "sb-none"))
		if got := strings.ReplaceAll(textOf(foreign), e.sandbox, "sb-none"); !foreign.IsError || got != textOf(absent) {
			t.Errorf("%s: foreign %q, absent %q", uri, textOf(foreign), textOf(absent))
		}
	}
}

func TestProcessLogAsResource(t *testing.T) {
	e := newEnv(t)
	e.call("exec", args{"command": "echo out; echo err >&2; printf '\\033[1mbold\\033[0m\\n'"})
	e.wantResource("sandbox://{sb}/processes/p_1/log", plainText, "out\n", "err\n", "bold\n")
	e.call("exec", args{"command": "echo one; read x; echo two", "wait_seconds": 0})
	e.wantText("read_process", args{"process_id": "p_2", "until": "one"}, "one\n")
	e.wantText("control_process", args{"process_id": "p_2", "stdin": "\n", "close_stdin": true})
	for !strings.Contains(e.wantResource("sandbox://{sb}/processes/p_2/log", plainText, "one\n"), "two") {
		continue
	}
	e.wantText("read_process", args{"process_id": "p_2"}, "two\n") // the agent has missed nothing

	cut, err := json.Marshal(e.call("exec", args{"command": "seq 300000"}).Meta)
	check(t, err)
	if !strings.Contains(string(cut), `"log_uri":"sandbox://`+e.sandbox+`/processes/p_3/log"`) {
		t.Errorf("metadata %s", cut)
	}
	text := e.wantResource("sandbox://{sb}/processes/p_3/log", plainText, "\n300000\n", "bytes omitted", `read_process(process_id="p_3", offset=0)`)
	first, rest, _ := strings.Cut(text, "\n")
	if len(text) > 1<<20+300 || !strings.HasPrefix(first, "[… ") {
		t.Errorf("%d bytes, first line %q", len(text), first)
	}
	var line int
	if _, err := fmt.Sscan(rest, &line); err != nil || line <= 100000 {
		t.Errorf("first number %d, error %v", line, err)
	}
	var omitted int
	if _, err := fmt.Sscanf(strings.ReplaceAll(first, ",", ""), "[… %d bytes", &omitted); err != nil {
		t.Fatal(err)
	}
	if _, kept, _ := strings.Cut(text, "\n"); omitted+len(kept) != 1988895 {
		t.Errorf("%d bytes omitted and %d shown are not all", omitted, len(kept))
	}
}

// While nothing can be opened, what is wrong is said, and the table is there.
func TestResourcesOfBrokenInstallation(t *testing.T) {
	r := tools.AllResources(func(context.Context) (*sessions.Manager, error) { return nil, errors.New("config.yaml: line 3") }, slog.New(slog.DiscardHandler))
	res := r.Read(as(t.Context(), "local:1"), "sandbox://sandboxes")
	if !res.IsError || res.Outcome != "unavailable" || !strings.Contains(textOf(res), "line 3") {
		t.Errorf("%+v", res)
	}
	for _, res := range r.Table {
		if res.Scope != sessions.ScopeRead || res.Name == "" || res.Title == "" || res.Description == "" {
			t.Errorf("%+v", res)
		}
	}
}

// FuzzResourceURI reads whatever URI as somebody who has nothing, and as the
// owner what every path expands to.
func FuzzResourceURI(f *testing.F) {
	for _, uri := range []string{
		"sandbox://sandboxes", "sandbox://{sb}/files/etc/passwd", "sandbox://{sb}/files/%2e%2e/%00", "sandbox://{sb}/processes/p_1/log",
		"SANDBOX://{sb}/files?%", "sandbox://%73b/files", "file:///etc/passwd", "sandbox://{sb}/files/\xff#", "sandbox://{sb}/processes/p_1/log%2f",
	} {
		f.Add(uri)
	}
	e := newEnv(f)
	e.write("secret", "mine")
	e.call("exec", args{"command": "echo secret"})
	f.Fuzz(func(t *testing.T, uri string) {
		e.t = t
		uri = strings.ReplaceAll(uri, "{sb}", e.sandbox)
		res := e.resources.Read(as(t.Context(), "local:2"), uri)
		whole, err := json.Marshal(res)
		check(t, err)
		public := strings.EqualFold(uri, "sandbox://sandboxes") || strings.EqualFold(uri, "sandbox://profiles")
		if !res.IsError && !public || len(whole) > 20000 {
			t.Errorf("%q gives a stranger %.200s", uri, whole)
		}
		name := filepath.Join(e.home, url.PathEscape(uri[:min(len(uri), 50)]))
		check(t, os.WriteFile(name, []byte("x"), 0o644))
		defer os.Remove(name)
		if mine := e.read("local:1", "sandbox://{sb}/files"+(&url.URL{Path: name}).EscapedPath()); mine.IsError || textOf(mine) != "x" {
			t.Errorf("file %q: %+v", name, mine)
		}
	})
}
