package agentconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// writePiece is how much of a file is handed to a script at once.
const writePiece = 4 << 20

// WriteFile implements guest.Conn.
func (c *Conn) WriteFile(ctx context.Context, name string, r io.Reader, opt guest.WriteOptions) (guest.WriteResult, error) {
	p, err := checkPath(name)
	if err != nil {
		return guest.WriteResult{}, fmt.Errorf("write %q: %w", name, err)
	}
	w := &writing{conn: c, key: newKey(), path: p, opt: opt}
	defer func() { c.toss(w.key + ".* " + w.key + "-*") }()
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
	steps   int // so far
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
	if w.steps == 0 {
		steps, input, length = "begin-data", []byte(w.path), len(w.path)
	}
	if last {
		steps += "-commit"
	}
	form := withCall
	if len(input)+len(data) <= inputMax {
		input = append(input, data...)
	} else {
		var err error
		if form, err = again(func() (string, error) { return w.conn.upload(ctx, w.key, data) }); err != nil {
			return err
		}
	}
	mode, unless := "", ""
	if w.opt.Mode != 0 {
		mode = fmt.Sprintf("%o", w.opt.Mode.Perm())
	}
	if u := w.opt.Unless; u != nil {
		unless = fmt.Sprintf("%d %s", u.Size, u.MTime.UTC().Format("2006-01-02 15:04:05.000000000 -0700"))
	}
	w.steps++
	out, err := w.conn.do(ctx, "write", input, w.conn.cfg.User, w.key, fmt.Sprint(w.steps), steps,
		flag(w.opt.Append), mode, unless, fmt.Sprint(length), form)
	if err != nil {
		return err
	}
	rec, _, err := answer(out)
	if err != nil {
		return err
	}
	if w.steps == 1 || !w.opt.Append {
		w.created = rec["created"] == "1"
	}
	return nil
}

// abort removes what was written so far.
func (w *writing) abort() {
	ctx, cancel := context.WithTimeout(w.conn.ctx, time.Minute)
	defer cancel()
	_, _ = w.conn.do(ctx, "write", nil, w.conn.cfg.User, w.key, "0", "abort", "0", "", "", "0", withCall)
}
