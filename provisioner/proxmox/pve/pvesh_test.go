package pve_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// standIn takes the place of pvesh: it notes how it was called and does what
// the real one was recorded to do.
type standIn struct{ dir string }

const standInScript = `#!/bin/sh
dir=$(dirname "$0")
printf '%s\0' "$@" >"$dir/argv"
printf '%s' "$LC_ALL" >"$dir/locale"
if read -r line; then echo "stdin was given: $line" >&2; fi
if [ -p "$dir/begun" ]; then echo begun >"$dir/begun"; read -r go <"$dir/gate"; fi
cat "$dir/stdout"
cat "$dir/stderr" >&2
exit "$(cat "$dir/exit")"
`

func newStandIn(t *testing.T) *standIn {
	t.Helper()
	s := &standIn{t.TempDir()}
	s.write(t, "pvesh", standInScript)
	if err := os.Chmod(filepath.Join(s.dir, "pvesh"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.answer(t, 0, "", "")
	t.Setenv("PATH", s.dir+":"+os.Getenv("PATH"))
	return s
}

func (s *standIn) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *standIn) answer(t *testing.T, exit int, stdout, stderr string) {
	t.Helper()
	s.write(t, "stdout", stdout)
	s.write(t, "stderr", stderr)
	s.write(t, "exit", fmt.Sprint(exit))
}

func (s *standIn) read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// argv returns the arguments of the last call.
func (s *standIn) argv(t *testing.T) []string {
	t.Helper()
	return strings.Split(strings.TrimSuffix(s.read(t, "argv"), "\x00"), "\x00")
}

// block makes the stand-in wait: begun returns when it runs, and it goes on
// when release is called.
func (s *standIn) block(t *testing.T) (begun func(), release func()) {
	t.Helper()
	for _, name := range []string{"begun", "gate"} {
		if err := syscall.Mkfifo(filepath.Join(s.dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return func() { s.read(t, "begun") }, func() { s.write(t, "gate", "go\n") }
}

// invocation is a call of the real pvesh and what it did.
type invocation struct {
	Title          string
	Argv           []string
	Exit           int
	Stdout, Stderr string
}

func invocations(t *testing.T) map[string]invocation {
	t.Helper()
	var all []invocation
	load(t, "pvesh.json", &all)
	byTitle := map[string]invocation{}
	for _, i := range all {
		byTitle[i.Title] = i
	}
	return byTitle
}

// shells are the two ways to a node; both really run scripts.
func shells(t *testing.T) map[string]pve.Shell {
	t.Helper()
	node := newSSHNode(t)
	return map[string]pve.Shell{"local": pve.Local{}, "ssh": node.shell(t)}
}

func TestPveshCallsAsRecorded(t *testing.T) {
	tests := []struct {
		title string
		call  func(*pve.Client, context.Context) (any, error)
		want  any
		kind  pve.Kind
	}{
		{"version json", func(c *pve.Client, ctx context.Context) (any, error) { return c.Version(ctx) }, pve.Version{Major: 8, Minor: 4, Patch: 21}, ""},
		{"nextid", func(c *pve.Client, ctx context.Context) (any, error) { return c.NextID(ctx) }, 100, ""},
		{"nextid used", done(func(c *pve.Client, ctx context.Context) error { return c.IDFree(ctx, 9001) }), nil, pve.Exists},
		{"config set: sshkeys percent-encoded (once), tags, multi-line description", done(func(c *pve.Client, ctx context.Context) error {
			return c.SetConfig(ctx, vm(170), pve.Change{Set: map[string]string{"ciuser": "agent", "sshkeys": pve.SSHKeys(clientKey),
				"tags": "b;a", "description": "line1\nline2 äöü €", "ipconfig0": "ip=dhcp"}})
		}), nil, ""},
		{"clone to a used id", started(func(c *pve.Client, ctx context.Context) (pve.UPID, error) {
			return c.Clone(ctx, vm(9001), pve.CloneSpec{NewID: 170})
		}), nil, pve.Exists},
		{"full clone: progress lines on stdout before the UPID", started(func(c *pve.Client, ctx context.Context) (pve.UPID, error) {
			return c.Clone(ctx, vm(9001), pve.CloneSpec{NewID: 172, Full: true})
		}), "qmclone 9001", ""},
		{"missing VM: start", started(func(c *pve.Client, ctx context.Context) (pve.UPID, error) { return c.Start(ctx, vm(4711)) }), "qmstart 4711", ""},
		{"delete with purge: waits", started(func(c *pve.Client, ctx context.Context) (pve.UPID, error) { return c.Delete(ctx, vm(172)) }), "qmdestroy 172", ""},
		{"agent ping", done(func(c *pve.Client, ctx context.Context) error { return c.AgentPing(ctx, vm(170)) }), nil, ""},
		{"agent exec: array = repeated --command", func(c *pve.Client, ctx context.Context) (any, error) {
			return c.AgentExec(ctx, vm(170), []string{"/bin/sh", "-c", "echo out; echo err >&2; exit 3"}, nil)
		}, 172, ""},
		{"agent exec: missing binary", func(c *pve.Client, ctx context.Context) (any, error) {
			return c.AgentExec(ctx, vm(170), []string{"/no/such/binary"}, nil)
		}, nil, pve.AgentError},
		{"exec-status", func(c *pve.Client, ctx context.Context) (any, error) {
			s, err := c.AgentExecStatus(ctx, vm(170), 172)
			return []string{fmt.Sprint(s.ExitCode), string(s.Out), string(s.Err)}, err
		}, []string{"3", "out\n", "err\n"}, ""},
		{"file-write encode=0 base64 of UTF-8 text", done(func(c *pve.Client, ctx context.Context) error {
			return c.AgentWriteFile(ctx, vm(170), "/tmp/d", []byte("äöü€\n"))
		}), nil, ""},
		{"file-read of UTF-8 text (mojibake, same Latin-1 trick)", func(c *pve.Client, ctx context.Context) (any, error) {
			f, err := c.AgentReadFile(ctx, vm(170), "/tmp/d")
			return string(f.Data), err
		}, "äöü€\n", ""},
		{"permission: pvesh as a non-root unix user", func(c *pve.Client, ctx context.Context) (any, error) { return c.Version(ctx) }, nil, pve.Permission},
	}
	recordings := invocations(t)
	s := newStandIn(t)
	for name, shell := range shells(t) {
		c := &pve.Client{Transport: pve.NewPvesh(shell)}
		for _, tt := range tests {
			t.Run(name+"/"+strings.ReplaceAll(tt.title, " ", "_"), func(t *testing.T) {
				want, ok := recordings[tt.title]
				if !ok {
					t.Fatal("is not recorded")
				}
				s.answer(t, want.Exit, want.Stdout, want.Stderr)
				got, err := tt.call(c, t.Context())
				if kindOf(err) != tt.kind {
					t.Fatalf("error %v (%q), want %q", err, kindOf(err), tt.kind)
				}
				if diff := cmp.Diff(tt.want, got); err == nil && diff != "" {
					t.Errorf("result (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(options(want.Argv), options(s.argv(t))); diff != "" {
					t.Errorf("arguments (-recorded +given):\n%s", diff)
				}
				if got := s.read(t, "locale"); got != "C.UTF-8" {
					t.Errorf("LC_ALL=%s: text that is not ASCII would be stored as garbage", got)
				}
			})
		}
	}
}

// options makes the order of different options not matter, and leaves out what
// we say more than the recorded call did.
func options(argv []string) map[string][]string {
	m := map[string][]string{"": argv[:2]}
	for i := 2; i+1 < len(argv); i += 2 {
		if key := argv[i]; key != "--full" {
			m[key] = append(m[key], argv[i+1])
		}
	}
	return m
}

// A failed task exits 0: only the task's own status tells.
func TestPveshFailedTask(t *testing.T) {
	s := newStandIn(t)
	start := invocations(t)["start again (task fails)"]
	s.answer(t, start.Exit, start.Stdout, start.Stderr)
	c := &pve.Client{Transport: pve.NewPvesh(pve.Local{})}
	id, err := c.Start(t.Context(), vm(170))
	if err != nil {
		t.Fatalf("the call itself: %v", err)
	}
	s.answer(t, 0, fmt.Sprintf(`{"exitstatus":"VM 170 already running","status":"stopped","upid":%q}`, id), "")
	if _, err := c.Wait(t.Context(), id); !errors.Is(err, pve.Running) {
		t.Errorf("error %v", err)
	}
}

// Output without end is not read, and whoever writes it is ended, however it
// takes a broken pipe; the next call works.
func TestShellOutputIsBounded(t *testing.T) {
	ssh := newSSHNode(t).shell(t)
	ssh.SetLongest(1 << 20)
	for name, shell := range map[string]pve.Shell{"local": pve.LocalWith(1 << 20), "ssh": ssh} {
		for kind, script := range map[string]string{
			"out":      "exec cat /dev/zero",
			"err":      "exec cat /dev/zero >&2",
			"stubborn": "trap '' PIPE; while :; do head -c 100000 /dev/zero 2>/dev/null; done",
			"exits-0":  "head -c 3000000 /dev/zero 2>/dev/null; exit 0",
		} {
			if name == "ssh" && kind == "stubborn" {
				continue // what it does on the other side is sshd's business
			}
			t.Run(name+"-"+kind, func(t *testing.T) {
				if out, err := shell.Run(t.Context(), script); !errors.Is(err, pve.TooLarge) || len(out.Stdout) > 0 {
					t.Errorf("Run: %d bytes, %v", len(out.Stdout), err)
				}
				if out, err := shell.Run(t.Context(), "head -c 1000000 /dev/zero"); err != nil || len(out.Stdout) != 1000000 {
					t.Errorf("what is short enough: %d bytes, %v", len(out.Stdout), err)
				}
			})
		}
	}
}

func TestPveshQuotesEverything(t *testing.T) {
	s := newStandIn(t)
	hostile := "'; touch pwned; '\n$(touch pwned) `touch pwned` \\ \" --output-format äö €"
	for name, shell := range shells(t) {
		c := &pve.Client{Transport: pve.NewPvesh(shell)}
		if err := c.SetConfig(t.Context(), vm(1), pve.Change{Set: map[string]string{"description": hostile}}); err != nil {
			t.Fatal(name, err)
		}
		want := []string{"set", "/nodes/pve/qemu/1/config", "--description", hostile, "--output-format", "json"}
		if diff := cmp.Diff(want, s.argv(t)); diff != "" {
			t.Errorf("%s: arguments (-want +got):\n%s", name, diff)
		}
	}
	if _, err := os.Stat("pwned"); err == nil {
		t.Error("a parameter was executed")
	}
}

func TestPveshRefusesWhatNoProcessCanBeGiven(t *testing.T) {
	c := &pve.Client{Transport: pve.NewPvesh(answer{Exit: 1})}
	set := func(text string) error {
		return c.SetConfig(t.Context(), vm(1), pve.Change{Set: map[string]string{"description": text}})
	}
	if err := set("a\x00b"); !errors.Is(err, pve.Parameter) {
		t.Errorf("NUL: %v", err)
	}
	if err := set(strings.Repeat("x", 131072)); !errors.Is(err, pve.TooLarge) {
		t.Errorf("too long: %v", err)
	}
}

func TestPveshLargestInput(t *testing.T) {
	s := newStandIn(t)
	s.answer(t, 0, `{"pid":1}`, "")
	input := bytes.Repeat([]byte{'x'}, pve.MaxInput)
	for name, shell := range shells(t) {
		c := &pve.Client{Transport: pve.NewPvesh(shell)}
		if _, err := c.AgentExec(t.Context(), vm(1), []string{"cat"}, input); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNoPveshThere(t *testing.T) {
	dir := t.TempDir()
	for _, tool := range []string{"sh"} {
		path, err := exec.LookPath(tool)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(dir, tool)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	c := &pve.Client{Transport: pve.NewPvesh(pve.Local{})}
	if _, err := c.Version(t.Context()); !errors.Is(err, pve.BadAnswer) || !strings.Contains(err.Error(), "Proxmox VE node?") {
		t.Errorf("error %v", err)
	}
}

// What a call has started goes on when the caller hangs up, and its files go
// with it: a pvesh that is killed in mid-clone leaves a locked machine.
func TestPveshSurvivesItsCaller(t *testing.T) {
	hangUp := map[string]func(*sshNode, context.CancelFunc){
		"local":       func(_ *sshNode, cancel context.CancelFunc) { cancel() },
		"ssh":         func(_ *sshNode, cancel context.CancelFunc) { cancel() },
		"ssh-dropped": func(n *sshNode, _ context.CancelFunc) { n.drop() },
		"ssh-sighup":  func(n *sshNode, _ context.CancelFunc) { n.signal(syscall.SIGHUP) },
		"ssh-sigkill": func(n *sshNode, _ context.CancelFunc) { n.signal(syscall.SIGKILL) },
	}
	for name, hang := range hangUp {
		t.Run(name, func(t *testing.T) {
			s := newStandIn(t)
			begun, release := s.block(t)
			tmp := t.TempDir()
			t.Setenv("TMPDIR", tmp)
			node := newSSHNode(t)
			var shell pve.Shell = node.shell(t)
			if name == "local" {
				shell = pve.Local{}
			}
			watcher, err := fsnotify.NewWatcher()
			if err != nil {
				t.Fatal(err)
			}
			defer watcher.Close()
			if err := watcher.Add(tmp); err != nil {
				t.Fatal(err)
			}

			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error)
			c := &pve.Client{Transport: pve.NewPvesh(shell)}
			go func() { _, err := c.Clone(ctx, vm(9001), pve.CloneSpec{NewID: 100}); ended <- err }()
			begun()
			hang(node, cancel)
			if err := <-ended; !errors.Is(err, context.Canceled) && !errors.Is(err, pve.ConnectionLost) {
				t.Errorf("error %v does not say that the end is unknown", err)
			}
			release() // would block if the stand-in were gone
			for e := range watcher.Events {
				if e.Has(fsnotify.Remove) {
					break
				}
			}
			if left, _ := os.ReadDir(tmp); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestPveshLeavesNoFiles(t *testing.T) {
	s := newStandIn(t)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	s.answer(t, 29, "", "VM is locked (backup)\n")
	c := &pve.Client{Transport: pve.NewPvesh(pve.Local{})}
	if _, err := c.Start(t.Context(), vm(1)); !errors.Is(err, pve.Locked) {
		t.Errorf("error %v", err)
	}
	if left, _ := os.ReadDir(tmp); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSSHReconnects(t *testing.T) {
	s := newStandIn(t)
	s.answer(t, 0, `{"version":"8.4.1"}`, "")
	n := newSSHNode(t)
	c := &pve.Client{Transport: pve.NewPvesh(n.shell(t))}
	for range 3 {
		if _, err := c.Version(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.drop()
	}
}

func TestSSHRefusals(t *testing.T) {
	newStandIn(t)
	n := newSSHNode(t)
	call := func(change func(*pve.SSH)) error {
		s := n.shell(t)
		change(s)
		_, err := (&pve.Client{Transport: pve.NewPvesh(s)}).Start(t.Context(), vm(1))
		return err
	}
	other := newSigner(t)
	if err := call(func(s *pve.SSH) { s.Config.HostKeyCallback = ssh.FixedHostKey(other.PublicKey()) }); !errors.Is(err, pve.Untrusted) {
		t.Errorf("another host key: %v", err)
	}
	if err := call(func(s *pve.SSH) { s.Config.Auth = []ssh.AuthMethod{ssh.PublicKeys(other)} }); !errors.Is(err, pve.Unauthorized) {
		t.Errorf("another user key: %v", err)
	}
	if err := call(func(s *pve.SSH) { s.Config.HostKeyCallback = nil }); err == nil {
		t.Error("a host key that nobody checks is accepted")
	}
	if err := call(func(s *pve.SSH) { s.Addr = "127.0.0.1:1" }); !errors.Is(err, pve.Unreachable) {
		t.Errorf("no server: %v", err)
	}
}

// A pvesh that was killed may have done its work or not.
func TestPveshKilled(t *testing.T) {
	s := newStandIn(t)
	s.write(t, "pvesh", "#!/bin/sh\nkill -9 $$\n")
	for name, shell := range shells(t) {
		c := &pve.Client{Transport: pve.NewPvesh(shell)}
		if _, err := c.Start(t.Context(), vm(1)); !errors.Is(err, pve.Interrupted) {
			t.Errorf("%s: changing: %v", name, err)
		}
		err := c.AgentPing(t.Context(), vm(1))
		if !errors.Is(err, pve.Interrupted) {
			t.Errorf("%s: pinging: %v", name, err)
		}
	}
}
