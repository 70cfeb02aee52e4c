package local

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// Each reason why no machine can be made is said with what mends it.
func TestCheck(t *testing.T) {
	bin := programs(t)
	script := func(text string) string {
		path := filepath.Join(t.TempDir(), "runsc")
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	noUserNamespace := script("#!/bin/sh\n[ \"$(cut -c1-40 /proc/self/uid_map | xargs)\" = '0 0 4294967295' ]\n")
	for _, tt := range []struct {
		name string
		edit func(t *testing.T, p *Provisioner)
		want string // in the error; empty is none
	}{
		{"works", func(*testing.T, *Provisioner) {}, ""},
		{"runsc-missing", func(_ *testing.T, p *Provisioner) { p.Runsc = "/nonexistent/runsc" }, "make build"},
		{"runsc-not-found", func(t *testing.T, p *Provisioner) { p.Runsc = ""; t.Setenv("PATH", "/nonexistent") }, "neither next to agentlab nor on PATH"},
		{"runsc-broken", func(t *testing.T, p *Provisioner) { p.Runsc = script("#!/bin/sh\necho no such luck; exit 3\n") }, "no such luck"},
		{"no-user-namespace", func(t *testing.T, p *Provisioner) { p.Runsc = noUserNamespace }, "user namespace"},
		{"guest-missing", func(t *testing.T, p *Provisioner) { p.Guest = "/nonexistent/guest" }, "/nonexistent/guest"},
		{"platform", func(t *testing.T, p *Provisioner) { p.Platform = "xen" }, "none of systrap"},
		{"relative-dir", func(t *testing.T, p *Provisioner) { p.Dir = "state" }, "not absolute"},
		{"dir-is-file", func(t *testing.T, p *Provisioner) { p.Dir = noUserNamespace }, "not a directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "no-user-namespace" && os.Geteuid() != 0 {
				t.Log("the stand-in tells namespaces apart by root's map; root's run covers it")
				return
			}
			p := &Provisioner{
				Dir: tempDir(t), Key: testKey(t), Instance: testInstance,
				Runsc: filepath.Join(bin, "runsc"), Guest: filepath.Join(bin, "agentlab-guest"),
			}
			tt.edit(t, p)
			err := p.Check(t.Context())
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("Check: %v", err)
			case tt.want != "" && (!errors.Is(err, provisioner.ErrUnavailable) || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("Check: %v; want ErrUnavailable and %q", err, tt.want)
			}
		})
	}
}

// Root's machines run as nobody, who must be able to reach their files.
func TestCheckDirThatNobodyCanPass(t *testing.T) {
	bin := programs(t)
	locked := filepath.Join(filepath.Dir(tempDir(t)), "locked")
	if err := os.Mkdir(locked, 0o700); err != nil {
		t.Fatal(err)
	}
	p := &Provisioner{
		Dir: filepath.Join(locked, "state"), Key: testKey(t), Instance: testInstance,
		Runsc: filepath.Join(bin, "runsc"), Guest: filepath.Join(bin, "agentlab-guest"),
	}
	err := p.Check(t.Context())
	if os.Geteuid() != 0 {
		if err != nil {
			t.Errorf("an ordinary user's machines run as that user, so it does not matter: %v", err)
		}
		return
	}
	if err == nil || !strings.Contains(err.Error(), "chmod o+x "+locked) {
		t.Errorf("Check: %v; want it to say chmod o+x %s", err, locked)
	}
}

func TestNoRoom(t *testing.T) {
	p := newPlace(t, programs(t))
	spec := testSpec("sb-huge")
	spec.MemoryMB = 1 << 30
	_, err := p.Create(t.Context(), spec)
	if !errors.Is(err, provisioner.ErrExhausted) || !strings.Contains(err.Error(), "1073741824 MB") {
		t.Errorf("Create: %v; want ErrExhausted with the figures", err)
	}
}

func TestNoDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Log("only root can make a small disk; root's run covers it")
		return
	}
	p := newPlace(t, programs(t))
	if err := unix.Mount("tmpfs", p.Dir, "tmpfs", 0, "mode=0711,size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(p.Dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	_, err := p.Create(t.Context(), testSpec("sb-nodisk"))
	if !errors.Is(err, provisioner.ErrExhausted) || !strings.Contains(err.Error(), "256 MB are needed") {
		t.Errorf("Create: %v; want ErrExhausted with the figures", err)
	}
}
