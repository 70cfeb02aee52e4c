package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// Limits of a listing: how many entries are looked at and returned at most,
// and how many of a directory are held at once.
const (
	maxVisited = 500_000
	maxListed  = 10_000
	dirPiece   = 1024
)

const (
	defaultDepth = 1
	defaultLimit = 200
)

// lister gathers the first of what matches, by path.
type lister struct {
	ctx     context.Context
	root    string
	opt     guest.ListOptions
	found   []string // below root; at most twice opt.Limit
	total   int
	visited int
}

// List lists what is below path; see guest.Conn.ListFiles.
func (f FS) List(ctx context.Context, path string, opt guest.ListOptions) (guest.Listing, error) {
	if opt.Depth <= 0 {
		opt.Depth = defaultDepth
	}
	if opt.Limit <= 0 {
		opt.Limit = defaultLimit
	}
	opt.Limit = min(opt.Limit, maxListed)
	if opt.Pattern != "" && !doublestar.ValidatePattern(opt.Pattern) {
		return guest.Listing{}, fmt.Errorf("list %s: pattern %q: %w", path, opt.Pattern, doublestar.ErrBadPattern)
	}
	abs := f.abs(path)
	info, err := os.Stat(abs)
	if err != nil {
		return guest.Listing{}, explain("list", path, err)
	}
	if !info.IsDir() {
		return guest.Listing{Files: []guest.FileInfo{describe(path, info)}, Total: 1}, nil
	}
	l := &lister{ctx: ctx, root: abs, opt: opt}
	err = l.walk("", 1)
	if err != nil && !errors.Is(err, errLimit) {
		return guest.Listing{}, explain("list", path, err)
	}
	return l.listing(path, errors.Is(err, errLimit)), nil
}

// errLimit ends a walk that has seen enough.
var errLimit = errors.New("limit reached")

// walk visits the directory dir below the root. Of directories below the root
// it leaves out what can't be read.
func (l *lister) walk(dir string, depth int) error {
	d, err := os.Open(filepath.Join(l.root, dir))
	if err != nil {
		return l.below(dir, err)
	}
	defer d.Close()
	var deeper []string
	for {
		entries, err := d.ReadDir(dirPiece)
		for _, e := range entries {
			if l.visited++; l.visited > maxVisited {
				return errLimit
			}
			name := e.Name()
			if dir != "" {
				name = dir + "/" + name
			}
			l.consider(name)
			if e.IsDir() && depth < l.opt.Depth {
				deeper = append(deeper, name)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return l.below(dir, err)
		}
		if err := l.ctx.Err(); err != nil {
			return err
		}
	}
	for _, name := range deeper {
		if err := l.walk(name, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// below forgives an error below the root.
func (l *lister) below(dir string, err error) error {
	if dir != "" {
		return nil
	}
	return err
}

// consider takes name if it matches and may be among the first.
func (l *lister) consider(name string) {
	if l.opt.Pattern != "" && !doublestar.MatchUnvalidated(l.opt.Pattern, name) {
		return
	}
	l.total++
	l.found = append(l.found, name)
	if len(l.found) >= 2*l.opt.Limit {
		l.cut()
	}
}

// cut sorts what was found and keeps the first opt.Limit.
func (l *lister) cut() {
	slices.Sort(l.found)
	l.found = l.found[:min(len(l.found), l.opt.Limit)]
}

// listing describes what was found, as far as it fits an answer.
func (l *lister) listing(path string, more bool) guest.Listing {
	l.cut()
	out := guest.Listing{Total: l.total, More: more, Files: []guest.FileInfo{}}
	room := wire.MaxAnswer
	for _, name := range l.found {
		full := filepath.Join(l.root, name)
		info, err := os.Lstat(full)
		if err != nil { // gone meanwhile
			continue
		}
		fi := describe(strings.TrimSuffix(path, "/")+"/"+name, info)
		if info.Mode().Type() == fs.ModeSymlink {
			fi.Link, _ = os.Readlink(full)
		}
		const fixed = 200 // bytes of JSON beside the names
		if room -= len(fi.Path) + len(fi.Link) + fixed; room < 0 {
			out.More = true
			break
		}
		out.Files = append(out.Files, fi)
	}
	return out
}
