package tools

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

const (
	skipMost = 512 << 20 // bytes read to find the first line asked for
	scanMost = 64 << 20  // bytes read in all to count the lines after those shown
)

// window shows some lines of a text of any length. It holds no more of the
// text than it shows.
type window struct {
	src   *bufio.Reader
	first int  // line to start with, from 1
	limit int  // lines
	left  int  // characters there is still room for
	end   bool // src is only the end of a file: its lines have no numbers

	text  strings.Builder
	shown int   // lines in text
	cut   int   // characters shown of the last one, if it is not whole
	full  bool  // there is no room for another line
	lines int   // lines read
	bytes int64 // bytes read
	eof   bool  // all was read
}

// read reads up to the window, through it, and on to count the lines as far as
// the limits allow.
func (w *window) read() error {
	for {
		before := w.lines+1 < w.first
		if w.bytes >= skipMost || !before && w.done() && w.bytes >= scanMost {
			return nil
		}
		keep := 0
		if !before && !w.done() {
			keep = (w.left + 1) * utf8.UTFMax
		}
		line, n, err := nextLine(w.src, keep)
		if errors.Is(err, io.EOF) {
			w.eof = true
			return nil
		}
		if err != nil {
			return err
		}
		if keep > 0 {
			w.add(line, n)
		}
		w.lines++
		w.bytes += n
	}
}

func (w *window) done() bool { return w.full || w.shown == w.limit }

// add shows a line of n bytes, of which line is the start. The first is cut if
// there is no room for it.
func (w *window) add(line []byte, n int64) {
	text := strings.ToValidUTF8(string(line), "\uFFFD")
	have := utf8.RuneCountInString(text)
	switch {
	case have <= w.left && int64(len(line)) == n:
		w.text.WriteString(text)
		w.left -= have
		w.shown++
	case w.shown == 0:
		w.cut = min(w.left, have)
		w.text.WriteString(string([]rune(text)[:w.cut]))
		w.shown, w.full = 1, true
	default:
		w.full = true
	}
}

// String returns the lines, and in a marker what there is besides.
func (w *window) String() string {
	text := w.text.String()
	marker := w.marker()
	if text != "" && marker != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text + marker
}

func (w *window) marker() string {
	last := w.first + w.shown - 1
	more := !w.eof || last < w.lines
	switch {
	case w.shown == 0 && !w.eof:
		return fmt.Sprintf("[line %d is beyond the first %d MiB; use exec with sed -n or tail]", w.first, skipMost>>20)
	case w.lines == 0:
		return "[the file is empty]"
	case w.shown == 0:
		return fmt.Sprintf("[offset=%d is past the end: the file has %d lines]", w.first, w.lines)
	case w.end:
		return fmt.Sprintf("[%d of the last lines of a long file%s]", w.shown, w.cutNote())
	case !more && w.first == 1 && w.cut == 0:
		return ""
	}
	of := fmt.Sprint(w.lines)
	if !w.eof {
		of = "at least " + of
	}
	next := ""
	if more {
		next = fmt.Sprintf("; continue with offset=%d", last+1)
	}
	return fmt.Sprintf("[lines %d–%d of %s%s%s]", w.first, last, of, w.cutNote(), next)
}

func (w *window) cutNote() string {
	if w.cut == 0 {
		return ""
	}
	return fmt.Sprintf("; this line is longer than the %s characters shown, exec with cut -c or encoding=base64 gives the rest", thousands(w.cut))
}

// nextLine reads a line with its end. It returns at most keep bytes of it, and
// how many it has. The end of the text is io.EOF.
func nextLine(src *bufio.Reader, keep int) (line []byte, n int64, err error) {
	for {
		part, err := src.ReadSlice('\n')
		n += int64(len(part))
		line = append(line, part[:min(len(part), keep-len(line))]...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && n > 0:
			return line, n, nil
		default:
			return line, n, err
		}
	}
}
