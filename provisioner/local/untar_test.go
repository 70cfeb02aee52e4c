package local

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// entry is one of an archive; its type follows from its fields.
type entry struct {
	name, text, link, hard string
	mode                   int64
	typ                    byte
}

func writeTar(t *testing.T, path string, entries ...entry) {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: e.mode, Typeflag: e.typ, Size: int64(len(e.text))}
		switch {
		case e.typ != 0:
		case e.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		case e.hard != "":
			h.Typeflag, h.Linkname = tar.TypeLink, e.hard
		default:
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	data := buf.Bytes()
	if filepath.Ext(path) == ".gz" {
		var z bytes.Buffer
		zw := gzip.NewWriter(&z)
		if _, err := zw.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := zw.Close(); err != nil {
			t.Fatal(err)
		}
		data = z.Bytes()
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestUnpackKeepsWhatCounts(t *testing.T) {
	for _, file := range []string{"root.tar", "root.tar.gz"} {
		t.Run(file, func(t *testing.T) {
			p, st := openTemp(t)
			archive := filepath.Join(t.TempDir(), file)
			writeTar(t, archive,
				entry{name: "./", typ: tar.TypeDir, mode: 0o755},
				entry{name: "./usr/bin/su", text: "first", mode: 0o755},
				entry{name: "./usr/bin/su", text: "su", mode: 0o4755},
				entry{name: "/etc/abs", text: "abs", mode: 0o600},
				entry{name: "bin", link: "usr/bin"},
				entry{name: "bin/through-link", text: "x", mode: 0o644},
				entry{name: "locked/", typ: tar.TypeDir, mode: 0o500},
				entry{name: "locked/in", text: "in", mode: 0o400},
				entry{name: "dev/sda", typ: tar.TypeBlock, mode: 0o666},
				entry{name: "hard", hard: "usr/bin/su"},
				entry{name: "dangling", link: "/nowhere/at/all"},
			)
			r, err := p.root(t.Context(), st, tools{}, archive)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { // testing can't remove what is in a directory without w
				if err := removeTree(r.dir); err != nil {
					t.Error(err)
				}
			})
			for name, want := range map[string]string{
				"usr/bin/su": "su", "etc/abs": "abs", "usr/bin/through-link": "x", "locked/in": "in", "hard": "su",
			} {
				if got, err := os.ReadFile(filepath.Join(r.dir, name)); err != nil || string(got) != want {
					t.Errorf("%s holds %q (%v), want %q", name, got, err, want)
				}
			}
			for name, want := range map[string]fs.FileMode{
				"usr/bin/su": 0o755 | fs.ModeSetuid, "etc/abs": 0o600, "locked": 0o500 | fs.ModeDir,
				"tmp": 0o777 | fs.ModeSticky | fs.ModeDir, "dangling": 0o777 | fs.ModeSymlink,
				"workspace": 0o755 | fs.ModeDir, "proc": 0o755 | fs.ModeDir,
			} {
				if fi, err := os.Lstat(filepath.Join(r.dir, name)); err != nil || fi.Mode() != want {
					t.Errorf("%s: mode %v (%v), want %v", name, fi.Mode(), err, want)
				}
			}
			if exists(filepath.Join(r.dir, "dev/sda")) {
				t.Error("a device was made")
			}
		})
	}
}

func TestUnpackStaysInside(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("precious"), 0o666); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(outside)
	for name, entries := range map[string][]entry{
		"dotdot":               {{name: "../../../../../../../../" + outside, text: "evil"}},
		"dotdot-inside":        {{name: "a/../../../../../../../" + outside, text: "evil"}},
		"absolute-link-parent": {{name: "a", link: dir}, {name: "a/outside", text: "evil"}},
		"relative-link-parent": {{name: "a", link: "../../../../../../../" + dir}, {name: "a/outside", text: "evil"}},
		"link-itself":          {{name: "a", link: outside}, {name: "b", hard: "a"}, {name: "b", text: "evil"}},
		"hard-link-out":        {{name: "a", hard: "../../../../../../" + outside}, {name: "a", text: "evil"}},
		"dir-over-link":        {{name: "a", link: dir}, {name: "a", typ: tar.TypeDir, mode: 0o777}, {name: "a/outside", text: "evil"}},
		"mode-through-link":    {{name: "tmp", link: dir}},
	} {
		t.Run(name, func(t *testing.T) {
			p, st := openTemp(t)
			archive := filepath.Join(t.TempDir(), "root.tar")
			writeTar(t, archive, entries...)
			_, err := p.root(t.Context(), st, tools{}, archive)
			if err != nil && !errors.Is(err, provisioner.ErrInvalid) {
				t.Errorf("error %v is not ErrInvalid", err)
			}
			if got, rerr := os.ReadFile(outside); rerr != nil || string(got) != "precious" {
				t.Errorf("a file outside holds %q (%v)", got, rerr)
			}
			if fi, serr := os.Stat(outside); serr != nil || fi.Mode() != 0o644 {
				t.Errorf("a file outside has mode %v (%v)", fi.Mode(), serr)
			}
			if entries, rerr := os.ReadDir(dir); rerr != nil || len(entries) != 1 {
				t.Errorf("beside it are %v (%v)", entries, rerr)
			}
		})
	}
}

func TestRootThatIsNone(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("this is not an archive"), 0o644); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty.tar")
	writeTar(t, empty)
	zstd := filepath.Join(dir, "x.tar.zst")
	if err := os.WriteFile(zstd, []byte("\x28\xb5\x2f\xfd1234"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, root := range map[string]string{
		"relative": "root.tar", "missing": filepath.Join(dir, "no"), "text": text, "empty": empty, "zstd": zstd,
		"no-run": dir, "file-as-dir": "dir:" + text, "device": "/dev/null", "name": "debian",
	} {
		t.Run(name, func(t *testing.T) {
			p, st := openTemp(t)
			_, err := p.root(t.Context(), st, tools{}, root)
			if !errors.Is(err, provisioner.ErrInvalid) {
				t.Fatalf("error %v is not ErrInvalid", err)
			}
			if !bytes.Contains([]byte(err.Error()), []byte(root)) {
				t.Errorf("%q does not name %q", err, root)
			}
			left, err := os.ReadDir(st.rootfsDir())
			if err != nil || len(left) > 1 { // the mount points
				t.Errorf("left over: %v (%v)", left, err)
			}
		})
	}
}

// An archive is unpacked once, by whoever comes first, and again when it changes.
func TestUnpackOnce(t *testing.T) {
	p, st := openTemp(t)
	archive := filepath.Join(t.TempDir(), "root.tar")
	writeTar(t, archive, entry{name: "a", text: "1", mode: 0o644})
	first, err := p.root(t.Context(), st, tools{}, archive)
	if err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(first.dir, "mark")
	if err := os.WriteFile(mark, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	again, err := p.root(t.Context(), st, tools{}, archive)
	if err != nil || again.dir != first.dir || !exists(mark) {
		t.Errorf("second use: %s (%v), mark there: %v; want %s as it was", again.dir, err, exists(mark), first.dir)
	}
	writeTar(t, archive, entry{name: "a", text: "22", mode: 0o644})
	changed, err := p.root(t.Context(), st, tools{}, archive)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(changed.dir, "a")); err != nil || string(got) != "22" {
		t.Errorf("after a change of the archive: %q (%v)", got, err)
	}
}

func TestCollectKeepsWhatIsUsed(t *testing.T) {
	p, st := openTemp(t)
	old := time.Now().Add(-2 * keepRootfs)
	dirs := map[string]string{}
	for name, digit := range map[string]string{"used": "a", "unused": "b", "young": "c"} {
		dir := filepath.Join(st.rootfsDir(), string(bytes.Repeat([]byte(digit), 64)))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o400); err != nil {
			t.Fatal(err)
		}
		if name != "young" {
			if err := os.Chtimes(dir, old, old); err != nil {
				t.Fatal(err)
			}
		}
		dirs[name] = dir
	}
	if _, err := p.newBundle(st, rootfs{dir: dirs["used"]}, testSpec("sb-1")); err != nil {
		t.Fatal(err)
	}
	p.collect(st)
	for name, dir := range dirs {
		if got, want := exists(dir), name != "unused"; got != want {
			t.Errorf("%s root file system there: %v, want %v", name, got, want)
		}
	}
}
