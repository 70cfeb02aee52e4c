package tools_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
	"github.com/agentlab-mcp/agentlab/tools"
)

// FuzzTools: whatever the arguments of whatever tool, and whatever a guest then
// says, the answer is of a length that clients take, can be sent, and the error
// in it is never one that only a programmer can make.
//
// In the arguments SANDBOX stands for the id of a sandbox of the caller's, which
// nothing destroys, and FOREIGN for that of another's.
func FuzzTools(f *testing.F) {
	e := newFuzzEnv(f)
	for name := range e.tools {
		f.Add(name, []byte(`{}`), []byte(nil))
		f.Add(name, []byte(`{"sandbox_id":"FOREIGN"}`), []byte(nil))
		f.Add(name, []byte(`{"sandbox_id":null,"nope":1,"name":["a"],"ttl_seconds":"1h","profile":"x"}`), []byte(nil))
	}
	for _, s := range []struct{ tool, args, said string }{
		{"create_sandbox", `{"name":"a-b","ttl_seconds":"600","memory_mb":512.0,"network":"none","wait_seconds":0}`, ""},
		{"extend_ttl", `{"sandbox_id":"SANDBOX","ttl_seconds":60}`, ""},
		{"stop_sandbox", `{"sandbox_id":"SANDBOX","pause":"true"}`, ""},
		{"resize_sandbox", `{"sandbox_id":"SANDBOX","cpu":4,"memory_mb":"512","disk_gb":0}`, ""},
		{"start_sandbox", `{"sandbox_id":"SANDBOX","wait_seconds":0}`, ""},
		{"exec", `{"sandbox_id":"SANDBOX","command":"make","env":{"A":"b"},"workdir":"x/../y","stdin":"\u0000","user":"root","wait_seconds":1}`, "out\r\x1b[31mput\n"},
		{"read_process", `{"sandbox_id":"SANDBOX","process_id":"p_1","offset":-100,"until":"^a.*$"}`, "\xff\xfeline\n"},
		{"control_process", `{"sandbox_id":"SANDBOX","process_id":"p_1","stdin":"y\n","signal":"int"}`, ""},
		{"read_file", `{"sandbox_id":"SANDBOX","path":"a","offset":2,"limit":3}`, "1\n2\n3\n4\n5"},
		{"read_file", `{"sandbox_id":"SANDBOX","path":"a","encoding":"base64"}`, "\x89PNG\r\n\x1a\n"},
		{"write_file", `{"sandbox_id":"SANDBOX","path":"~/a","content":"eA==","encoding":"base64","mode":"0644","append":"true"}`, ""},
		{"edit_file", `{"sandbox_id":"SANDBOX","path":"/a","old_string":"a\nb","new_string":"c","replace_all":true}`, "a\r\nb\r\na\r\nb"},
		{"edit_file", `{"sandbox_id":"SANDBOX","path":"/a","edits":[{"old_string":"x","new_string":"y"}]}`, "x y z"},
		{"list_files", `{"sandbox_id":"SANDBOX","path":"","pattern":"**/*.go","depth":3}`, "a\nb\x00c"},
	} {
		f.Add(s.tool, []byte(s.args), []byte(s.said))
	}
	f.Fuzz(func(t *testing.T, name string, args, said []byte) {
		tool, ok := e.tools[name]
		if !ok || !json.Valid(args) || name == "destroy" && bytes.Contains(args, []byte("SANDBOX")) {
			return // the transport lets none of the first two through
		}
		e.guest.said = said
		e.log.Reset()
		ctx, cancel := context.WithTimeout(as(t.Context(), "local:1"), time.Minute)
		defer cancel()
		named := strings.NewReplacer("SANDBOX", e.sandbox, "FOREIGN", e.foreign)
		res := tool.Call(ctx, []byte(named.Replace(string(args))))
		if strings.Contains(e.log.String(), "internal error") {
			t.Fatalf("%s %s: %s", name, args, e.log.String())
		}
		if res.Sandbox == e.foreign && !res.IsError && name != "destroy" { // for which it is gone already
			t.Fatalf("%s %s: served: %s", name, args, textOf(res))
		}
		if _, err := e.manager.Get(as(ctx, "local:2"), e.foreign, 0); err != nil {
			t.Fatalf("%s %s: the other's: %v", name, args, err)
		}
		wantSendable(t, res)
	})
}

func wantSendable(t *testing.T, res tools.Result) {
	t.Helper()
	if res.Outcome == "" || len(res.Content) == 0 {
		t.Fatalf("result %+v", res)
	}
	for _, c := range res.Content {
		if n := utf8.RuneCountInString(c.Text); !utf8.ValidString(c.Text) || n > 50000 || res.IsError && len(c.Text) > 10000 {
			t.Fatalf("text of %d characters: %.200q", n, c.Text)
		}
	}
	for _, v := range []any{res.Structured, res.Meta} {
		if _, err := json.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
}

// fuzzEnv is what the tools need, with a guest that only talks.
type fuzzEnv struct {
	tools            map[string]tools.Tool
	manager          *sessions.Manager
	guest            *talker
	log              *bytes.Buffer
	sandbox, foreign string
}

func newFuzzEnv(f *testing.F) *fuzzEnv {
	e := &fuzzEnv{tools: map[string]tools.Tool{}, guest: &talker{}, log: &bytes.Buffer{}}
	db, err := store.Open(f.Context(), filepath.Join(f.TempDir(), "db"), slog.New(slog.DiscardHandler))
	check(f, err)
	f.Cleanup(func() { check(f, db.Close()) })
	b := &backend{home: "/home/agent", conn: e.guest, listed: map[string]provisioner.Machine{}}
	m := &sessions.Manager{
		Store: db, Backends: map[string]provisioner.Provisioner{"local": b}, Profiles: sessions.BuiltinProfiles(),
		Instance: "fuzz", Log: slog.New(slog.DiscardHandler), Quota: sessions.Quota{Sandboxes: 3},
	}
	e.manager = m
	open := func(context.Context) (*sessions.Manager, error) { return m, nil }
	for _, tool := range tools.All(open, m.Profiles, slog.New(slog.NewTextHandler(e.log, nil))) {
		e.tools[tool.Name] = tool
	}
	for owner, id := range map[string]*string{"local:1": &e.sandbox, "local:2": &e.foreign} {
		sb, _, err := m.Create(as(f.Context(), owner), sessions.CreateRequest{Wait: time.Minute})
		check(f, err)
		*id = sb.ID
	}
	return e
}

// talker is a guest in which there is one file, one process and one text.
type talker struct{ said []byte }

func (g *talker) process() (guest.Process, guest.Output) {
	half := len(g.said) / 2
	return guest.Process{ID: "p_1", Command: string(g.said[:min(len(g.said), 200)]), Stdout: int64(len(g.said)), Running: half%2 == 1},
		guest.Output{
			Stdout: guest.Clip{Head: g.said[:half], Tail: g.said[half:], Total: int64(len(g.said)) + 1},
			Stderr: guest.Clip{Head: g.said, Total: int64(len(g.said))}, Both: g.said, Next: int64(len(g.said)),
		}
}

func (g *talker) Run(context.Context, guest.Cmd, guest.Streams) (guest.Exit, error) {
	return guest.Exit{}, nil
}

func (g *talker) Processes() guest.Processes { return g }

func (g *talker) Start(context.Context, guest.Cmd, guest.StartOptions) (guest.Process, guest.Output, error) {
	p, out := g.process()
	return p, out, nil
}

func (g *talker) Read(_ context.Context, _ string, req guest.ReadRequest) (guest.Process, guest.Output, error) {
	p, out := g.process()
	out.Both = out.Both[:min(len(out.Both), req.Max)]
	return p, out, nil
}

func (g *talker) Control(context.Context, string, guest.Input) (guest.Process, error) {
	p, _ := g.process()
	return p, nil
}

func (g *talker) List(context.Context) ([]guest.Process, error) {
	p, _ := g.process()
	return []guest.Process{p}, nil
}

func (g *talker) ReadFile(_ context.Context, path string, off, n int64) (io.ReadCloser, guest.FileInfo, error) {
	text := g.said
	if off < 0 {
		off = max(0, int64(len(text))+off)
	}
	text = text[min(off, int64(len(text))):]
	if n >= 0 {
		text = text[:min(n, int64(len(text)))]
	}
	return io.NopCloser(bytes.NewReader(text)), guest.FileInfo{Path: path, Size: int64(len(g.said))}, nil
}

func (g *talker) WriteFile(_ context.Context, _ string, r io.Reader, _ guest.WriteOptions) (guest.WriteResult, error) {
	n, err := io.Copy(io.Discard, r)
	return guest.WriteResult{Bytes: n}, err
}

func (g *talker) ListFiles(context.Context, string, guest.ListOptions) (guest.Listing, error) {
	var list guest.Listing
	for name := range bytes.SplitSeq(g.said, []byte("\n")) {
		list.Files = append(list.Files, guest.FileInfo{Path: string(name), Link: string(name), Size: -1})
	}
	list.Total = len(list.Files)
	return list, nil
}

func (g *talker) Close() error { return nil }
