package hosttree_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/internal/hosttree"
)

// allow returns a directory and what allows it, and makes files in it. A name
// that ends in / is a directory; content "-> x" is a symbolic link.
func allow(t *testing.T, files map[string]string) (string, hosttree.Dirs) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "allowed")
	check(t, os.Mkdir(dir, 0o755))
	fill(t, dir, files)
	dirs, err := hosttree.New([]string{dir})
	check(t, err)
	return dir, dirs
}

func fill(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		check(t, os.MkdirAll(filepath.Dir(path), 0o755))
		switch target, link := strings.CutPrefix(content, "-> "); {
		case strings.HasSuffix(name, "/"):
			check(t, os.MkdirAll(path, 0o755))
		case link:
			check(t, os.Symlink(target, path))
		default:
			check(t, os.WriteFile(path, []byte(content), 0o644))
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// content returns what is in a directory, in the form that fill takes.
func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	check(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		name, _ := filepath.Rel(dir, path)
		switch {
		case err != nil || name == ".":
		case entry.IsDir():
			got[name+"/"] = ""
		case entry.Type() == fs.ModeSymlink:
			target, lerr := os.Readlink(path)
			got[name], err = "-> "+target, lerr
		default:
			text, rerr := os.ReadFile(path)
			got[name], err = string(text), rerr
		}
		return err
	}))
	return got
}

func TestPackLeavesOutWhatGitIgnores(t *testing.T) {
	dir, dirs := allow(t, map[string]string{
		".gitignore": "*.log\n# comment\n/build/\n!keep.log\n", ".git/config": "secret", "a.log": "1", "keep.log": "2",
		"build/x": "3", "src/build/y": "4", "src/.gitignore": "z\n", "src/z": "5", "src/w": "6", "z": "7",
		"sub/.git": "gitdir: elsewhere", "in": "-> src/w", "out": "-> /etc/passwd", "up": "-> ../x", "sub/up": "-> ../z",
		"sub/hook": "-> ../.git/hooks/x",
	})
	got, stats := pack(t, dirs, dir)
	want := []string{".gitignore", "in", "keep.log", "src/", "src/.gitignore", "src/build/", "src/build/y", "src/w", "sub/", "sub/up", "z"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("packed (-want +got):\n%s", diff)
	}
	if want := (hosttree.Stats{Files: 8, Bytes: 33, Skipped: 5}); stats.Files != want.Files || stats.Skipped != want.Skipped {
		t.Errorf("stats %+v, want files and skipped of %+v", stats, want)
	}
}

// The size is told without reading what is in files.
func TestPackedSize(t *testing.T) {
	dir, dirs := allow(t, map[string]string{"a": strings.Repeat("a", 1000), "sub/b": "b", "link": "-> a", "x.log": "left out", ".gitignore": "*.log\n"})
	check(t, os.Truncate(filepath.Join(dir, "a"), 1<<20))
	var packed bytes.Buffer
	_, err := dirs.Pack(t.Context(), dir, &packed)
	check(t, err)
	size, err := dirs.PackedSize(t.Context(), dir)
	check(t, err)
	if size != int64(packed.Len()) || size < 1<<20 {
		t.Errorf("size %d, and it is %d", size, packed.Len())
	}
	if _, err := dirs.PackedSize(t.Context(), filepath.Dir(dir)); !errors.Is(err, hosttree.ErrNotAllowed) {
		t.Errorf("of a directory that is not allowed: %v", err)
	}
}

func TestPackedIsUnpackedAsItWas(t *testing.T) {
	files := map[string]string{"a/": "", "a/b": "1", "a/empty/": "", "ünï cödé\n": "2", "l": "-> a/b", "x.sh": "3"}
	dir, dirs := allow(t, map[string]string{"from/": ""})
	fill(t, filepath.Join(dir, "from"), files)
	check(t, os.Chmod(filepath.Join(dir, "from", "x.sh"), 0o755))
	var b bytes.Buffer
	_, err := dirs.Pack(t.Context(), filepath.Join(dir, "from"), &b)
	check(t, err)
	to := filepath.Join(dir, "new", "to")
	stats, err := dirs.Unpack(t.Context(), to, &b, false)
	check(t, err)
	if diff := cmp.Diff(files, content(t, to)); diff != "" {
		t.Errorf("unpacked (-want +got):\n%s", diff)
	}
	info, err := os.Stat(filepath.Join(to, "x.sh"))
	check(t, err)
	if info.Mode() != 0o755 || stats.Files != 4 {
		t.Errorf("mode %v, stats %+v", info.Mode(), stats)
	}
}

func TestOnlyAllowedPaths(t *testing.T) {
	dir, dirs := allow(t, map[string]string{
		"f": "1", "out": "-> ..", "etc": "-> /etc", "nowhere": "-> /nonexistent/x", ".git/hooks/": "", ".GIT2/": "", "git": "-> .git",
	})
	fill(t, dir+"-not", map[string]string{"f": "2"})
	check(t, os.Symlink(filepath.Join(dir, "f"), dir+"-in"))
	for path, allowed := range map[string]bool{
		"f": false, dir + "/f": true, dir + "/../allowed/f": true, dir + "-in": true,
		dir + "-not/f": false, dir + "/../allowed-not/f": false, dir + "/out/allowed-not/f": false,
		dir + "/out": false, dir + "/etc/passwd": false, "/etc/passwd": false, "": false, "/": false, dir + "/nowhere": false,
		dir + "/.git/hooks": false, dir + "/git/hooks": false,
	} {
		f, err := dirs.Open(path)
		if allowed != (err == nil) || err != nil && !errors.Is(err, hosttree.ErrNotAllowed) {
			t.Errorf("open %q: %v, want allowed %v", path, err, allowed)
		}
		if err == nil {
			f.Close()
		}
	}
	for path, allowed := range map[string]bool{
		dir + "/new/f": true, dir + "/out/f": false, dir + "/etc/agentlab-test": false, dir + "/nowhere": false,
		dir + "/.git/hooks/pre-commit": false, dir + "/git/hooks/pre-commit": false, dir + "/.Git/x": false, dir + "-not/new": false, "/": false,
	} {
		_, err := dirs.Save(t.Context(), path, strings.NewReader("x"), 0o644, false)
		if allowed != (err == nil) || err != nil && !errors.Is(err, hosttree.ErrNotAllowed) {
			t.Errorf("save %q: %v, want allowed %v", path, err, allowed)
		}
	}
	if none, err := hosttree.New(nil); err != nil {
		t.Error(err)
	} else if _, err := none.Open(dir + "/f"); !errors.Is(err, hosttree.ErrNotAllowed) {
		t.Errorf("nothing is allowed, and open says %v", err)
	}
}

func TestDirectoriesMustExist(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o644))
	for _, path := range []string{"", ".", "rel", dir + "/none", dir + "/f"} {
		if _, err := hosttree.New([]string{path}); err == nil || !strings.Contains(err.Error(), `"`+path+`"`) {
			t.Errorf("allow %q: %v", path, err)
		}
	}
}

// evil makes a tar of entries that no tar program would make.
func evil(t *testing.T, heads ...tar.Header) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range heads {
		if h.Typeflag == 0 {
			h.Typeflag, h.Size = tar.TypeReg, 1
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		check(t, w.WriteHeader(&h))
		if h.Typeflag == tar.TypeReg {
			_, err := w.Write([]byte("x"))
			check(t, err)
		}
	}
	check(t, w.Close())
	return &b
}

func link(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}

func TestGuestsCannotReachOut(t *testing.T) {
	dir, dirs := allow(t, map[string]string{"t/": ""})
	stats, err := dirs.Unpack(t.Context(), dir+"/t/got", evil(t,
		tar.Header{Name: "../up"}, tar.Header{Name: "/abs"}, tar.Header{Name: "a/../../up2"}, tar.Header{Name: ".git/hooks/pre-commit"},
		tar.Header{Name: "sub/.GIT/config"}, link("etc", "/etc"), link("par", ".."), link("deep/l", "../../x"), link("hook", ".git/hooks/x"),
		tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: "/etc/passwd"}, tar.Header{Typeflag: tar.TypeFifo, Name: "fifo"},
		tar.Header{Typeflag: tar.TypeChar, Name: "dev", Devmajor: 1, Devminor: 3}, tar.Header{Name: "suid", Mode: 0o6777}, link("fine", "suid"),
		link("x/x/root", "../.."), link("chain", "x/x/root/../../outside"), link("x/chain", "./x/root/.."), tar.Header{Name: strings.Repeat("d/", 3000) + "f"},
	), false)
	check(t, err)
	want := map[string]string{"t/": "", "t/got/": "", "t/got/suid": "x", "t/got/fine": "-> suid", "t/got/x/": "", "t/got/x/x/": "", "t/got/x/x/root": "-> ../.."}
	if diff := cmp.Diff(want, content(t, dir)); diff != "" {
		t.Errorf("unpacked (-want +got):\n%s", diff)
	}
	if stats.Files != 3 || stats.Skipped != 15 {
		t.Errorf("stats %+v", stats)
	}
	info, err := os.Stat(dir + "/t/got/suid")
	check(t, err)
	if info.Mode() != 0o755 {
		t.Errorf("mode %v", info.Mode())
	}
}

// Of a file with several names tar sends the content once.
func TestHardLinksAreUnpacked(t *testing.T) {
	dir, dirs := allow(t, nil)
	hard := func(name, target string) tar.Header {
		return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
	}
	stats, err := dirs.Unpack(t.Context(), dir+"/got", evil(t,
		tar.Header{Name: "./a"}, hard("./d/b", "./a"), hard("lost", ".git/config"), hard("out", "../../x"),
	), false)
	check(t, err)
	want := map[string]string{"got/": "", "got/a": "x", "got/d/": "", "got/d/b": "x"}
	if diff := cmp.Diff(want, content(t, dir)); diff != "" || stats.Files != 2 || stats.Skipped != 2 {
		t.Errorf("stats %+v, unpacked (-want +got):\n%s", stats, diff)
	}
}

// A link whose parent is a link would not stand where its name says.
func TestNothingIsWrittenThroughLinks(t *testing.T) {
	for name, heads := range map[string][]tar.Header{
		"link": {link("x", "."), link("x/l", "..")},
		"file": {link("x", "d"), {Typeflag: tar.TypeDir, Name: "d/"}, {Name: "x/f"}},
	} {
		dir, dirs := allow(t, nil)
		if _, err := dirs.Unpack(t.Context(), dir+"/got", evil(t, heads...), false); !errors.Is(err, hosttree.ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
		if got := content(t, dir); len(got) != 0 {
			t.Errorf("%s left %v", name, got)
		}
	}
}

func TestOverwriting(t *testing.T) {
	before := map[string]string{"d/": "", "d/f": "old", "d/own": "own", "d/sub/": "", "d/l": "-> sub"}
	for name, tt := range map[string]struct {
		overwrite bool
		do        doing
		err       error
		after     map[string]string
	}{
		"file-refused":   {false, save("d/f"), fs.ErrExist, before},
		"file":           {true, save("d/f"), nil, with(before, "d/f", "x")},
		"file-on-dir":    {true, save("d/sub"), hosttree.ErrConflict, before},
		"file-on-link":   {true, save("d/l"), hosttree.ErrConflict, before},
		"file-below":     {true, save("d/f/g"), hosttree.ErrConflict, before},
		"tree-refused":   {false, unpack("d", tar.Header{Name: "f"}), fs.ErrExist, before},
		"tree":           {true, unpack("d", tar.Header{Name: "f"}, tar.Header{Name: "n/m"}), nil, with(before, "d/f", "x", "d/n/", "", "d/n/m", "x")},
		"tree-on-file":   {true, unpack("d/f", tar.Header{Name: "f"}), hosttree.ErrConflict, before},
		"tree-conflicts": {true, unpack("d", tar.Header{Name: "own"}, tar.Header{Name: "sub"}), hosttree.ErrConflict, before},
		"tree-in-link":   {true, unpack("d", tar.Header{Name: "l/f"}), hosttree.ErrConflict, before},
		"no-archive": {true, func(t *testing.T, d hosttree.Dirs, dir string, _ bool) error {
			_, err := d.Unpack(t.Context(), dir+"/d", strings.NewReader("tar: not found"), true)
			return err
		}, hosttree.ErrBadArchive, before},
	} {
		t.Run(name, func(t *testing.T) {
			dir, dirs := allow(t, before)
			if err := tt.do(t, dirs, dir, tt.overwrite); !errors.Is(err, tt.err) {
				t.Errorf("error %v, want %v", err, tt.err)
			}
			if diff := cmp.Diff(tt.after, content(t, dir)); diff != "" {
				t.Errorf("after it (-want +got):\n%s", diff)
			}
		})
	}
}

func with(files map[string]string, more ...string) map[string]string {
	all := map[string]string{}
	maps.Copy(all, files)
	for i := 0; i < len(more); i += 2 {
		all[more[i]] = more[i+1]
	}
	return all
}

type doing = func(t *testing.T, d hosttree.Dirs, dir string, overwrite bool) error

func save(name string) doing {
	return func(t *testing.T, d hosttree.Dirs, dir string, overwrite bool) error {
		_, err := d.Save(t.Context(), dir+"/"+name, strings.NewReader("x"), 0o644, overwrite)
		return err
	}
}

func unpack(name string, heads ...tar.Header) doing {
	return func(t *testing.T, d hosttree.Dirs, dir string, overwrite bool) error {
		_, err := d.Unpack(t.Context(), dir+"/"+name, evil(t, heads...), overwrite)
		return err
	}
}

// What breaks off in the middle leaves nothing.
func TestBrokenOffLeavesNothing(t *testing.T) {
	dir, dirs := allow(t, map[string]string{"f": "old"})
	broken := errors.New("connection lost")
	if _, err := dirs.Save(t.Context(), dir+"/f", io.MultiReader(strings.NewReader("new"), failing{broken}), 0o644, true); !errors.Is(err, broken) {
		t.Error(err)
	}
	whole, err := io.ReadAll(evil(t, tar.Header{Name: "a"}, tar.Header{Name: "b"}))
	check(t, err)
	if _, err := dirs.Unpack(t.Context(), dir+"/d", io.MultiReader(bytes.NewReader(whole[:700]), failing{broken}), false); !errors.Is(err, broken) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := dirs.Save(ctx, dir+"/g", strings.NewReader("x"), 0o644, false); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if diff := cmp.Diff(map[string]string{"f": "old"}, content(t, dir)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
