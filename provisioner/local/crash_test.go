package local

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// killProcess kills the sandbox process of a machine, or its file server, as a
// crash would, and waits for its end.
func (p *place) killProcess(t *testing.T, id string, sentry bool) {
	t.Helper()
	procs, err := p.st.processes()
	if err != nil {
		t.Fatal(err)
	}
	for _, proc := range procs[id] {
		if proc.sentry == sentry {
			if err := p.st.kill(t.Context(), id, proc.pid); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("no process to kill in %v", procs[id])
}

func (p *place) wantRunning(t *testing.T, id string, want bool) {
	t.Helper()
	list, err := p.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		if m.Sandbox == id && m.Running == want {
			return
		}
	}
	t.Errorf("List shows %+v, want %s with Running = %v", list, id, want)
}

// A machine whose sandbox died is seen as dead, said to be so at once, made
// anew by Create and removed by Destroy.
func TestSandboxDies(t *testing.T) {
	p := newPlace(t, programs(t))
	spec := testSpec("sb-dies")
	ref := p.create(t, spec)
	p.sh(t, ref, "echo first > /tmp/mark")
	p.killProcess(t, ref.Sandbox, true)
	p.wantRunning(t, ref.Sandbox, false)
	_, err := p.Dial(t.Context(), ref)
	if !errors.Is(err, guest.ErrUnreachable) || !strings.Contains(err.Error(), "dead") {
		t.Errorf("Dial: %v", err)
	}
	again := p.create(t, spec)
	p.wantRunning(t, ref.Sandbox, true)
	if got, _ := p.sh(t, again, "cat /tmp/mark 2>&1"); !strings.Contains(got, "No such file") {
		t.Errorf("the new machine has a file of the old one: %q", got)
	}
	p.killProcess(t, ref.Sandbox, true)
	p.destroy(t, ref)
}

// What a crash in the middle of a start leaves: a sandbox that was created and
// never started, without the process that made it.
func TestStartIsKilledInTheMiddle(t *testing.T) {
	p := newPlace(t, programs(t))
	spec := testSpec("sb-half")
	halfMade := func() {
		t.Helper()
		tools, err := p.tools()
		if err != nil {
			t.Fatal(err)
		}
		root, err := p.root(t.Context(), p.st, tools, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.newBundle(p.st, root, spec); err != nil {
			t.Fatal(err)
		}
		dir := p.st.machineDir("sb-half")
		args := append(p.st.runscFlags(tools, dir, spec.DiskMB), "run", "--detach", "--bundle="+dir, "sb-half")
		if err := exec.CommandContext(t.Context(), tools.runsc, args...).Run(); err != nil {
			t.Fatal(err)
		}
		// runsc create would be it, but it refuses to serve an ordinary user.
		path := p.st.runscState("sb-half", "state")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		created := strings.Replace(string(text), `"status":"running"`, `"status":"created"`, 1)
		if created == string(text) {
			t.Fatalf("no status in %s", text)
		}
		if err := os.WriteFile(path, []byte(created), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ref := provisioner.Ref{Sandbox: "sb-half", Handle: "sb-half"}
	t.Cleanup(func() { p.destroy(t, ref) })

	halfMade()
	p.wantRunning(t, "sb-half", false)
	p.destroy(t, ref)
	if left := leftovers(t, p.st); len(left) > 0 {
		t.Fatalf("left over after Destroy: %v", left)
	}
	halfMade()
	p.create(t, spec)
	p.sh(t, ref, "true")
}

// Destroy needs none of runsc's state, and no runsc.
func TestDestroyWithBrokenState(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, p *place){
		"no-state": func(t *testing.T, p *place) {
			if err := os.RemoveAll(p.st.runscDir()); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(p.st.runscDir(), 0o711); err != nil {
				t.Fatal(err)
			}
		},
		"garbled-state": func(t *testing.T, p *place) {
			if err := os.WriteFile(p.st.runscState("sb-broken", "state"), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"no-runsc":       func(_ *testing.T, p *place) { p.Runsc = "/nonexistent/runsc" },
		"no-file-server": func(t *testing.T, p *place) { p.killProcess(t, "sb-broken", false) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t, programs(t))
			ref := p.create(t, testSpec("sb-broken"))
			p.sh(t, ref, "true")
			damage(t, p)
			p.destroy(t, ref)
		})
	}
}

// Each point at which a crash can interrupt Destroy: a second one finishes it.
func TestDestroyIsInterrupted(t *testing.T) {
	for name, first := range map[string]func(t *testing.T, p *place, id string){
		"killed": func(t *testing.T, p *place, id string) {
			if err := p.st.killAll(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		},
		"state-gone": func(t *testing.T, p *place, id string) {
			if err := p.st.killAll(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(p.st.runscState(id, "state")); err != nil {
				t.Fatal(err)
			}
		},
		"renamed": func(t *testing.T, p *place, id string) {
			if err := p.st.killAll(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(p.st.machineDir(id), p.st.machineDir(tempPrefix+id)); err != nil {
				t.Fatal(err)
			}
			if err := p.st.teardown(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t, programs(t))
			ref := p.create(t, testSpec("sb-int"))
			first(t, p, ref.Sandbox)
			after := &place{Provisioner: &Provisioner{Dir: p.Dir, Key: p.Key, Instance: p.Instance}, st: p.st}
			after.destroy(t, ref)
			if left := leftovers(t, p.st); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
		})
	}
}

// A failed start says why and leaves nothing.
func TestStartFails(t *testing.T) {
	bin := programs(t)
	for name, script := range map[string]string{
		"at-once":       "echo the reason >&2; exit 1",
		"half-way":      "for a; do shift; set -- \"$@\" \"$a\"; done; " + filepath.Join(bin, "runsc") + " \"$@\"; echo the reason >&2; exit 1",
		"without-words": "kill -9 $$",
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t, bin)
			p.Runsc = filepath.Join(filepath.Dir(p.Dir), "runsc")
			if err := os.WriteFile(p.Runsc, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			_, err := p.Create(t.Context(), testSpec("sb-fails"))
			if !errors.Is(err, provisioner.ErrUnavailable) {
				t.Errorf("Create: %v", err)
			}
			if name != "without-words" && !strings.Contains(err.Error(), "the reason") {
				t.Errorf("%q does not tell what runsc said", err)
			}
		})
	}
}

// A guest that ends while booting is reported with its last words.
func TestGuestDiesBooting(t *testing.T) {
	p := newPlace(t, programs(t))
	p.Guest = filepath.Join(filepath.Dir(p.Dir), "agentlab-guest")
	if err := os.WriteFile(p.Guest, []byte("#!/bin/sh\nyes 'last words' | head -c 1000000\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ref := p.create(t, testSpec("sb-mute"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := p.Dial(ctx, ref)
	if !errors.Is(err, guest.ErrUnreachable) || !strings.Contains(err.Error(), "last words") || len(err.Error()) > 4096 {
		t.Errorf("Dial: %.5000v", err)
	}
}

// What is in the place of a machine and is not one of ours is reported and
// never touched.
func TestStrangersAreLeftAlone(t *testing.T) {
	p := newPlace(t, programs(t))
	ref := p.create(t, testSpec("sb-own"))
	outside := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(outside, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func(path string) error{
		"sb-link-to-own":     func(path string) error { return os.Symlink(p.st.machineDir("sb-own"), path) },
		"sb-link-to-outside": func(path string) error { return os.Symlink(filepath.Dir(outside), path) },
		"sb-empty":           func(path string) error { return os.Mkdir(path, 0o755) },
		"sb-file":            func(path string) error { return os.WriteFile(path, nil, 0o644) },
		"sb-fifo-inside": func(path string) error {
			return errors.Join(os.Mkdir(path, 0o755), unix.Mkfifo(filepath.Join(path, configFile), 0o644))
		},
		"sb-copied-papers": func(path string) error {
			config, err := os.ReadFile(filepath.Join(p.st.machineDir("sb-own"), configFile))
			return errors.Join(err, os.Mkdir(path, 0o755), os.WriteFile(filepath.Join(path, configFile), config, 0o600))
		},
		"sb-linked-config": func(path string) error {
			return errors.Join(os.Mkdir(path, 0o755),
				os.Symlink(filepath.Join(p.st.machineDir("sb-own"), configFile), filepath.Join(path, configFile)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := p.st.machineDir(name)
			if err := make(path); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := os.RemoveAll(path); err != nil {
					t.Error(err)
				}
			})
			if err := p.Destroy(t.Context(), provisioner.Ref{Sandbox: name}); !errors.Is(err, provisioner.ErrNotOurs) {
				t.Errorf("Destroy: %v", err)
			}
			if _, err := p.Create(t.Context(), testSpec(name)); !errors.Is(err, provisioner.ErrNotOurs) {
				t.Errorf("Create in its place: %v", err)
			}
			if !exists(path) || !exists(outside) {
				t.Error("something was removed")
			}
			list, err := p.List(t.Context())
			if err != nil || len(list) != 1 || list[0].Sandbox != "sb-own" {
				t.Errorf("List: %+v (%v), want only sb-own", list, err)
			}
		})
	}
	p.sh(t, ref, "true")
}
