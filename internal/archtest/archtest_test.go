package archtest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/internal/archtest"
)

func TestArchitecture(t *testing.T) {
	pkgs, err := archtest.Load("../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) < 5 {
		t.Fatalf("found %d packages: is this the module's root?", len(pkgs))
	}
	for _, line := range archtest.Check(pkgs, archtest.Architecture()) {
		t.Error(line)
	}
}

// TestLayersNameLayers finds names in the list that no layer has, or that
// stand below, which would allow nothing and look as if they did.
func TestLayersNameLayers(t *testing.T) {
	rules := archtest.Architecture()
	known := map[string]bool{"*": true}
	for _, l := range rules.Layers {
		for _, dep := range l.Fields() {
			if !known[dep] {
				t.Errorf("%s may import %s, which does not stand above it", l.Pkg, dep)
			}
		}
		known[l.Pkg] = true
	}
	for _, o := range rules.Owned {
		for _, by := range o.Fields() {
			if !known[by] {
				t.Errorf("%s belongs to %s, which is no layer", o.Import, by)
			}
		}
	}
}

func TestCheck(t *testing.T) {
	rules := archtest.Rules{
		Layers: []archtest.Layer{{"low", ""}, {"mid", "low"}, {"high", "low"}, {"top", "*"}},
		Owned:  []archtest.Owned{{"example.com/lib", "low", "it is theirs"}},
	}
	tests := []struct {
		name string
		pkg  archtest.Package
		want []string
	}{
		{"allowed", pkg("mid", archtest.Module+"/low"), nil},
		{"all-above", pkg("top", archtest.Module+"/low", archtest.Module+"/high"), nil},
		{"standard-library", pkg("low", "fmt"), nil},
		{"not-in-the-list", pkg("new", archtest.Module+"/low"), []string{"new is not in the architecture: give it a layer"}},
		{"unknown-dependency", pkg("top", archtest.Module+"/odd"), []string{"top imports odd: the architecture has no odd"}},
		{"not-allowed", pkg("high", archtest.Module+"/mid"), []string{"high imports mid: high may import of ours: low"}},
		{"upwards", pkg("low", archtest.Module+"/mid"), []string{"low imports mid: it stands below in the list, and arrows go one way"}},
		{"owned-by-it", pkg("low", "example.com/lib/sub"), nil},
		{"owned-by-another", pkg("mid", "example.com/lib/sub"), []string{"mid imports example.com/lib/sub: only low may: it is theirs"}},
		{"same-beginning", pkg("mid", "example.com/library"), nil},
		{"no-doc", archtest.Package{Dir: "low"}, []string{"low has no package doc"}},
		{
			"long-file",
			archtest.Package{Dir: "low", HasDoc: true, Lines: map[string]int{"a.go": 599, "b.go": 600}},
			[]string{"low/b.go has 600 lines, and 600 are too many: is it one thing?"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := archtest.Check([]archtest.Package{tt.pkg}, rules)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Check (-want +got):\n%s", diff)
			}
		})
	}
}

func pkg(dir string, imports ...string) archtest.Package {
	return archtest.Package{Dir: dir, Imports: imports, HasDoc: true}
}

func TestLoad(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"p/a.go":            "// Package p is.\npackage p\n\nimport \"fmt\"\n",
		"p/a_other.go":      "//go:build other\n\npackage p\n\nimport \"os\"\n",
		"p/a_test.go":       "package p\n\nimport \"testing\"\n",
		"q/q.go":            "package q\n",
		"q/testdata/x/x.go": "package x\n",
		"nested/go.mod":     "module nested\n",
		"nested/n.go":       "package n\n",
		"_old/o.go":         "package o\n",
		".git/g.go":         "package g\n",
	} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := archtest.Load(root)
	if err != nil {
		t.Fatal(err)
	}
	want := []archtest.Package{
		{Dir: "p", Imports: []string{"fmt", "os"}, HasDoc: true, Lines: map[string]int{"a.go": 4, "a_other.go": 5}},
		{Dir: "q", Lines: map[string]int{"q.go": 1}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Load (-want +got):\n%s", diff)
	}
}
