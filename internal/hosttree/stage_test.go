package hosttree

import (
	"archive/tar"
	"bytes"
	"errors"
	"testing"
)

// An archive of nothing but directories is not one of nothing.
func TestDirectoriesAreCounted(t *testing.T) {
	dirs, err := New([]string{t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{"a/": nil, "a/b/": ErrTooMuch, "a/f": nil, "a/b/f": ErrTooMuch} {
		t.Run(name, func(t *testing.T) {
			s, err := dirs.stage(dirs.Paths()[0]+"/got", false, true)
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			s.dirs = MaxFiles - 2 // of which one is for what all is unpacked into
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			if err := errors.Join(w.WriteHeader(&tar.Header{Name: name, Mode: 0o755}), w.Close()); err != nil {
				t.Fatal(err)
			}
			if err := s.extract(t.Context(), tar.NewReader(&b)); !errors.Is(err, want) {
				t.Errorf("error %v, want %v", err, want)
			}
		})
	}
}
