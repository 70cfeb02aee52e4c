package tools_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/hosttree"
	"github.com/agentlab-mcp/agentlab/tools"
)

// allowed makes a directory of the user's with files, and calls tools for a
// client that allows it.
func (e *env) allowed(files map[string]string) (dir string, call func(tool string, a args) tools.Result) {
	e.t.Helper()
	dir = e.t.TempDir()
	for name, text := range files {
		check(e.t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		check(e.t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	dirs, err := hosttree.New([]string{dir})
	check(e.t, err)
	return dir, func(tool string, a args) tools.Result {
		a["sandbox_id"] = e.sandbox
		raw, err := json.Marshal(a)
		check(e.t, err)
		ctx := tools.WithMoved(as(e.t.Context(), "local:1"), func(m tools.Moved) { e.moved = m })
		return e.tools[tool].Call(tools.WithHostDirs(ctx, dirs), raw)
	}
}

func wantOutcome(t testing.TB, res tools.Result, isError bool, want string) {
	t.Helper()
	if res.IsError != isError || !strings.Contains(textOf(res), want) {
		t.Errorf("error %v: %s\nwant error %v with %q", res.IsError, textOf(res), isError, want)
	}
}

func TestTransfersAreOfferedOnlyWhereAllowed(t *testing.T) {
	e := newEnv(t)
	for _, name := range []string{"upload_file", "download_file"} {
		if e.tools[name].Offered(t.Context()) {
			t.Errorf("%s is offered to everybody", name)
		}
		if e.tools[name].Offered(tools.WithHostDirs(t.Context(), hosttree.Dirs{})) {
			t.Errorf("%s is offered to who allows nothing", name)
		}
		if most := e.tools[name].Most; most < time.Hour {
			t.Errorf("%s may take %v, and 2 GiB take longer over a slow channel", name, most)
		}
	}
	host := filepath.Join(t.TempDir(), "f")
	e.wantError("upload_file", args{"local_path": e.write("x", "1")}, "not in an allowed directory")
	e.wantError("download_file", args{"path": "x", "local_path": host}, "not in an allowed directory")
	if _, err := os.Lstat(host); err == nil {
		t.Error("written")
	}
}

// Whoever waits is told how much there is, but for directories of a sandbox.
func TestTransfersTellHowFarTheyAre(t *testing.T) {
	e := newEnv(t)
	dir, call := e.allowed(map[string]string{"p/a": strings.Repeat("a", 100_000), "f": "file"})
	for _, tt := range []struct {
		tool        string
		args        args
		done, total int64 // a total of -1 is what is done
	}{
		{"upload_file", args{"local_path": dir + "/f"}, 4, 4},
		{"upload_file", args{"local_path": dir + "/p"}, 100_000, -1},
		{"download_file", args{"path": "p/a", "local_path": dir + "/a"}, 100_000, 100_000},
		{"download_file", args{"path": "p", "local_path": dir + "/q"}, 100_000, 0},
	} {
		wantOutcome(t, call(tt.tool, tt.args), false, "copied to")
		if tt.total < 0 {
			tt.total = e.moved.Done
		}
		if e.moved.Done < tt.done || e.moved.Total != tt.total {
			t.Errorf("%s %v: told %+v at last", tt.tool, tt.args, e.moved)
		}
	}
}

func TestUpload(t *testing.T) {
	e := newEnv(t)
	dir, call := e.allowed(map[string]string{
		"p/.gitignore": "*.o\n", "p/a.c": "int a;", "p/a.o": "x", "p/.git/config": "token", "p/sub/ünï cödé": "u", "f": "file",
	})
	res := call("upload_file", args{"local_path": dir + "/p"})
	wantOutcome(t, res, false, "3 files, ")
	wantOutcome(t, res, false, "1 left out")
	if got := e.file("p/a.c") + e.file("p/sub/ünï cödé"); got != "int a;u" {
		t.Errorf("uploaded %q", got)
	}
	for _, name := range []string{"p/a.o", "p/.git"} {
		if _, err := os.Lstat(filepath.Join(e.home, name)); err == nil {
			t.Errorf("%s was uploaded", name)
		}
	}
	e.write("p/own", "own")
	check(t, os.WriteFile(dir+"/p/a.c", []byte("int b;"), 0o644))
	wantOutcome(t, call("upload_file", args{"local_path": dir + "/p", "path": "p"}), false, "copied to "+e.home+"/p")
	if got := e.file("p/a.c") + e.file("p/own"); got != "int b;own" {
		t.Errorf("added %q", got)
	}
	wantOutcome(t, call("upload_file", args{"local_path": dir + "/f", "path": "new/dir/"}), false, "1 file, 4 bytes, copied to "+e.home+"/new/dir/f")
	wantOutcome(t, call("upload_file", args{"local_path": dir + "/f", "path": "new/g"}), false, e.home+"/new/g")
	wantOutcome(t, call("upload_file", args{"local_path": dir + "/p", "path": "new/g"}), true, "is a file")
	wantOutcome(t, call("upload_file", args{"local_path": dir + "/none"}), true, "no such file or directory, on the user's machine")
	wantOutcome(t, call("upload_file", args{"local_path": "/etc/passwd"}), true, "allowed: what is below "+dir)
	if got := e.file("new/dir/f") + e.file("new/g"); got != "filefile" {
		t.Errorf("uploaded %q", got)
	}
	e.wantNoStage(e.home)
	e.wantNoStage(e.home + "/new")
}

func TestDownload(t *testing.T) {
	e := newEnv(t)
	dir, call := e.allowed(map[string]string{"old": "old", "d/own": "own"})
	check(t, os.MkdirAll(e.home+"/out/.git/hooks", 0o755))
	check(t, os.MkdirAll(e.home+"/out/sub", 0o755))
	for name, text := range map[string]string{"out/r": "result", "out/sub/s": "s", "out/.git/hooks/pre-commit": "evil", "one": "1"} {
		e.write(name, text)
	}
	check(t, os.Symlink("/etc/passwd", e.home+"/out/leads-out"))
	check(t, os.Chmod(e.home+"/one", 0o755))

	wantOutcome(t, call("download_file", args{"path": "out", "local_path": dir + "/got"}), false, "2 files, 7 bytes, copied to "+dir+"/got")
	if got := read(t, dir+"/got/r") + read(t, dir+"/got/sub/s"); got != "results" {
		t.Errorf("downloaded %q", got)
	}
	for _, name := range []string{".git", "leads-out"} {
		if _, err := os.Lstat(dir + "/got/" + name); err == nil {
			t.Errorf("%s was downloaded", name)
		}
	}
	wantOutcome(t, call("download_file", args{"path": "out", "local_path": dir + "/d"}), true, "exists; set overwrite=true")
	wantOutcome(t, call("download_file", args{"path": "out", "local_path": dir + "/d", "overwrite": true}), false, "2 files")
	if got := read(t, dir+"/d/own") + read(t, dir+"/d/r"); got != "ownresult" {
		t.Errorf("added %q", got)
	}
	wantOutcome(t, call("download_file", args{"path": "one", "local_path": dir + "/old"}), true, "exists; set overwrite=true")
	wantOutcome(t, call("download_file", args{"path": "one", "local_path": dir + "/sub/"}), false, dir+"/sub/one")
	if info, err := os.Stat(dir + "/sub/one"); err != nil || info.Mode() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
	wantOutcome(t, call("download_file", args{"path": "none", "local_path": dir + "/n"}), true, "does not exist")
	wantOutcome(t, call("download_file", args{"path": "one", "local_path": "/etc/agentlab-none"}), true, "allowed: what is below "+dir)
	wantOutcome(t, call("download_file", args{"path": "one", "local_path": dir + "/.git/hooks/pre-commit"}), true, "git")
	if got := read(t, dir+"/old"); got != "old" {
		t.Errorf("old is %q", got)
	}
	e.wantNoStage(dir)
}

// A guest without tar is told so, and nothing is left.
func TestTransferWithoutTar(t *testing.T) {
	e := newEnv(t)
	dir, call := e.allowed(map[string]string{"p/a": "1"})
	check(t, os.MkdirAll(e.home+"/out", 0o755))
	e.conn.path = "/nonexistent"
	wantOutcome(t, call("upload_file", args{"local_path": dir + "/p"}), true, "has no tar")
	wantOutcome(t, call("download_file", args{"path": "out", "local_path": dir + "/got"}), true, "has no tar")
	e.conn.path = ""
	e.wantNoStage(e.home)
	e.wantNoStage(dir)
}

// What is cancelled leaves nothing, on either side.
func TestCancelledTransfers(t *testing.T) {
	e := newEnv(t)
	dir, _ := e.allowed(map[string]string{"p/a": "1"})
	dirs, err := hosttree.New([]string{dir})
	check(t, err)
	for tool, a := range map[string]args{
		"upload_file":   {"local_path": dir + "/p"},
		"download_file": {"path": ".", "local_path": dir + "/got"},
	} {
		ctx, cancel := context.WithCancel(tools.WithHostDirs(as(t.Context(), "local:1"), dirs))
		e.conn.beforeRun = cancel
		a["sandbox_id"] = e.sandbox
		raw, err := json.Marshal(a)
		check(t, err)
		if res := e.tools[tool].Call(ctx, raw); !res.IsError {
			t.Errorf("%s: %s", tool, textOf(res))
		}
		e.conn.beforeRun = nil
		cancel()
	}
	for _, name := range []string{e.home + "/p", dir + "/got"} {
		if _, err := os.Lstat(name); err == nil {
			t.Errorf("%s is there", name)
		}
	}
	e.wantNoStage(e.home)
	e.wantNoStage(dir)
}

func (e *env) wantNoStage(dir string) {
	e.t.Helper()
	if left, err := filepath.Glob(dir + "/.agentlab-*"); err != nil || len(left) > 0 {
		e.t.Errorf("left %q, %v", left, err)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	check(t, err)
	return string(text)
}
