package local

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// smallRoot makes a directory with no more than a shell, cat and what they are
// linked to.
func smallRoot(t *testing.T) string {
	t.Helper()
	dir := filepath.Dir(tempDir(t))
	for _, program := range []string{"sh", "cat", "ls", "df"} {
		path, err := exec.LookPath(program)
		if err != nil {
			t.Fatal(err)
		}
		copyInto(t, dir, path, "/bin/"+program)
		out, err := exec.CommandContext(t.Context(), "ldd", path).Output()
		if err != nil {
			t.Fatalf("ldd %s: %v", path, err)
		}
		for _, lib := range regexp.MustCompile(`/[^ ]+`).FindAllString(string(out), -1) {
			copyInto(t, dir, lib, lib)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "mark"), []byte("small"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func copyInto(t *testing.T, dir, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	to = filepath.Join(dir, to)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o755); err != nil {
		t.Fatal(err)
	}
}

// tree lists what is below dir.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		names = append(names, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// checkSmall uses a machine made of smallRoot.
func checkSmall(t *testing.T, p *place, root string) {
	t.Helper()
	spec := testSpec("sb-small")
	spec.Root = root
	ref := p.create(t, spec)
	if got, _ := p.sh(t, ref, "cat /mark; echo changed > /mark; echo x > /tmp/x; echo y > /workspace/y; cat /mark /tmp/x /workspace/y"); got != "smallchanged\nx\ny" {
		t.Errorf("inside: %q", got)
	}
	if _, exit := p.sh(t, ref, "cat /proc/self/stat /dev/null && ls /usr/bin/git"); exit.Code == 0 {
		t.Error("the host's programs are visible")
	}
}

func TestRootFromDirectory(t *testing.T) {
	for _, prefix := range []string{"", "dir:"} {
		t.Run("prefix-"+prefix, func(t *testing.T) {
			p := newPlace(t, programs(t))
			dir := smallRoot(t)
			if err := os.Mkdir(filepath.Join(dir, "run"), 0o755); err != nil {
				t.Fatal(err)
			}
			before := tree(t, dir)
			checkSmall(t, p, prefix+dir)
			if after := tree(t, dir); len(after) != len(before) {
				t.Errorf("the directory was written to: %v, before %v", after, before)
			}
			if mark, err := os.ReadFile(filepath.Join(dir, "mark")); err != nil || string(mark) != "small" {
				t.Errorf("the directory's file holds %q (%v)", mark, err)
			}
		})
	}
}

func TestRootFromArchive(t *testing.T) {
	p := newPlace(t, programs(t))
	dir := smallRoot(t)
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "small.tar")
	if err := os.WriteFile(archive, buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	checkSmall(t, p, archive)
	ref := p.create(t, testSpec("sb-small")) // adopted
	if got, _ := p.sh(t, ref, "df /tmp"); !bytes.Contains([]byte(got), []byte(" /\n")) && !bytes.HasSuffix([]byte(got), []byte(" /")) {
		t.Errorf("/tmp is not on the machine's disk:\n%s", got)
	}
}
