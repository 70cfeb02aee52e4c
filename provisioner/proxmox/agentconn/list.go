package agentconn

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// maxListing bounds the paths of one listing, in bytes, as sh/find.sh returns them.
const maxListing = 12 << 20

// ListFiles implements guest.Conn.
func (c *Conn) ListFiles(ctx context.Context, dir string, opt guest.ListOptions) (guest.Listing, error) {
	l, err := c.list(ctx, dir, opt)
	if err != nil {
		return guest.Listing{}, fmt.Errorf("list %q: %w", dir, err)
	}
	return l, nil
}

func (c *Conn) list(ctx context.Context, dir string, opt guest.ListOptions) (guest.Listing, error) {
	p, err := checkPath(dir)
	if err != nil {
		return guest.Listing{}, err
	}
	if opt.Pattern != "" && !doublestar.ValidatePattern(opt.Pattern) {
		return guest.Listing{}, fmt.Errorf("pattern %q: %w", opt.Pattern, doublestar.ErrBadPattern)
	}
	file := newKey()
	out, err := c.do(ctx, "find", []byte(p), c.cfg.User, fmt.Sprint(max(opt.Depth, 1)), fmt.Sprint(maxListing), file)
	if err != nil {
		return guest.Listing{}, err
	}
	rec, rest, err := answer(out)
	if err != nil {
		return guest.Listing{}, err
	}
	if rec["file"] == "1" {
		files, err := c.describe(ctx, "", []string{p})
		if len(files) == 1 {
			files[0].Path = dir
		}
		return guest.Listing{Files: files, Total: len(files)}, err
	}
	found, err := rec.piece("", file, maxListing)
	if err != nil {
		return guest.Listing{}, err
	}
	paths, _, err := c.fetch(ctx, found, rest)
	if err != nil {
		return guest.Listing{}, err
	}
	limit := opt.Limit
	if limit <= 0 {
		limit = 200
	}
	names, total := match(paths, opt.Pattern, limit)
	l := guest.Listing{Total: total, More: found.n == maxListing}
	l.Files, err = c.describe(ctx, dir, names)
	return l, err
}

// match returns the first of the paths that the pattern matches, sorted, without
// the "./" that find gives them, and how many match in all. What follows the last
// NUL was cut off. A guest may have millions, so that no more are kept at once
// than a few times those that are wanted.
func match(paths []byte, pattern string, limit int) (names []string, total int) {
	for {
		name, rest, ok := bytes.Cut(paths, []byte{0})
		if !ok {
			break
		}
		paths = rest
		s := strings.TrimPrefix(string(name), "./")
		if pattern == "" || doublestar.MatchUnvalidated(pattern, s) {
			names = append(names, s)
			total++
		}
		if len(names) > 3*limit+1000 {
			names = lowest(names, limit)
		}
	}
	return lowest(names, limit), total
}

func lowest(names []string, n int) []string {
	slices.Sort(names)
	return names[:min(n, len(names))]
}

// describeAtOnce is how many files are described by one call: of the longest
// paths that still fits in what qemu-ga answers in time.
const describeAtOnce = 200

// describe returns what is to be known of files below dir. Those that are gone
// are left out.
func (c *Conn) describe(ctx context.Context, dir string, names []string) ([]guest.FileInfo, error) {
	var files []guest.FileInfo
	for part := range slices.Chunk(names, describeAtOnce) {
		full := slices.Clone(part)
		if dir != "" {
			for i, n := range part {
				full[i], _ = checkPath(strings.TrimSuffix(dir, "/") + "/" + n) // neither is empty
			}
		}
		found, err := c.info(ctx, full)
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	if dir != "" && dir[0] != '/' {
		for i := range files {
			files[i].Path = strings.TrimPrefix(files[i].Path, "./")
		}
	}
	return files, nil
}

// info describes the files that are there, in the order of their paths.
func (c *Conn) info(ctx context.Context, paths []string) ([]guest.FileInfo, error) {
	var words strings.Builder
	for _, p := range paths {
		words.WriteString(" " + quote(p))
	}
	mark := newKey()
	input, form, err := c.payload(ctx, mark, []byte(words.String()))
	if err != nil {
		return nil, err
	}
	out, err := c.do(ctx, "info", input, c.cfg.User, mark, form)
	c.toss(mark + ".*")
	if err != nil {
		return nil, err
	}
	var files []guest.FileInfo
	parts := strings.SplitN(string(out), mark, 2*len(paths)+2) // "STAT\nPATH", "LINK", ..., ""
	for i := 0; i+1 < len(parts); i += 2 {
		line, name, _ := strings.Cut(parts[i], "\n")
		at := slices.Index(paths, name)
		if at < 0 {
			return nil, unreachable(fmt.Errorf("the guest describes %.200q, of which it was not asked", name))
		}
		paths = paths[at+1:]
		f, err := parseInfo(line, name)
		if err != nil {
			return nil, err
		}
		f.Link = parts[i+1]
		files = append(files, f)
	}
	return files, nil
}
