package agentconn

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// readPiece is how much of a file is read at once. Proxmox reads 1 MiB of the
// guest at a time and gives each 5 s (PVE/API2/Qemu/Agent.pm).
const readPiece = 4 << 20

// writePiece is how much of a file is handed to a script at once: so many
// pieces of what one call can write.
const writePiece = 64 * 46080

// checkPath returns the path as scripts take it.
func checkPath(p string) (string, error) {
	if p == "" || strings.ContainsRune(p, 0) {
		return "", fmt.Errorf("%q: %w", p, fs.ErrInvalid)
	}
	if p[0] != '/' {
		p = "./" + p
	}
	return p, nil
}

// parseInfo reads "%f %s %y %u %g" of stat, in the time zone UTC or any other.
func parseInfo(line, name string) (guest.FileInfo, error) {
	f := strings.Fields(line)
	if len(f) < 7 {
		return guest.FileInfo{}, unreachable(fmt.Errorf("%.200q describes no file", line))
	}
	mode, err1 := strconv.ParseUint(f[0], 16, 32)
	size, err2 := strconv.ParseInt(f[1], 10, 64)
	mtime, err3 := time.Parse("2006-01-02 15:04:05 -0700", strings.Join(f[2:5], " "))
	uid, err4 := strconv.ParseUint(f[5], 10, 32)
	gid, err5 := strconv.ParseUint(f[6], 10, 32)
	if err := cmp.Or(err1, err2, err3, err4, err5); err != nil {
		return guest.FileInfo{}, unreachable(fmt.Errorf("%.200q describes no file: %w", line, err))
	}
	return guest.FileInfo{Path: name, Size: max(size, 0), Mode: fileMode(mode), MTime: mtime, UID: uint32(uid), GID: uint32(gid)}, nil
}

// fileMode translates st_mode.
func fileMode(m uint64) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	for bit, f := range map[uint64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&bit != 0 {
			mode |= f
		}
	}
	switch m & 0o170000 {
	case 0o040000:
		mode |= fs.ModeDir
	case 0o120000:
		mode |= fs.ModeSymlink
	case 0o010000:
		mode |= fs.ModeNamedPipe
	case 0o140000:
		mode |= fs.ModeSocket
	case 0o060000:
		mode |= fs.ModeDevice
	case 0o020000:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	}
	return mode
}

// piece is what one look at a file gave.
type piece struct {
	info guest.FileInfo
	node string // device and inode
	off  int64
	data []byte
	end  bool // there was no more
}

// readAt reads up to n bytes of a file.
func (c *Conn) readAt(ctx context.Context, name string, off int64, n int) (piece, error) {
	p, err := checkPath(name)
	if err != nil {
		return piece{}, err
	}
	file := newKey()
	out, err := c.do(ctx, "stat", []byte(p), c.cfg.User, decimal(off), fmt.Sprint(n), file)
	if err != nil {
		return piece{}, err
	}
	line, data, _ := bytes.Cut(out, []byte("\n"))
	f := strings.SplitN(string(line), " ", 3)
	if len(f) < 3 {
		return piece{}, unreachable(fmt.Errorf("%.200q describes no file", line))
	}
	got, err1 := strconv.ParseInt(f[0], 10, 64)
	at, err2 := strconv.ParseInt(f[1], 10, 64)
	if err := cmp.Or(err1, err2); err != nil || got < 0 || got > int64(n) || at < 0 {
		return piece{}, unreachable(fmt.Errorf("%.200q describes no file", line))
	}
	info, err := parseInfo(f[2], name)
	if err != nil {
		return piece{}, err
	}
	if got > inline {
		c.toss(file)
		if data, err = c.download(ctx, "tmp/"+file, got); err != nil {
			return piece{}, err
		}
	}
	return piece{info, f[2][strings.LastIndexByte(f[2], ' '):], at, data, len(data) < n}, nil
}

// ReadFile implements guest.Conn. What is read later must be of the same file:
// if it was replaced meanwhile, reading on fails with guest.ErrChanged.
func (c *Conn) ReadFile(ctx context.Context, name string, off, n int64) (io.ReadCloser, guest.FileInfo, error) {
	want := int64(readPiece)
	if n >= 0 {
		want = min(n, want)
	}
	first, err := c.readAt(ctx, name, off, int(want))
	if err != nil {
		return nil, guest.FileInfo{}, fmt.Errorf("read %q: %w", name, err)
	}
	r := &reader{ctx: ctx, conn: c, name: name, piece: first, left: n}
	return r, first.info, nil
}

// reader reads a file piece by piece.
type reader struct {
	ctx    context.Context //nolint:containedctx // an io.Reader is bound to the call that opened it
	conn   *Conn
	name   string
	piece  piece
	used   int
	left   int64 // bytes still wanted; negative is all
	closed bool
}

func (r *reader) Read(b []byte) (int, error) {
	if r.closed {
		return 0, fs.ErrClosed
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	for r.used == len(r.piece.data) {
		if r.piece.end {
			return 0, io.EOF
		}
		if err := r.next(); err != nil {
			return 0, fmt.Errorf("read %q: %w", r.name, err)
		}
	}
	rest := r.piece.data[r.used:]
	if r.left > 0 {
		rest = rest[:min(int64(len(rest)), r.left)]
	}
	n := copy(b, rest)
	r.used += n
	if r.left > 0 {
		r.left -= int64(n)
	}
	return n, nil
}

func (r *reader) next() error {
	want := int64(readPiece)
	if r.left > 0 {
		want = min(want, r.left)
	}
	off := r.piece.off + int64(len(r.piece.data))
	r.piece.data, r.used = nil, 0
	p, err := r.conn.readAt(r.ctx, r.name, off, int(want))
	if err != nil {
		return err
	}
	if p.node != r.piece.node {
		return guest.ErrChanged
	}
	r.piece = p
	return nil
}

func (r *reader) Close() error {
	r.closed = true
	r.piece.data = nil
	return nil
}

// WriteFile implements guest.Conn.
func (c *Conn) WriteFile(ctx context.Context, name string, r io.Reader, opt guest.WriteOptions) (guest.WriteResult, error) {
	p, err := checkPath(name)
	if err != nil {
		return guest.WriteResult{}, fmt.Errorf("write %q: %w", name, err)
	}
	w := &writing{conn: c, key: newKey(), path: p, opt: opt}
	if err := w.all(ctx, r); err != nil {
		w.abort()
		return guest.WriteResult{}, fmt.Errorf("write %q: %w", name, err)
	}
	return guest.WriteResult{Bytes: w.n, Created: w.created}, nil
}

// writing is a file that is being written.
type writing struct {
	conn    *Conn
	key     string
	path    string
	opt     guest.WriteOptions
	begun   bool
	created bool
	n       int64
}

func (w *writing) all(ctx context.Context, r io.Reader) error {
	buf := make([]byte, writePiece)
	for {
		n, err := io.ReadFull(r, buf)
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return err
		}
		if err := w.step(ctx, buf[:n], end); err != nil {
			return err
		}
		w.n += int64(n)
		if end {
			return nil
		}
	}
}

// step writes one piece; the first step begins and the last commits.
func (w *writing) step(ctx context.Context, data []byte, last bool) error {
	steps, input, length := "data", []byte(nil), 0
	if !w.begun {
		steps, input, length = "begin-data", []byte(w.path), len(w.path)
	}
	if last {
		steps += "-commit"
	}
	if !w.begun && len(input)+len(data) <= inputMax {
		input = append(input, data...)
	} else if err := w.upload(ctx, data); err != nil {
		return err
	}
	mode, unless := "", ""
	if w.opt.Mode != 0 {
		mode = fmt.Sprintf("%o", w.opt.Mode.Perm())
	}
	if u := w.opt.Unless; u != nil {
		unless = fmt.Sprintf("%d %s", u.Size, u.MTime.UTC().Format("2006-01-02 15:04:05.000000000 -0700"))
	}
	out, err := w.conn.do(ctx, "write", input, w.conn.cfg.User, w.key, steps, flag(w.opt.Append), mode, unless, fmt.Sprint(length))
	if err != nil {
		return err
	}
	rec, _ := answer(out)
	if !w.begun || !w.opt.Append {
		w.created = rec["created"] == "1"
	}
	w.begun = true
	return nil
}

func (w *writing) upload(ctx context.Context, data []byte) error {
	_, err := w.conn.upload(ctx, w.key, 1, data)
	return err
}

// abort removes what was written so far.
func (w *writing) abort() {
	ctx, cancel := context.WithTimeout(w.conn.ctx, time.Minute)
	defer cancel()
	_, _ = w.conn.do(ctx, "write", nil, w.conn.cfg.User, w.key, "abort", "0", "", "", "0")
}

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
	c.toss(file)
	if string(out) == "file\n0\n" {
		files, err := c.describe(ctx, "", []string{p})
		if len(files) == 1 {
			files[0].Path = dir
		}
		return guest.Listing{Files: files, Total: len(files)}, err
	}
	size, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil || size < 0 || size > maxListing {
		return guest.Listing{}, unreachable(fmt.Errorf("%.200q is no size", out))
	}
	var paths []byte
	if size > 0 {
		if paths, err = c.download(ctx, "tmp/"+file, size); err != nil {
			return guest.Listing{}, err
		}
	}
	names := match(paths, opt.Pattern)
	l := guest.Listing{Total: len(names), More: size == maxListing}
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
	input, pieces, err := c.payload(ctx, mark, words)
	if err != nil {
		return nil, err
	}
	out, err := c.do(ctx, "info", input, c.cfg.User, mark, flag(pieces))
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
