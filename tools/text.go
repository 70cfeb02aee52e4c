package tools

import (
	"bytes"
	"fmt"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// escape matches the control sequences of terminals (ECMA-48): CSI, the string
// sequences (OSC, DCS, SOS, PM, APC) up to their end or the end of the text,
// and the short ones.
var escape = regexp.MustCompile(`\x1b(?:\[[0-?]*[ -/]*[@-~]?|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[ -/]*[0-~]?)`)

// clean makes what a program wrote readable: valid UTF-8, without terminal
// sequences and control characters, and of lines that were overwritten with \r
// (progress bars) only what was left standing. It gives at most one character
// for each byte.
func clean(raw []byte) string {
	if bytes.IndexByte(raw, 0x1b) >= 0 {
		raw = escape.ReplaceAll(raw, nil)
	}
	var b strings.Builder
	b.Grow(len(raw))
	for len(raw) > 0 {
		line, rest, found := bytes.Cut(raw, []byte{'\n'})
		cleanLine(&b, line)
		if found {
			b.WriteByte('\n')
		}
		raw = rest
	}
	return b.String()
}

func cleanLine(b *strings.Builder, line []byte) {
	line = bytes.TrimRight(line, "\r")
	line = line[bytes.LastIndexByte(line, '\r')+1:]
	for len(line) > 0 {
		r, n := utf8.DecodeRune(line)
		line = line[n:]
		if r == '\t' || !unicode.IsControl(r) {
			b.WriteRune(r) // U+FFFD for an invalid byte
		}
	}
}

// chars counts the characters that raw has when it is cleaned.
func chars(raw []byte) int { return utf8.RuneCountInString(clean(raw)) }

// fitHead returns how many bytes at the start of raw have at most budget
// characters when cleaned: whole lines, unless that would leave more than half
// of the budget unused; never a part of a rune.
func fitHead(raw []byte, budget int) int {
	end, left := 0, budget
	for end < len(raw) {
		next := end + bytes.IndexByte(raw[end:], '\n') + 1
		if next == end {
			next = len(raw)
		}
		n := chars(raw[end:next])
		if n > left {
			break
		}
		left, end = left-n, next
	}
	if end == len(raw) || left <= budget/2 {
		return end
	}
	line := raw[end:]
	n := sort.Search(len(line), func(n int) bool { return chars(line[:n+1]) > left })
	if n = runeStart(line, n); chars(line[:n]) > left {
		n = 0 // what a \r had hidden
	}
	return end + n
}

// fitTail returns where the end of raw begins that has at most budget
// characters when cleaned: whole lines, unless that would leave more than half
// of the budget unused; never a part of a rune.
func fitTail(raw []byte, budget int) int {
	start, left := len(raw), budget
	for start > 0 {
		prev := bytes.LastIndexByte(raw[:start-1], '\n') + 1
		n := chars(raw[prev:start])
		if n > left {
			break
		}
		left, start = left-n, prev
	}
	if start == 0 || left <= budget/2 {
		return start
	}
	line := raw[:start]
	n := sort.Search(len(line), func(n int) bool { return chars(line[n:]) <= left })
	n += firstRune(line[n:])
	if chars(line[n:]) > left {
		return start
	}
	return n
}

// runeStart moves a cut back out of the rune it would part.
func runeStart(raw []byte, cut int) int {
	for i := cut; i >= 0 && i > cut-utf8.UTFMax; i-- {
		switch {
		case i == len(raw):
		case cut == len(raw) && utf8.RuneStart(raw[i]):
			if utf8.FullRune(raw[i:]) {
				return cut
			}
			return i
		case cut < len(raw) && utf8.RuneStart(raw[i]):
			return i
		}
	}
	return cut
}

// firstRune returns where the first whole rune of raw starts.
func firstRune(raw []byte) int {
	n := 0
	for n < len(raw) && n < utf8.UTFMax-1 && !utf8.RuneStart(raw[n]) {
		n++
	}
	return n
}

// clipped is a stream made to fit: all of it, or its head and its tail.
type clipped struct {
	head, tail string
	from, to   int64 // the bytes left out between them
}

// fit cleans a stream and leaves out its middle if it has more than budget
// characters. The guest has left out a middle already if c.Tail is not empty.
func fit(c guest.Clip, budget int) clipped {
	if len(c.Tail) == 0 && chars(c.Head) <= budget {
		return clipped{head: clean(c.Head)}
	}
	head, tail := c.Head, c.Tail
	if len(tail) > 0 {
		head, tail = head[:lineEnd(head)], tail[lineStart(tail):]
	}
	h := fitHead(head, budget/2)
	if len(c.Tail) == 0 {
		tail = head[h:]
	}
	t := fitTail(tail, budget-chars(head[:h]))
	return clipped{
		head: clean(head[:h]), tail: clean(tail[t:]),
		from: int64(h), to: c.Total - int64(len(tail)-t),
	}
}

// lineEnd returns where the last whole line of raw ends, or its last whole
// rune if that line is too short to be worth the loss.
func lineEnd(raw []byte) int {
	if n := bytes.LastIndexByte(raw, '\n') + 1; n > len(raw)/2 {
		return n
	}
	return runeStart(raw, len(raw))
}

// lineStart is lineEnd for the other end.
func lineStart(raw []byte) int {
	if n := bytes.IndexByte(raw, '\n') + 1; n > 0 && n < len(raw)/2 {
		return n
	}
	return firstRune(raw)
}

// text joins head and tail around the marker that says what is left out and
// where it is to be had.
func (c clipped) text(where string) string {
	if !c.cut() {
		return c.head
	}
	head := c.head
	if head != "" && !strings.HasSuffix(head, "\n") {
		head += "\n"
	}
	return fmt.Sprintf("%s[… %s bytes omitted. %s …]\n%s", head, thousands(int(c.to-c.from)), where, c.tail)
}

func (c clipped) cut() bool { return c.to > c.from }

// share divides a budget between two streams: what one does not need the other gets.
func share(budget, a, b int) (int, int) {
	switch half := budget / 2; {
	case a <= half:
		return a, budget - a
	case b <= half:
		return budget - b, b
	default:
		return half, budget - half
	}
}

// count writes 1 byte, 2 bytes.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return thousands(n) + " " + many
}

// thousands writes 48213 as 48,213.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
