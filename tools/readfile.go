package tools

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"unicode/utf8"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

const (
	sniffed  = 8 << 10 // bytes that decide what kind of file it is
	tailMost = 8 << 20 // bytes read to find the last lines
)

type readFileIn struct {
	target
	Path     string `arg:"path,required" bytes:"4095"`
	Offset   int    `arg:"offset" default:"1" doc:"First line; negative from the end; with base64 a byte, from 0"`
	Limit    *int   `arg:"limit" min:"1" doc:"Lines, default 2000; with base64 bytes"`
	Encoding string `arg:"encoding" enum:"auto|base64" default:"auto"`
	Max      int    `arg:"max_output_chars" default:"30000" min:"1000" max:"45000"`
}

func (s *service) readFile() Tool {
	return define(s, Tool{
		Name: "read_file", Title: "Read file",
		Scope:       sessions.ScopeRead,
		Description: "Read a text file by lines, or an image (png, jpeg, gif, webp up to 5 MB). Other binary files: encoding=base64. Relative paths start at home.",
		Annotations: Annotations{ReadOnly: true, Idempotent: true},
		Meta:        map[string]any{"anthropic/alwaysLoad": true},
		Doing:       "reading the file",
	}, func(ctx context.Context, m *sessions.Manager, in readFileIn) (Result, error) {
		var res Result
		err := m.Use(ctx, in.SandboxID, bootWait(0), func(ctx context.Context, sb sessions.Sandbox, conn guest.Conn) error {
			name := absolute(sb, in.Path)
			var err error
			switch {
			case in.Encoding == "base64":
				res, err = readBase64(ctx, conn, name, in)
			case in.Offset < 0:
				res, err = readLast(ctx, conn, name, in)
			default:
				res, err = readLines(ctx, conn, name, in)
			}
			if err != nil {
				return fileError(ctx, conn, name, err)
			}
			return nil
		})
		return res, err
	})
}

// readBase64 reads bytes from in.Offset on. Offset 1, the default, is line 1
// and means the start here too.
func readBase64(ctx context.Context, conn guest.Conn, name string, in readFileIn) (Result, error) {
	off, n := int64(in.Offset), int64(in.Max/4*3-3*markerRoom)
	if in.Offset == 1 {
		off = 0
	}
	if in.Limit != nil {
		n = min(n, int64(*in.Limit))
	}
	r, info, err := conn.ReadFile(ctx, name, off, n)
	if err != nil {
		return Result{}, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, n))
	if err != nil {
		return Result{}, err
	}
	if off < 0 {
		off = max(0, info.Size+off)
	}
	text := base64.StdEncoding.EncodeToString(data)
	if end := off + int64(len(data)); end < info.Size {
		text += fmt.Sprintf("\n[bytes %d–%d of %d; continue with offset=%d]", off, end-1, info.Size, end)
	}
	return plain(text, metaOfFile(info)), nil
}

// readLines reads from line in.Offset on, and on to count the lines.
func readLines(ctx context.Context, conn guest.Conn, name string, in readFileIn) (Result, error) {
	r, info, err := conn.ReadFile(ctx, name, 0, -1)
	if err != nil {
		return Result{}, err
	}
	defer r.Close()
	sum := sha256.New()
	src := bufio.NewReaderSize(io.TeeReader(r, sum), 64<<10)
	if res, done, err := special(src, name, info); done || err != nil {
		return res, err
	}
	w := window{src: src, first: max(1, in.Offset), limit: in.limit(), left: in.Max - markerRoom}
	if err := w.read(); err != nil {
		return Result{}, err
	}
	meta := metaOfFile(info)
	if w.eof {
		meta.Lines, meta.SHA256 = w.lines, hex.EncodeToString(sum.Sum(nil))
	}
	return plain(w.String(), meta), nil
}

// readLast reads from the line that is -in.Offset before the end. Of a long
// file only the end is read, so that its lines have no numbers.
func readLast(ctx context.Context, conn guest.Conn, name string, in readFileIn) (Result, error) {
	r, info, err := conn.ReadFile(ctx, name, -tailMost, -1)
	if err != nil {
		return Result{}, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, tailMost))
	if err != nil {
		return Result{}, err
	}
	if res, done, err := special(bufio.NewReaderSize(bytes.NewReader(data), sniffed), name, info); done || err != nil {
		return res, err
	}
	meta, whole := metaOfFile(info), info.Size <= tailMost
	if whole {
		sum := sha256.Sum256(data)
		meta.SHA256 = hex.EncodeToString(sum[:])
	} else {
		data = data[bytes.IndexByte(data, '\n')+1:]
	}
	lines := bytes.Count(data, []byte{'\n'})
	if len(data) > 0 && data[len(data)-1] != '\n' {
		lines++
	}
	w := window{
		src: bufio.NewReader(bytes.NewReader(data)), first: max(1, lines+in.Offset+1),
		limit: in.limit(), left: in.Max - markerRoom, end: !whole,
	}
	if err := w.read(); err != nil {
		return Result{}, err
	}
	if whole {
		meta.Lines = lines
	}
	return plain(w.String(), meta), nil
}

func (in readFileIn) limit() int {
	if in.Limit == nil {
		return 2000
	}
	return *in.Limit
}

// special answers for what is not text. done says that it has.
func special(src *bufio.Reader, name string, info guest.FileInfo) (res Result, done bool, err error) {
	head, err := src.Peek(sniffed)
	if err != nil && !errors.Is(err, io.EOF) {
		return Result{}, false, err
	}
	switch mime := http.DetectContentType(head); mime {
	case "image/png", "image/jpeg", "image/gif", "image/webp":
		data, err := io.ReadAll(io.LimitReader(src, 5e6+1))
		if err != nil {
			return Result{}, false, err
		}
		if len(data) > 5e6 {
			return Result{}, false, invalid("%s is an image of more than 5 MB; make a smaller one with exec", quoted(name))
		}
		res := plain(fmt.Sprintf("%s, %s bytes", mime, thousands(len(data))), metaOfFile(info))
		res.Content = append(res.Content, Content{Data: data, MIME: mime})
		return res, true, nil
	}
	if binary(head) {
		return Result{}, false, invalid("%s is a binary file (%s bytes); use encoding=base64, or exec with file, xxd or strings", quoted(name), thousands(int(info.Size)))
	}
	return Result{}, false, nil
}

// binary tells from its start whether a file is not text.
func binary(head []byte) bool {
	return bytes.IndexByte(head, 0) >= 0 || !utf8.Valid(head[:runeStart(head, len(head))])
}
