package hosttree_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/internal/hosttree"
)

// pack packs a directory and returns the names in the archive, sorted.
func pack(t *testing.T, dirs hosttree.Dirs, dir string) ([]string, hosttree.Stats) {
	t.Helper()
	var b bytes.Buffer
	stats, err := dirs.Pack(t.Context(), dir, &b)
	check(t, err)
	var names []string
	for tr := tar.NewReader(&b); ; {
		head, err := tr.Next()
		if errors.Is(err, io.EOF) {
			slices.Sort(names)
			return names, stats
		}
		check(t, err)
		names = append(names, head.Name)
	}
}

// What is packed is what git 2.39 lists of the same files (git ls-files -co
// --exclude-standard).
func TestIgnoredAsGitDoes(t *testing.T) {
	for _, tt := range []struct{ rules, packed, left string }{
		{"*.pem\n!certs/\n", "certs/a", "b.pem certs/b.pem"}, // a directory that is kept is not all that is in it
		{"*\n!*/\n!*.go\n!.gitignore\n", "a/b.go c.go", "a/key k"},
		{".env\n!app\n", "app/x", "app/.env .env"},
		{"secrets/**\n!secrets/README", "secrets/README", "secrets/key secrets/d/x"},
		{"foo/*\n!foo/keep\n", "foo/keep/x", "foo/a foo/b/x"},
		{"build/\n!build/x\n", "src/build", "build/x"}, // whose directory is left out
		{"/a\nb/c\n", "d/a d/b/c", "a b/c/x"},
		{"a/**/z\n", "z b/a/z", "a/z a/b/c/z"},
		{"**/z/w\n", "w/z", "z/w a/b/z/w"},
		{"d/**/\n", "d/x", "d/e/x"},
		{"\ufeffa\r\n\\#b\r\n\\!c\r\n", "x", "a #b !c"},
		{"# c\n\n!\n/\na  \n", "c", "a d/a"},
		{"{a,b}\n[[:digit:]]\n[!a-y]\n", "a b", "{a,b} 1 z"},
		{"[a\na\\\n", "a [a", ""},
	} {
		t.Run(tt.rules, func(t *testing.T) {
			want := append(strings.Fields(tt.packed), ".gitignore")
			files := map[string]string{".gitignore": tt.rules}
			for _, name := range append(strings.Fields(tt.left), want[:len(want)-1]...) {
				files[name] = ""
			}
			dir, dirs := allow(t, files)
			got, _ := pack(t, dirs, dir)
			got = slices.DeleteFunc(got, func(name string) bool { return strings.HasSuffix(name, "/") })
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("packed (-want +got):\n%s", diff)
			}
		})
	}
}
