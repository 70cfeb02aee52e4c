// Package archtest holds the architecture as a list that a test enforces: which
// package may import which of ours, and which third party belongs to whom. To
// change the architecture is to change the list, where it is seen in review.
package archtest

import (
	"bytes"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Module is the import path of the module.
const Module = "github.com/agentlab-mcp/agentlab"

// MaxLines is the length that no file reaches.
const MaxLines = 600

// A Package is what the rules look at: the non-test files of one directory,
// whatever their build constraints.
type Package struct {
	Dir     string // below the module's root, with slashes
	Imports []string
	HasDoc  bool
	Lines   map[string]int // of each file
}

// Load reads the packages of the module at root. It leaves out what the go
// command leaves out: testdata, nested modules and names that begin with a dot.
func Load(root string) ([]Package, error) {
	var pkgs []Package
	err := filepath.WalkDir(root, func(dir string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if dir != root && ignored(dir, d.Name()) {
			return fs.SkipDir
		}
		p, err := load(root, dir)
		if err == nil && len(p.Lines) > 0 {
			pkgs = append(pkgs, p)
		}
		return err
	})
	return pkgs, err
}

func ignored(dir, name string) bool {
	if name == "testdata" || name == "node_modules" || name[0] == '.' || name[0] == '_' {
		return true
	}
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return !errors.Is(err, fs.ErrNotExist)
}

func load(root, dir string) (Package, error) {
	rel, err := filepath.Rel(root, dir)
	if err != nil {
		return Package{}, err
	}
	p := Package{Dir: filepath.ToSlash(rel), Lines: map[string]int{}}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return Package{}, err
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		src, err := os.ReadFile(name)
		if err != nil {
			return Package{}, err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return Package{}, err
		}
		p.Lines[filepath.Base(name)] = bytes.Count(src, []byte("\n"))
		p.HasDoc = p.HasDoc || f.Doc != nil
		for _, spec := range f.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return Package{}, fmt.Errorf("%s: import %s: %w", name, spec.Path.Value, err)
			}
			if !slices.Contains(p.Imports, imp) {
				p.Imports = append(p.Imports, imp)
			}
		}
	}
	slices.Sort(p.Imports)
	return p, nil
}

// Check returns what in pkgs breaks the rules, a line each.
func Check(pkgs []Package, rules Rules) []string {
	var bad []string
	for _, p := range pkgs {
		if rules.index(p.Dir) < 0 {
			bad = append(bad, p.Dir+" is not in the architecture: give it a layer")
		}
		for _, imp := range p.Imports {
			if why := rules.forbid(p.Dir, imp); why != "" {
				bad = append(bad, fmt.Sprintf("%s imports %s: %s", p.Dir, strings.TrimPrefix(imp, Module+"/"), why))
			}
		}
		if !p.HasDoc {
			bad = append(bad, p.Dir+" has no package doc")
		}
		for file, n := range p.Lines {
			if n >= MaxLines {
				bad = append(bad, fmt.Sprintf("%s has %d lines, and %d are too many: is it one thing?", path.Join(p.Dir, file), n, MaxLines))
			}
		}
	}
	slices.Sort(bad)
	return bad
}
