//go:build packaging

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/internal/config"
)

// TestPackages makes what is given to others of two clones in different places,
// which must be the same to the last byte, and tries the Debian package.
func TestPackages(t *testing.T) {
	outs := []string{packed(t, "a"), packed(t, "another/place")}
	sums := [2]string{}
	for i, out := range outs {
		text, err := os.ReadFile(filepath.Join(out, "SHA256SUMS"))
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = string(text)
	}
	if diff := cmp.Diff(sums[0], sums[1]); diff != "" {
		t.Errorf("the same commit makes other bytes elsewhere (-a +b):\n%s", diff)
	}
	for _, kind := range []string{".tar.gz", ".deb", ".mcpb", "-agentlab.cdx.json", "-agentlab-guest.cdx.json", "-runsc.cdx.json", "server.json"} {
		if n := strings.Count(sums[0], kind+"\n"); n != 1 {
			t.Errorf("there are %d %s in\n%s", n, kind, sums[0])
		}
	}
	output(t, outs[0], "sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS")
	deb := one(t, filepath.Join(outs[0], "*.deb"))
	t.Run("content", func(t *testing.T) { hasContent(t, deb) })
	t.Run("unit", func(t *testing.T) { hasSoundUnit(t, deb) })
	t.Run("install", func(t *testing.T) { installs(t, deb) })
	bom, err := os.ReadFile(one(t, filepath.Join(outs[0], "*-agentlab.cdx.json")))
	if err != nil || !strings.Contains(string(bom), `"pkg:golang/github.com/mark3labs/mcp-go@`) {
		t.Errorf("the bill of materials lacks what it is made of, %v", err)
	}
}

// packed runs dist in a clone of the last commit.
func packed(t *testing.T, place string) (out string) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	clone := filepath.Join(t.TempDir(), place)
	output(t, root, "git", "clone", "--quiet", root, clone)
	bin := filepath.Join(root, "bin")
	output(t, clone, "go", "run", "./internal/dist", "-arch", runtime.GOARCH, "-remote", "", "-runsc", filepath.Join(bin, "runsc"), "-tools", bin)
	return filepath.Join(clone, "dist")
}

func output(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=true")
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s%s", name, args, err, out, problems.String())
	}
	return string(out)
}

func one(t *testing.T, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) != 1 {
		t.Fatalf("%s: %q, %v", pattern, names, err)
	}
	return names[0]
}

func hasContent(t *testing.T, deb string) {
	var files []string
	for line := range strings.Lines(output(t, ".", "dpkg-deb", "-c", deb)) {
		fields := strings.Fields(line)
		if strings.HasPrefix(fields[0], "d") || strings.Contains(line, "/man1/agentlab-") || strings.Contains(line, "/doc/") {
			continue
		}
		files = append(files, fields[0]+" "+fields[1]+" "+strings.Join(fields[5:], " "))
	}
	slices.Sort(files)
	want := []string{
		"-rw-r----- root/root ./etc/agentlab/service/config.yaml",
		"-rw-r--r-- root/root ./usr/lib/systemd/system/agentlab.service",
		"-rw-r--r-- root/root ./usr/share/bash-completion/completions/agentlab",
		"-rw-r--r-- root/root ./usr/share/fish/vendor_completions.d/agentlab.fish",
		"-rw-r--r-- root/root ./usr/share/man/man1/agentlab.1.gz",
		"-rw-r--r-- root/root ./usr/share/zsh/vendor-completions/_agentlab",
		"-rwxr-xr-x root/root ./usr/lib/agentlab/agentlab",
		"-rwxr-xr-x root/root ./usr/lib/agentlab/agentlab-guest",
		"-rwxr-xr-x root/root ./usr/lib/agentlab/runsc",
		"-rwxr-xr-x root/root ./usr/sbin/agentlab-service",
		"l--------- root/root ./usr/bin/agentlab -> ../lib/agentlab/agentlab",
	}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if conf := output(t, ".", "dpkg-deb", "-I", deb, "conffiles"); conf != "/etc/agentlab/service/config.yaml\n" {
		t.Errorf("conffiles %q", conf)
	}
}

// hasSoundUnit lets systemd read the unit among the files of the package.
func hasSoundUnit(t *testing.T, deb string) {
	dir := t.TempDir()
	output(t, ".", "dpkg-deb", "-x", deb, dir)
	text, err := os.ReadFile(filepath.Join(dir, "usr/lib/systemd/system/agentlab.service"))
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(dir, "agentlab.service") // as if it were installed
	if err := os.WriteFile(unit, []byte(strings.ReplaceAll(string(text), "=/usr/bin/", "="+dir+"/usr/bin/")), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", unit)
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "agentlab") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	output(t, dir, "systemd-analyze", "security", "--offline=true", "--threshold=40", unit) // up to 4.0 is OK
	// systemd gives such a directory, with all that is in it, to the user of the unit.
	roots, err := config.Locate("", 0, "/root", func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	for setting, place := range map[string]string{"StateDirectory": "/var/lib/", "RuntimeDirectory": "/run/"} {
		m := regexp.MustCompile("(?m)^" + setting + "=(.+)$").FindStringSubmatch(string(text))
		if m == nil || place+m[1] == roots.State || place+m[1] == roots.Runtime {
			t.Errorf("%s is %q: want one that root's own installation, %+v, has not", setting, m, roots)
		}
	}
}

// installs installs, upgrades, removes and purges the package where that is root's
// to do.
func installs(t *testing.T, deb string) {
	if os.Geteuid() != 0 {
		t.Skip("only root installs packages")
	}
	got := output(t, ".", "unshare", "--mount", "sh", "testdata/install.sh", deb, t.TempDir())
	want := `install 0 start enabled
user agentlab /var/lib/agentlab-service:/usr/sbin/nologin agentlab:agentlab 700
config root:root 755 root:agentlab 750 root:agentlab 640
version VERSION
doctor ok configuration: /etc/agentlab/service/config.yaml
token list 5 agentlab: no daemon runs; start it: systemctl start agentlab
serve 1 agentlab: AGENTLAB_STARTED_BY is set: the daemon of this installation is started by systemctl start agentlab
daemon agentlab 600 agentlab 600 agentlab 600
upgrade 0 restart enabled
upgraded #mine 600
refused 1 start enabled
remove 0 stop
removed #mine key gone
again 0 restart enabled
disabled 0 restart disabled
purge 0 stop
purged gone key
roots roots root 711 root 644 root 711
`
	got = regexp.MustCompile(`(?m)^version agentlab \S+.*$`).ReplaceAllString(got, "version VERSION")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("installing (-want +got):\n%s", diff)
	}
}
