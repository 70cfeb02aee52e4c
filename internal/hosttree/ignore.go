package hosttree

import (
	"path"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// ignoreRule is a line of a .gitignore file, as gitignore(5) has it.
type ignoreRule struct {
	dir   string // what the file is for: empty or with a slash at its end
	glob  string // of paths below dir
	base  bool   // glob is of the last element alone
	dirs  bool   // only directories are meant
	keeps bool   // what a line before has named is not ignored
}

// parseRule reads a line of the file in a directory of the tree. It returns
// false if the line says nothing.
func parseRule(line, dir string) (r ignoreRule, ok bool) {
	if dir != "." {
		r.dir = dir + "/"
	}
	for strings.HasSuffix(line, " ") && !strings.HasSuffix(line, `\ `) {
		line = line[:len(line)-1]
	}
	if strings.HasPrefix(line, "#") {
		return r, false
	}
	line, r.keeps = strings.CutPrefix(line, "!")
	line, r.dirs = strings.CutSuffix(line, "/")
	r.base = !strings.Contains(line, "/")
	line = strings.TrimPrefix(line, "/")
	if inner, all := strings.CutSuffix(line, "/**"); all { // not the directory itself
		line = inner + "/**/*"
	}
	r.glob = asDoublestar().Replace(line)
	return r, line != ""
}

// asDoublestar says otherwise what the library understands otherwise.
func asDoublestar() *strings.Replacer {
	return strings.NewReplacer(
		`\\`, `\\`, `\{`, `\{`, `\}`, `\}`, "{", `\{`, "}", `\}`,
		"[:alnum:]", "a-zA-Z0-9", "[:alpha:]", "a-zA-Z", "[:digit:]", "0-9",
		"[:lower:]", "a-z", "[:upper:]", "A-Z", "[:xdigit:]", "0-9a-fA-F", "[:space:]", " \t",
	)
}

// names says whether the line is about a path, and not merely about a directory
// that it lies in.
func (r ignoreRule) names(name string, isDir bool) bool {
	rest, below := strings.CutPrefix(name, r.dir)
	if !below || r.dirs && !isDir {
		return false
	}
	if r.base {
		rest = path.Base(rest)
	}
	ok, err := doublestar.Match(r.glob, rest)
	return ok && err == nil // git finds nothing by a pattern that is none, either
}

// ignored says whether rules, of which the last that names a path decides, leave
// it out. The directories that it lies in are not.
func ignored(rules []ignoreRule, name string, isDir bool) bool {
	for _, r := range slices.Backward(rules) {
		if r.names(name, isDir) {
			return !r.keeps
		}
	}
	return false
}
