package tools_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/agentlab-mcp/agentlab/internal/terminal"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// metaOf returns what programs are told of a result.
func metaOf(t *testing.T, res tools.Result) map[string]any {
	t.Helper()
	text, err := json.Marshal(res.Meta)
	check(t, err)
	var m map[string]any
	check(t, json.Unmarshal(text, &m))
	return m
}

func TestExec(t *testing.T) {
	e := newEnv(t)
	for _, tt := range []struct {
		name string
		args args
		want []string
	}{
		{"success", args{"command": "echo hi"}, []string{"exit_code: 0 · ", "\nhi\n"}},
		{"failure-is-a-result", args{"command": "echo out; echo err >&2; exit 3"}, []string{"exit_code: 3 · ", "\nout\n--- stderr ---\nerr\n"}},
		{"no-newline", args{"command": "printf a; printf b >&2"}, []string{"\na\n--- stderr ---\nb"}},
		{"killed", args{"command": "kill -9 $$"}, []string{"exit_code: 137 · killed by signal KILL"}},
		{"timeout", args{"command": "sleep 60", "timeout_seconds": 1}, []string{"killed: timeout_seconds was over"}},
		{"home", args{"command": "pwd"}, []string{e.home}},
		{"workdir", args{"command": "pwd", "workdir": "/tmp"}, []string{"\n/tmp\n"}},
		{"env", args{"command": `printf %s "$A"`, "env": args{"A": "x'\"\ny"}}, []string{"x'\"\ny"}},
		{"stdin", args{"command": "wc -c", "stdin": "12345"}, []string{"\n5\n"}},
		{"stdin-is-closed", args{"command": "cat"}, []string{"exit_code: 0"}},
		{"colours", args{"command": `printf '\033[31mred\033[0m 1%%\r2%%\n\377'`}, []string{"\n2%\n\uFFFD"}},
		{"quoted-numbers", args{"command": "true", "wait_seconds": "5", "timeout_seconds": 7.0}, []string{"exit_code: 0"}},
	} {
		t.Run(tt.name, func(t *testing.T) { e.wantText("exec", tt.args, tt.want...) })
	}
}

func TestBadCallsOfExec(t *testing.T) {
	e := newEnv(t)
	for _, tt := range []struct {
		name string
		args args
		want []string
	}{
		{"unknown-sandbox", args{"sandbox_id": "sb-nope", "command": "true"}, []string{"does not exist or is not yours"}},
		{"missing-command", args{}, []string{"command: is required"}},
		{"several", args{"comand": "x", "wait_seconds": 99, "env": 5}, []string{"command: is required", `"comand" is not an argument; did you mean command?`, "99 is out of range (allowed: 0 to 55)", "env: must be an object"}},
		{"long-command", args{"command": strings.Repeat("x", 200_000)}, []string{"command: has 200,000 bytes, at most 100,000 are allowed; put it in a file"}},
		{"nul-command", args{"command": "a\x00b"}, []string{"command: must not contain a NUL"}},
		{"env-name", args{"command": "true", "env": args{"A B": "x"}}, []string{`"A B" is not a name`}},
		{"nul-env", args{"command": "true", "env": args{"A": "\x00"}}, []string{"NUL"}},
		{"workdir", args{"command": "true", "workdir": "/nope"}, []string{"workdir: /nope does not exist or is not a directory"}},
		{"user", args{"command": "true", "user": "nosuchuser"}, []string{`no user "nosuchuser"`}},
	} {
		t.Run(tt.name, func(t *testing.T) { e.wantError("exec", tt.args, tt.want...) })
	}
}

// 30 MB of output are 30,000 characters of it, and the marker tells the truth
// of where the rest is.
func TestMuchOutput(t *testing.T) {
	e := newEnv(t)
	res := e.call("exec", args{"command": "seq -f %09.0f 3000000; echo oops >&2"})
	text := textOf(res)
	if n := utf8.RuneCountInString(text); n > 30000 || n < 25000 {
		t.Errorf("%d characters", n)
	}
	m := regexp.MustCompile(`(\d{9})\n\[… ([\d,]+) bytes omitted. Full output: read_process\(process_id="(p_\d+)", offset=(\d+)\).*…\]\n(\d{9})\n`).FindStringSubmatch(text)
	if m == nil {
		i := strings.Index(text, "[…")
		t.Fatalf("no marker as wanted in\n%s … %s", text[:100], text[max(0, i-100):][:300])
	}
	number := func(s string) int {
		n, err := strconv.Atoi(strings.ReplaceAll(s, ",", ""))
		check(t, err)
		return n
	}
	before, omitted, offset, after := number(m[1]), number(m[2]), number(m[4]), number(m[5])
	if offset != before*10 || omitted != (after-1-before)*10 {
		t.Errorf("marker %s after line %d and before line %d", m[0], before, after)
	}
	if !strings.HasSuffix(text, "003000000\n--- stderr ---\noops\n") {
		t.Errorf("ends with %q", text[len(text)-60:])
	}
	meta := metaOf(t, res)
	if meta["truncated"] != true || meta["stdout_bytes"] != 30e6 || meta["exit_code"] != 0.0 {
		t.Errorf("meta %v", meta)
	}
	e.wantText("read_process", args{"process_id": m[3], "offset": offset, "max_output_chars": 1000},
		fmt.Sprintf("\n%09d\n", before+1), "next_offset: ")
}

func TestBackgroundProcess(t *testing.T) {
	e := newEnv(t)
	res := e.call("exec", args{"command": `echo ready; while read x; do echo "got $x"; done; echo bye; exit 4`, "wait_seconds": 0})
	id := metaOf(t, res)["process_id"].(string)
	if text := textOf(res); !strings.HasPrefix(text, "running in the background · process_id: "+id+" · use read_process") {
		t.Errorf("line 1: %s", text)
	}
	e.wantText("read_process", args{"process_id": id, "until": "read."}, "running · ", "until matched", "\nready\n")
	e.wantText("control_process", args{"process_id": id, "stdin": "é\n"}, "3 bytes written to stdin · running")
	e.wantText("read_process", args{"process_id": id, "until": "got"}, "\ngot é\n")
	list, err := json.Marshal(e.call("list_sandboxes", args{}).Structured)
	if check(t, err); !strings.Contains(string(list), `"process_id":"`+id+`"`) || !strings.Contains(string(list), `"state":"running"`) {
		t.Errorf("list %s", list)
	}
	e.wantText("control_process", args{"process_id": id, "close_stdin": true}, "stdin closed")
	e.wantText("read_process", args{"process_id": id, "until": "never"}, "bye", "until did not match", "exit_code: 4") // its end ends the wait
	e.wantText("read_process", args{"process_id": id, "offset": -4}, "exit_code: 4", "\nbye\n")
	e.wantText("read_process", args{"process_id": id, "offset": 0}, "\nready\ngot é\nbye\n")
	e.wantText("read_process", args{"process_id": id}, "nothing new; offset=0 reads from the start")
	e.wantText("read_process", args{"process_id": id, "offset": 1000}, "next_offset: 17 · offset=1000 is past the end")
	e.wantError("control_process", args{"process_id": id, "signal": "term"}, "has ended (exit_code: 4)")
	e.wantError("control_process", args{"process_id": id}, "nothing to do")
	e.wantError("read_process", args{"process_id": "p_99"}, `no process "p_99"`, id+" (exited 4)")
	e.wantError("read_process", args{"process_id": id, "until": "("}, "until: not a regular expression", "missing closing )")
}

// What runs is listed however many processes came after it.
func TestListOfManyProcesses(t *testing.T) {
	e := newEnv(t)
	e.wantText("exec", args{"command": "sleep 100", "wait_seconds": 0}, "process_id: p_1 ")
	for range 12 {
		e.wantText("exec", args{"command": "exit 7"}, "exit_code: 7")
	}
	e.wantError("read_process", args{"process_id": "p_99"}, "p_1 (running), p_4 (exited 7), p_5")
	text := e.wantText("list_sandboxes", args{"sandbox_id": e.sandbox}, "\np_1 running · sleep 100\np_4 exited 7 · exit 7\n", "\np_13 exited 7")
	if strings.Contains(text, "p_3 ") {
		t.Errorf("more than the last processes:\n%s", text)
	}
}

// Reading on from where one stopped never parts a rune, however small the pieces.
func TestReadProcessKeepsRunesWhole(t *testing.T) {
	e := newEnv(t)
	want := strings.Repeat("日本", 1500)
	res := e.call("exec", args{"command": "printf '日本%.0s' $(seq 1500)"})
	id := metaOf(t, res)["process_id"].(string)
	for _, explicit := range []bool{true, false} {
		got, next := "", any(0)
		for len(got) < len(want) {
			a := args{"process_id": id, "max_output_chars": 1000}
			if explicit || got == "" {
				a["offset"] = next
			}
			res := e.call("read_process", a)
			_, piece, _ := strings.Cut(textOf(res), "\n")
			if piece == "" {
				t.Fatalf("explicit=%t: nothing after %d bytes: %s", explicit, len(got), textOf(res))
			}
			got += piece
			next = metaOf(t, res)["next_offset"]
		}
		if got != want {
			t.Errorf("explicit=%t: pieces differ from the whole; damaged: %t", explicit, strings.Contains(got, "\uFFFD"))
		}
	}
}

func TestCancelledExecKillsItsProcess(t *testing.T) {
	e := newEnv(t)
	ctx, cancel := context.WithCancel(as(t.Context(), "local:1"))
	raw := fmt.Sprintf(`{"sandbox_id":%q,"command":"echo $$ > pid; mkfifo p; cat p","timeout_seconds":100}`, e.sandbox)
	done := make(chan tools.Result, 1)
	go func() { done <- e.tools["exec"].Call(ctx, json.RawMessage(raw)) }()
	e.wantText("exec", args{"command": "until test -p p; do sleep 0.01; done"}, "exit_code: 0")
	cancel()
	if res := <-done; !res.IsError {
		t.Errorf("result %s", textOf(res))
	}
	e.wantText("exec", args{"command": "while kill -0 $(cat pid) 2>/dev/null; do sleep 0.01; done"}, "exit_code: 0")
}

// held takes nothing until the command is being ended.
type held struct {
	wrote  chan struct{}
	ending chan struct{}
}

func (h *held) Write([]byte) (int, error) {
	close(h.wrote)
	<-h.ending
	return 0, io.ErrClosedPipe
}

func TestTerminalEndsWithItsSandbox(t *testing.T) {
	e := newEnv(t)
	h := &held{make(chan struct{}), make(chan struct{})}
	done := make(chan *terminal.Failure, 1)
	go func() {
		_, failed := e.terminals.Run(as(t.Context(), "local:1"), terminal.Request{Sandbox: e.sandbox, Command: "yes"},
			tools.TerminalStreams{Stdout: h, Ending: func() { close(h.ending) }})
		done <- failed
	}()
	<-h.wrote
	e.call("destroy", args{})
	if failed := <-done; failed == nil || !strings.Contains(failed.Text, "destroyed by its owner") {
		t.Errorf("it ended with %+v", failed)
	}
}

func TestLifecycle(t *testing.T) {
	e := newEnv(t)
	e.sandbox = ""
	e.wantError("create_sandbox", args{"ttl_seconds": "1h"}, `ttl_seconds: "1h" is not a whole number (allowed: 60 to 86400); for 1h give 3600`)
	e.wantError("create_sandbox", args{"profile": "nope"}, `"nope" is not one of default`)
	e.wantError("create_sandbox", args{"name": "Ä"}, "name")
	first := e.call("create_sandbox", args{"name": "a", "ttl_seconds": "120", "cpu": nil})
	again := e.call("create_sandbox", args{"name": "a"})
	if first.Sandbox != again.Sandbox || !strings.Contains(fmt.Sprintf("%+v", again.Structured), "Existing:true") {
		t.Errorf("first %+v, again %+v", first.Structured, again.Structured)
	}
	id := first.Sandbox
	e.wantText("extend_ttl", args{"sandbox_id": id, "ttl_seconds": 600}, "lives until")
	e.wantText("list_sandboxes", args{}, "2 sandboxes\n", id+" is ready until", "profile default · name a")
	e.wantText("list_sandboxes", args{"sandbox_id": id}, "1 sandbox\n"+id+" is ready")
	for _, tool := range []string{"exec", "extend_ttl", "stop_sandbox", "start_sandbox", "resize_sandbox", "list_sandboxes", "read_file"} { // another's
		raw := fmt.Sprintf(`{"sandbox_id":%q}`, id)
		switch tool {
		case "exec":
			raw = fmt.Sprintf(`{"sandbox_id":%q,"command":"true"}`, id)
		case "read_file":
			raw = fmt.Sprintf(`{"sandbox_id":%q,"path":"x"}`, id)
		}
		theirs := textOf(e.tools[tool].Call(as(t.Context(), "local:2"), json.RawMessage(raw)))
		const none = "sb-aaaaaaaaaaaaaaaaaaaa"
		unknown := textOf(e.tools[tool].Call(as(t.Context(), "local:2"), json.RawMessage(strings.ReplaceAll(raw, id, none))))
		if strings.ReplaceAll(theirs, id, none) != unknown {
			t.Errorf("%s tells another's sandbox from an unknown one:\n%s\n%s", tool, theirs, unknown)
		}
	}
	e.wantText("destroy", args{"sandbox_id": id}, "is destroyed")
	e.wantText("destroy", args{"sandbox_id": id}, "gone already")
	e.wantText("destroy", args{"sandbox_id": "sb-nope"}, "gone already")
	e.wantError("exec", args{"sandbox_id": id, "command": "true"}, id)
}

func TestWriteFile(t *testing.T) {
	e := newEnv(t)
	e.wantText("write_file", args{"path": "new/dir/f", "content": "a\x00ü"}, "4 bytes written to "+e.home+"/new/dir/f")
	e.wantText("write_file", args{"path": "~/new/dir/f", "content": base64.StdEncoding.EncodeToString([]byte{0xff}), "encoding": "base64", "append": true}, "1 byte written")
	if got := e.file("new/dir/f"); got != "a\x00ü\xff" {
		t.Errorf("file %q", got)
	}
	e.call("write_file", args{"path": "x", "content": "", "mode": "0750"})
	e.wantText("exec", args{"command": "stat -c %a x"}, "750")
	e.wantError("write_file", args{"path": "new", "content": "x"}, "new is a directory")
	e.wantError("write_file", args{"path": "x/y", "content": "x"}, "a part of this path is a file")
	e.wantError("write_file", args{"path": "a\x00b", "content": "x"}, "path: must not contain a NUL")
	e.wantError("write_file", args{"path": "x", "content": "?", "encoding": "base64"}, "content: not base64")
	e.wantError("write_file", args{"path": "x", "content": "", "mode": "999"}, "not an octal number")
	e.wantError("write_file", args{"path": "x", "content": strings.Repeat("x", 5<<20+1)}, "at most 5,242,880 are allowed")
}

func TestEditFile(t *testing.T) {
	e := newEnv(t)
	e.write("f", "one\ntwo\nthree\nfour\nfive\nsix\nseven\ntwo\n\ttwo more\n")
	e.wantError("edit_file", args{"path": "f", "old_string": "two", "new_string": "2"}, "occurs 3 times", "(lines 2, 8, 9)", "replace_all=true")
	e.wantError("edit_file", args{"path": "f", "old_string": "    two more", "new_string": "2"}, "is not in", "Nearest is line 9")
	e.wantError("edit_file", args{"path": "f", "old_string": "", "new_string": "2"}, "old_string is empty")
	e.wantError("edit_file", args{"path": "g", "old_string": "a", "new_string": "2"}, "/g does not exist", "near it there is", "/f")
	e.wantText("edit_file", args{"path": "f", "old_string": "four\n", "new_string": "4\n4b\n"},
		"1 replacement in", "@@ line 1 @@\n one\n two\n three\n-four\n+4\n+4b\n five\n six\n seven\n")
	e.wantText("edit_file", args{"path": "f", "old_string": "two", "new_string": "2", "replace_all": "true"}, "3 replacements")
	if got, want := e.file("f"), "one\n2\nthree\n4\n4b\nfive\nsix\nseven\n2\n\t2 more\n"; got != want {
		t.Errorf("file %q, want %q", got, want)
	}
	e.write("crlf", "a\r\nb\r\nc\r\n")
	e.call("edit_file", args{"path": "crlf", "old_string": "a\nb", "new_string": "x\ny"})
	if got := e.file("crlf"); got != "x\r\ny\r\nc\r\n" {
		t.Errorf("file with CRLF %q", got)
	}
	e.write("big", strings.Repeat("x", 5<<20+1))
	e.wantError("edit_file", args{"path": "big", "old_string": "x", "new_string": "y"}, "larger than 5 MiB")
}

// A change by another between reading and writing is not lost.
func TestEditOfAFileThatChangesMeanwhile(t *testing.T) {
	e := newEnv(t)
	e.write("f", "one\n")
	e.conn.beforeWrite = func() { e.write("f", "another's\n") }
	e.wantError("edit_file", args{"path": "f", "old_string": "one", "new_string": "two"}, "changed meanwhile; read it again")
	if got := e.file("f"); got != "another's\n" {
		t.Errorf("file %q", got)
	}
}

func TestListFiles(t *testing.T) {
	e := newEnv(t)
	e.wantText("exec", args{"command": `mkdir -p d/e; touch b.go d/c.go d/e/d.go; ln -s b.go l; touch $'n\nl' $'\xff'`}, "exit_code: 0")
	text := e.wantText("list_files", args{}, "- 0 ", e.home+"/b.go", "d ", " -> b.go", `/n\nl"`, `/\xff"`)
	if strings.Contains(text, "c.go") {
		t.Errorf("depth 1 shows\n%s", text)
	}
	e.wantText("list_files", args{"pattern": "**/*.go"}, "/b.go", "/d/c.go", "/d/e/d.go")
	e.wantText("list_files", args{"limit": 2}, "[2 of 5; narrow pattern or raise limit]")
	e.wantText("list_files", args{"path": "d/e", "pattern": "x*"}, "[nothing]")
	e.wantError("list_files", args{"path": "nope"}, "/nope does not exist")
	e.wantError("list_files", args{"pattern": "["}, `pattern: "[" is not a glob`)
}

// While the configuration is broken the tools are listed, and each call says
// what is wrong.
func TestBrokenSource(t *testing.T) {
	open := func(context.Context) (*sessions.Manager, error) {
		return nil, errors.New("config.yaml: unknown key memroy")
	}
	for _, tool := range tools.All(open, nil, slog.New(slog.DiscardHandler)) {
		res := tool.Call(as(t.Context(), "local:1"), json.RawMessage(`{}`))
		if !res.IsError || !strings.Contains(textOf(res), "unknown key memroy") {
			t.Errorf("%s: %s", tool.Name, textOf(res))
		}
	}
}

// Whom commands run as is the profile's to say.
func TestSandboxTellsItsUser(t *testing.T) {
	e := newEnv(t)
	text, err := json.Marshal(e.call("list_sandboxes", args{}).Structured)
	check(t, err)
	if !strings.Contains(string(text), `"user":"agent"`) {
		t.Errorf("list_sandboxes: %s, want the user agent", text)
	}
}

// Once it is mended the profiles that it has now hold, not those of the start.
func TestMendedSource(t *testing.T) {
	big := sessions.BuiltinProfiles()[0]
	big.Name = "big"
	var m *sessions.Manager
	open := func(context.Context) (*sessions.Manager, error) {
		if m == nil {
			return nil, errors.New("broken")
		}
		return m, nil
	}
	create := tools.All(open, sessions.BuiltinProfiles(), slog.New(slog.DiscardHandler))[0]
	create.Call(as(t.Context(), "local:1"), json.RawMessage(`{}`))
	m = &sessions.Manager{Profiles: []sessions.Profile{big}}
	res := create.Call(as(t.Context(), "local:1"), json.RawMessage(`{"profile":"nope"}`))
	if want := `"nope" is not one of big`; !strings.Contains(textOf(res), want) {
		t.Errorf("%s, want %q", textOf(res), want)
	}
}

// A call goes by the profiles of its moment, which are looked at only where they
// matter.
func TestProfilesOfNow(t *testing.T) {
	profiles := func(names ...string) (list []sessions.Profile) {
		for _, name := range names {
			p := sessions.BuiltinProfiles()[0]
			p.Name = name
			list = append(list, p)
		}
		return list
	}
	var looks int
	m := &sessions.Manager{Profiles: profiles("a")}
	next := profiles("a", "b")
	m.Refresh = func(context.Context) {
		if looks++; next != nil {
			m.SetProfiles(next)
			next = nil
		}
	}
	open := func(context.Context) (*sessions.Manager, error) { return m, nil }
	all := tools.All(open, m.Profiles, slog.New(slog.DiscardHandler))
	call := func(name, arguments string) string {
		i := slices.IndexFunc(all, func(tool tools.Tool) bool { return tool.Name == name })
		return textOf(all[i].Call(as(t.Context(), "local:1"), json.RawMessage(arguments)))
	}
	if got := call("create_sandbox", `{"profile":"nope"}`); !strings.Contains(got, `"nope" is not one of a, b`) {
		t.Error(got)
	}
	next = append(profiles("c"), sessions.Profile{Name: "d", Problem: "d.yaml:1: cores: got \"x\""})
	next[0].MaxTTL = 20 * time.Minute
	if got := call("extend_ttl", `{"sandbox_id":"sb-1","ttl_seconds":3600}`); !strings.Contains(got, "1200") {
		t.Error(got)
	}
	if got := call("create_sandbox", `{"profile":"d"}`); !strings.Contains(got, `profile d can't be used now: d.yaml:1: cores: got "x"`) {
		t.Error(got)
	}
	text, err := json.Marshal(tools.All(open, m.Offered(t.Context()), slog.New(slog.DiscardHandler))[0].Input)
	if err != nil || !strings.Contains(string(text), `"enum":["c","d"]`) || !strings.Contains(string(text), "d: broken, ask the operator") {
		t.Errorf("the definition is %s, %v", text, err)
	}
	next = []sessions.Profile{{Name: "d", Problem: "d.yaml:1: it is broken"}} // and there is no other
	if got := call("create_sandbox", `{"ttl_seconds":600}`); !strings.Contains(got, "profile d can't be used now: d.yaml:1: it is broken") {
		t.Error(got)
	}
	looks = 0
	if call("read_file", `{}`); looks != 0 {
		t.Errorf("a tool that has nothing to do with profiles has looked at them %d times", looks)
	}
}
