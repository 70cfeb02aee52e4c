package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/agentlab-mcp/agentlab/internal/config"
)

// TestDocScripts runs the scripts of testdata/docs, which type what documents say.
// Each has a Proxmox as those of TestDoctorScripts have, and a certificate for
// 127.0.0.1 in $LAB_TLS that the authority $LAB_CA has signed.
func TestDocScripts(t *testing.T) {
	ca := newAuthority(t)
	pair := t.TempDir()
	ca.certify(config.HTTP{TLSCert: filepath.Join(pair, "cert.pem"), TLSKey: filepath.Join(pair, "key.pem")}, 1, "127.0.0.1", time.Now().Add(time.Hour))
	p := doctorParams(t)
	with := p.Setup
	p.Setup = func(env *testscript.Env) error {
		env.Setenv("LAB_TLS", pair)
		env.Setenv("LAB_CA", ca.file)
		return setupReader(env, with)
	}
	p.Dir = "testdata/docs"
	testscript.Run(t, p)
}

// TestDay is a user's day, from a Proxmox VE that nobody has prepared to a database
// that was lost: its scripts type what documents say. The programs are built ones,
// in $PREFIX, and of a later version in $LATER.
func TestDay(t *testing.T) {
	now, later := built(t), builtLater(t)
	p := blankParams(t)
	with := p.Setup
	p.Setup = func(env *testscript.Env) error {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		env.Setenv("METRICS", ln.Addr().String())
		prefix := filepath.Join(env.WorkDir, "prefix")
		env.Setenv("NOW", now)
		env.Setenv("LATER", later)
		env.Setenv("PREFIX", prefix)
		if err := setupReader(env, with); err != nil {
			return err
		}
		env.Setenv("PATH", prefix+":"+env.Getenv("PATH"))
		return ln.Close()
	}
	p.Dir = "testdata/day"
	testscript.Run(t, p)
}

// setupReader gives a script the documents, and a home.
func setupReader(env *testscript.Env, with func(*testscript.Env) error) error {
	root, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	env.Setenv("DOCS", root)
	home := filepath.Join(env.WorkDir, "home")
	env.Setenv("HOME", home)
	if err := os.MkdirAll(home, 0o711); err != nil {
		return err
	}
	return with(env)
}

// built builds the program, and returns its directory.
func built(t *testing.T, flags ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	searchable(t, dir)
	args := append([]string{"build", "-trimpath", "-o", filepath.Join(dir, "agentlab")}, flags...)
	if out, err := exec.CommandContext(t.Context(), "go", append(args, ".")...).CombinedOutput(); err != nil {
		t.Fatalf("build agentlab: %v\n%s", err, out)
	}
	return dir
}

// builtLater builds the program as a version to come, whose database is a step
// further.
func builtLater(t *testing.T) (dir string) {
	t.Helper()
	steps, err := filepath.Glob("../../store/migrations/*.sql")
	if err != nil || len(steps) == 0 {
		t.Fatalf("steps %q, %v", steps, err)
	}
	replaced := map[string]string{}
	for path, text := range map[string]string{
		"../../internal/release/release.go":                                   "package release\n\nfunc Version() string { return \"v99.0.0\" }\n",
		fmt.Sprintf("../../store/migrations/%03d_tomorrow.sql", len(steps)+1): "CREATE TABLE tomorrow (x INTEGER) STRICT;\n",
	} {
		from, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		replaced[from] = filepath.Join(t.TempDir(), filepath.Base(path))
		if err := os.WriteFile(replaced[from], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	return built(t, "-overlay", file)
}
