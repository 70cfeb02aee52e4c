package agentconn

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// readPiece is how much of a file is read at once. Proxmox reads 1 MiB of the
// guest at a time and gives each 5 s (PVE/API2/Qemu/Agent.pm).
const readPiece = 4 << 20

// part is what one look at a file gave.
type part struct {
	info guest.FileInfo
	node string // device and inode
	off  int64
	data []byte
	end  bool // there was no more
}

// readAt reads up to n bytes of a file.
func (c *Conn) readAt(ctx context.Context, name string, off int64, n int) (part, error) {
	p, err := checkPath(name)
	if err != nil {
		return part{}, err
	}
	file := newKey()
	out, err := c.do(ctx, "stat", []byte(p), c.cfg.User, decimal(off), fmt.Sprint(n), file)
	if err != nil {
		return part{}, err
	}
	line, data, _ := bytes.Cut(out, []byte("\n"))
	f := strings.SplitN(string(line), " ", 4)
	if len(f) < 4 {
		return part{}, unreachable(fmt.Errorf("%.200q describes no file", line))
	}
	got, err1 := strconv.ParseInt(f[0], 10, 64)
	packed, err2 := strconv.ParseInt(f[1], 10, 64)
	at, err3 := strconv.ParseInt(f[2], 10, 64)
	if err := cmp.Or(err1, err2, err3); err != nil || got < 0 || got > int64(n) || at < 0 {
		return part{}, unreachable(fmt.Errorf("%.200q describes no file", line))
	}
	info, err := parseInfo(f[3], name)
	if err != nil {
		return part{}, err
	}
	if data, _, err = c.fetch(ctx, piece{file, got, packed}, data); err != nil {
		return part{}, err
	}
	return part{info, f[3][strings.LastIndexByte(f[3], ' '):], at, data, len(data) < n}, nil
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
	r := &reader{ctx: ctx, conn: c, name: name, part: first, left: n}
	return r, first.info, nil
}

// reader reads a file piece by piece.
type reader struct {
	ctx    context.Context //nolint:containedctx // an io.Reader is bound to the call that opened it
	conn   *Conn
	name   string
	part   part
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
	for r.used == len(r.part.data) {
		if r.part.end {
			return 0, io.EOF
		}
		if err := r.next(); err != nil {
			return 0, fmt.Errorf("read %q: %w", r.name, err)
		}
	}
	rest := r.part.data[r.used:]
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
	off := r.part.off + int64(len(r.part.data))
	r.part.data, r.used = nil, 0
	p, err := r.conn.readAt(r.ctx, r.name, off, int(want))
	if err != nil {
		return err
	}
	if p.node != r.part.node {
		return guest.ErrChanged
	}
	r.part = p
	return nil
}

func (r *reader) Close() error {
	r.closed = true
	r.part.data = nil
	return nil
}
