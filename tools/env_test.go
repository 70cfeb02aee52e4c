package tools_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/sshguest"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
	"github.com/agentlab-mcp/agentlab/tools"
)

var guestBinary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "tools")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		guestBinary = filepath.Join(dir, "agentlab-guest")
		build := exec.CommandContext(context.Background(), "go", "build", "-o", guestBinary, "github.com/agentlab-mcp/agentlab/cmd/agentlab-guest")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build agentlab-guest: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// backend is the far side of a Provisioner: its machines are one agentlab-guest
// process on this host.
type backend struct {
	home   string
	conn   guest.Conn
	mu     sync.Mutex
	listed map[string]provisioner.Machine
}

func (b *backend) Create(_ context.Context, spec provisioner.Spec) (provisioner.Machine, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	id := spec.Papers.Sandbox
	b.listed[id] = provisioner.Machine{
		Ref: provisioner.Ref{Sandbox: id, Handle: id}, Papers: spec.Papers, Running: true, Home: b.home, OS: "this host",
	}
	return b.listed[id], nil
}

func (b *backend) Destroy(_ context.Context, ref provisioner.Ref) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.listed, ref.Sandbox)
	return nil
}

func (b *backend) List(context.Context) ([]provisioner.Machine, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []provisioner.Machine
	for _, m := range b.listed {
		list = append(list, m)
	}
	return list, nil
}

func (b *backend) Dial(context.Context, provisioner.Ref) (guest.Conn, error) {
	return shared{b.conn}, nil
}

func (b *backend) Relabel(_ context.Context, ref provisioner.Ref, papers provisioner.Papers) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.listed[ref.Sandbox]
	m.Papers = papers
	b.listed[ref.Sandbox] = m
	return nil
}

// shared is a Conn that others use too.
type shared struct{ guest.Conn }

func (shared) Close() error { return nil }

// hooked is a Conn that lets a test act just before something is done, and take
// the programs away.
type hooked struct {
	guest.Conn
	beforeWrite, beforeRun func()
	path                   string // PATH of what is run; empty is the guest's
}

func (c *hooked) Run(ctx context.Context, cmd guest.Cmd, std guest.Streams) (guest.Exit, error) {
	if c.beforeRun != nil {
		c.beforeRun()
	}
	if c.path != "" {
		cmd.Args[0] = "/bin/" + cmd.Args[0]
		cmd.Env = append(cmd.Env, "PATH="+c.path)
	}
	return c.Conn.Run(ctx, cmd, std)
}

func (c *hooked) WriteFile(ctx context.Context, path string, r io.Reader, opt guest.WriteOptions) (guest.WriteResult, error) {
	if c.beforeWrite != nil {
		c.beforeWrite()
	}
	return c.Conn.WriteFile(ctx, path, r, opt)
}

// startGuest runs agentlab-guest and returns its home and a Conn to it.
func startGuest(t testing.TB) (home string, conn guest.Conn) {
	t.Helper()
	dir := t.TempDir()
	home = filepath.Join(dir, "home")
	check(t, os.Mkdir(home, 0o755))
	hostKey := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	hostPublic, err := ssh.NewPublicKey(hostKey.Public())
	check(t, err)
	public, private, err := ed25519.GenerateKey(nil)
	check(t, err)
	signer, err := ssh.NewSignerFromSigner(private)
	check(t, err)
	seed, err := json.Marshal(guest.Seed{HostKey: hostKey.Seed(), ClientKey: public, Home: home})
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, guest.SeedFile), seed, 0o600))
	cmd := exec.CommandContext(context.Background(), guestBinary, "serve", dir)
	cmd.Stderr = os.Stderr
	check(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt) // it ends what it has started
		_ = cmd.Wait()
	})
	c := sshguest.New(sshguest.Config{User: "root", HostKey: hostPublic, Signer: signer, Dial: func(ctx context.Context) (net.Conn, error) {
		for {
			nc, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, guest.Socket))
			if err == nil || ctx.Err() != nil {
				return nc, err
			}
		}
	}})
	t.Cleanup(func() { c.Close() })
	return home, c
}

// env is what the tools need, all real but the backend, and a sandbox.
type env struct {
	t         testing.TB
	tools     map[string]tools.Tool
	files     tools.Files
	resources *tools.Resources
	completer *tools.Completer
	home      string
	conn      *hooked
	terminals *tools.Terminals
	sandbox   string
	moved     tools.Moved // what the transfer of allowed has told last
}

func newEnv(t testing.TB) *env {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	b := &backend{listed: map[string]provisioner.Machine{}}
	home, real := startGuest(t)
	conn := &hooked{Conn: real}
	b.home, b.conn = home, conn
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "db"), log)
	check(t, err)
	profile := sessions.BuiltinProfiles()[0]
	profile.User = "agent"
	m := &sessions.Manager{
		Store: db, Backends: map[string]provisioner.Provisioner{"local": switchable{b}},
		Profiles: []sessions.Profile{profile}, Instance: "test", Log: log,
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Manager.Run: %v", err)
		}
		check(t, db.Close())
	})
	open := func(context.Context) (*sessions.Manager, error) { return m, nil }
	e := &env{
		t: t, tools: map[string]tools.Tool{}, home: home, conn: conn,
		resources: tools.AllResources(open, log), completer: tools.NewCompleter(open, log),
	}
	e.files.Open, e.terminals = open, &tools.Terminals{Open: open, Log: log}
	for _, tool := range tools.All(open, m.Profiles, log) {
		e.tools[tool.Name] = tool
	}
	e.call("create_sandbox", map[string]any{})
	list := e.call("list_sandboxes", map[string]any{})
	text, err := json.Marshal(list.Structured)
	check(t, err)
	var out struct {
		Sandboxes []struct {
			ID string `json:"sandbox_id"`
		}
	}
	check(t, json.Unmarshal(text, &out))
	e.sandbox = out.Sandboxes[0].ID
	return e
}

type args = map[string]any

func as(ctx context.Context, name string) context.Context {
	return sessions.WithPrincipal(ctx, sessions.Principal{Name: name})
}

// try calls a tool. The sandbox_id is added.
func (e *env) try(tool string, a args) tools.Result {
	e.t.Helper()
	if _, ok := a["sandbox_id"]; !ok && e.sandbox != "" {
		a["sandbox_id"] = e.sandbox
	}
	raw, err := json.Marshal(a)
	check(e.t, err)
	ctx, cancel := context.WithTimeout(e.t.Context(), 10*time.Minute) // only what hangs lets it pass
	defer cancel()
	return e.tools[tool].Call(as(ctx, "local:1"), raw)
}

// call calls a tool that succeeds.
func (e *env) call(tool string, a args) tools.Result {
	e.t.Helper()
	res := e.try(tool, a)
	if res.IsError {
		e.t.Fatalf("%s %v: %s", tool, a, textOf(res))
	}
	return res
}

func textOf(res tools.Result) string { return res.Content[0].Text }

// wantText calls a tool that succeeds and checks its text: each of want is in it.
func (e *env) wantText(tool string, a args, want ...string) string {
	e.t.Helper()
	text := textOf(e.call(tool, a))
	for _, w := range want {
		if !strings.Contains(text, w) {
			e.t.Errorf("%s %v: %q is not in\n%s", tool, a, w, text)
		}
	}
	return text
}

// wantError calls a tool that fails and checks its text.
func (e *env) wantError(tool string, a args, want ...string) {
	e.t.Helper()
	res := e.try(tool, a)
	if !res.IsError {
		e.t.Fatalf("%s: no error but %.200s", tool, textOf(res))
	}
	for _, w := range want {
		if !strings.Contains(textOf(res), w) {
			e.t.Errorf("%s: %q is not in the error %s", tool, w, textOf(res))
		}
	}
	if n := len(textOf(res)); n > 10000 {
		e.t.Errorf("error of %d bytes", n)
	}
}

func (e *env) write(name, text string) string {
	e.t.Helper()
	path := filepath.Join(e.home, name)
	check(e.t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

func (e *env) file(name string) string {
	e.t.Helper()
	text, err := os.ReadFile(filepath.Join(e.home, name))
	check(e.t, err)
	return string(text)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
