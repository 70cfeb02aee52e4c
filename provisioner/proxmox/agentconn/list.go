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
	rec, rest := answer(out)
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
	names := match(paths, opt.Pattern)
	l := guest.Listing{Total: len(names), More: found.n == maxListing}
	limit := opt.Limit
	if limit <= 0 {
		limit = 200
	}
	l.Files, err = c.describe(ctx, dir, names[:min(limit, len(names))])
	return l, err
}

// match returns the paths that the pattern matches, sorted, without the "./"
// that find gives them. What follows the last NUL was cut off.
func match(paths []byte, pattern string) []string {
	var names []string
	for {
		name, rest, ok := bytes.Cut(paths, []byte{0})
		if !ok {
			break
		}
		paths = rest
		s := strings.TrimPrefix(string(name), "./")
		if pattern == "" || doublestar.MatchUnvalidated(pattern, s) {
			names = append(names, s)
		}
	}
	slices.Sort(names)
	return names
}

// describeAtOnce is how many files are described by one call: of the longest
// paths that still fits in what qemu-ga answers in time.
const describeAtOnce = 200

// describe returns what is to be known of files below dir. Those that are gone
// are left out.
func (c *Conn) describe(ctx context.Context, dir string, names []string) ([]guest.FileInfo, error) {
	var files []guest.FileInfo
	for part := range slices.Chunk(names, describeAtOnce) {
		var words strings.Builder
		for _, n := range part {
			full := n
			if dir != "" {
				full, _ = checkPath(strings.TrimSuffix(dir, "/") + "/" + n)
			}
			words.WriteString(" " + quote(full))
		}
		found, err := c.info(ctx, dir, []byte(words.String()))
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	return files, nil
}

func (c *Conn) info(ctx context.Context, dir string, words []byte) ([]guest.FileInfo, error) {
	mark := newKey()
	input, form, err := c.payload(ctx, mark, words)
	if err != nil {
		return nil, err
	}
	out, err := c.do(ctx, "info", input, c.cfg.User, mark, form)
	c.toss(mark + ".*")
	if err != nil {
		return nil, err
	}
	var files []guest.FileInfo
	parts := strings.Split(string(out), mark) // "STAT\nPATH", "LINK", ..., ""
	for i := 0; i+1 < len(parts); i += 2 {
		line, name, _ := strings.Cut(parts[i], "\n")
		if dir != "" && dir[0] != '/' {
			name = strings.TrimPrefix(name, "./")
		}
		f, err := parseInfo(line, name)
		if err != nil {
			return nil, err
		}
		f.Link = parts[i+1]
		files = append(files, f)
	}
	return files, nil
}
