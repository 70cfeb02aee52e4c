package mcpserver

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
)

// tooLong is the error of a line that was longer than allowed. It was skipped.
type tooLong struct{ head, tail []byte }

func (*tooLong) Error() string { return "line is too long" }

// lineReader reads lines of limited length.
type lineReader struct {
	src *bufio.Reader
	max int // bytes of a line
}

// next returns a line without its end; the last one needs none. The error is a
// *tooLong, after which reading goes on, or that of the source.
func (r *lineReader) next() ([]byte, error) {
	var line []byte
	for {
		part, err := r.src.ReadSlice('\n')
		if len(line)+len(part) > r.max+1 {
			return nil, r.skip(append(line, part...), err)
		}
		line = append(line, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err != nil && (len(line) == 0 || !errors.Is(err, io.EOF)):
			return nil, err
		default:
			return bytes.TrimRight(line, "\r\n"), nil
		}
	}
}

// skip reads to the end of a line of which start was read, and keeps a bit of
// both its ends.
func (r *lineReader) skip(start []byte, err error) error {
	const keep = 200
	long := &tooLong{head: bytes.Clone(start[:min(keep, len(start))]), tail: lastBytes(start, keep)}
	for errors.Is(err, bufio.ErrBufferFull) {
		var part []byte
		part, err = r.src.ReadSlice('\n')
		long.tail = lastBytes(append(long.tail, part...), keep)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	long.tail = bytes.TrimRight(long.tail, "\r\n")
	return long
}

func lastBytes(b []byte, n int) []byte { return bytes.Clone(b[max(0, len(b)-n):]) }

// Where clients put the id of a message: at its start, or as its last member.
// Both can be told from what is inside the params without parsing those.
var (
	idFirst = regexp.MustCompile(`^\s*\{\s*"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*(-?\d+|"[^"\\]*")\s*,`)
	idLast  = regexp.MustCompile(`[,{]\s*"id"\s*:\s*(-?\d+|"[^"\\]*")\s*\}\s*$`)
)

// id returns the id of the message that the line was, nil if it can't be seen.
func (e *tooLong) id() json.RawMessage {
	for _, m := range [][][]byte{idFirst.FindSubmatch(e.head), idLast.FindSubmatch(e.tail)} {
		if m != nil {
			return m[1]
		}
	}
	return nil
}
