package tools

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/pmezard/go-difflib/difflib"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

type editFileIn struct {
	target
	Path string `arg:"path,required" bytes:"4095"`
	Old  string `arg:"old_string,required" bytes:"1048576" doc:"Text to replace"`
	New  string `arg:"new_string,required" bytes:"1048576"`
	All  bool   `arg:"replace_all" doc:"All places"`
}

type editMeta struct {
	Path         string `json:"path"`
	Size         int64  `json:"size"`
	Mode         string `json:"mode"`
	Replacements int    `json:"replacements"`
}

func (s *service) editFile() Tool {
	return define(s, Tool{
		Name: "edit_file", Title: "Edit file",
		Scope:       sessions.ScopeWrite,
		Description: "Replace a text in a file, exactly as it stands there, white space included. Fails if it is not there, or there more than once without replace_all.",
		Annotations: Annotations{Destructive: true},
		Meta:        hint("change a file, search and replace"),
		Doing:       "editing the file",
	}, func(ctx context.Context, m *sessions.Manager, in editFileIn) (Result, error) {
		switch in.Old {
		case "":
			return Result{}, invalid("old_string is empty; write_file makes new files")
		case in.New:
			return Result{}, invalid("old_string and new_string are the same")
		}
		var res Result
		err := m.Use(ctx, in.SandboxID, bootWait(0), func(ctx context.Context, sb sessions.Sandbox, conn guest.Conn) error {
			name := absolute(sb, in.Path)
			var err error
			if res, err = edit(ctx, conn, name, in); err != nil {
				return fileError(ctx, conn, name, err)
			}
			return nil
		})
		return res, err
	})
}

// edit reads the file, replaces, and writes it if it is still the one read.
func edit(ctx context.Context, conn guest.Conn, name string, in editFileIn) (Result, error) {
	text, info, err := readWhole(ctx, conn, name)
	if err != nil {
		return Result{}, err
	}
	e := editOf(text, in)
	if err := e.check(name, in.All); err != nil {
		return Result{}, err
	}
	changed := strings.ReplaceAll(text, e.old, e.new)
	wrote, err := conn.WriteFile(ctx, name, strings.NewReader(changed), guest.WriteOptions{Unless: &info})
	if err != nil {
		return Result{}, err
	}
	n := len(e.at)
	return plain(fmt.Sprintf("%s in %s\n%s", count(n, "replacement", "replacements"), quoted(name), e.diff()),
		editMeta{info.Path, wrote.Bytes, octal(info.Mode), n}), nil
}

// readWhole reads a file that is small enough to be edited.
func readWhole(ctx context.Context, conn guest.Conn, name string) (string, guest.FileInfo, error) {
	r, info, err := conn.ReadFile(ctx, name, 0, maxFile+1)
	if err != nil {
		return "", info, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	switch {
	case err != nil:
		return "", info, err
	case len(data) > maxFile:
		return "", info, invalid("%s is larger than 5 MiB; use exec with sed or a script", quoted(name))
	case bytes.IndexByte(data[:min(len(data), sniffed)], 0) >= 0:
		return "", info, invalid("%s is a binary file; use exec", quoted(name))
	}
	return string(data), info, nil
}

// replacement is where and how a text is to be changed.
type replacement struct {
	text, old, new string
	at             []int // bytes in text where old starts
}

// editOf finds the text to replace. In a file with \r\n line ends a text with
// \n alone, which is how models write, means those.
func editOf(text string, in editFileIn) replacement {
	e := replacement{text: text, old: in.Old, new: in.New, at: occurrences(text, in.Old)}
	if len(e.at) == 0 && strings.Contains(text, "\r\n") && !strings.Contains(in.Old, "\r") {
		e.old = strings.ReplaceAll(in.Old, "\n", "\r\n")
		e.new = strings.ReplaceAll(strings.ReplaceAll(in.New, "\r\n", "\n"), "\n", "\r\n")
		e.at = occurrences(text, e.old)
	}
	return e
}

func occurrences(text, old string) []int {
	var at []int
	for from := 0; ; {
		i := strings.Index(text[from:], old)
		if i < 0 {
			return at
		}
		at = append(at, from+i)
		from += i + len(old)
	}
}

// check says what is wrong with the number of places that were found.
func (e replacement) check(name string, all bool) error {
	switch {
	case len(e.at) == 0:
		return sessions.Errorf(sessions.NotFound, "old_string is not in %s. %s", quoted(name), e.nearest())
	case len(e.at) > 1 && !all:
		const most = 20
		var lines []string
		for _, at := range e.at[:min(len(e.at), most)] {
			lines = append(lines, fmt.Sprint(e.line(at)+1))
		}
		if len(e.at) > most {
			lines = append(lines, "…")
		}
		return invalid("old_string occurs %d times in %s (lines %s). Add surrounding lines to make it unique, or set replace_all=true", len(e.at), quoted(name), strings.Join(lines, ", "))
	}
	return nil
}

// line returns the number, from 0, of the line in which a byte is.
func (e replacement) line(at int) int { return strings.Count(e.text[:at], "\n") }

// nearest names the line of the file most like the first line of what was
// looked for: mostly it differs in white space.
func (e replacement) nearest() string {
	const longest, most = 200, 5000 // characters compared, lines compared
	var want string
	for line := range strings.Lines(e.old) {
		if want = strings.TrimSpace(line); want != "" {
			break
		}
	}
	want = want[:min(len(want), longest)]
	best, number, found := max(3, len(want)/2), 0, ""
	n := 0
	for line := range strings.Lines(e.text) {
		n++
		have := strings.TrimSpace(line)
		have = have[:min(len(have), longest)]
		d := best
		if have == want {
			d = 0
		} else if n <= most && have != "" {
			d = levenshtein.ComputeDistance(want, have)
		}
		if d < best {
			best, number, found = d, n, strings.TrimRight(line, "\r\n")
		}
		if d == 0 {
			break
		}
	}
	if number == 0 {
		return "Nothing like it is there either; read the file again"
	}
	return fmt.Sprintf("Nearest is line %d: %q. White space counts; read these lines again", number, found[:min(len(found), 300)])
}

// diff shows the changed lines with three lines around them, the first few
// places of many.
func (e replacement) diff() string {
	const around, most, tallest, longest = 3, 5, 200, 6000
	lines := strings.SplitAfter(e.text, "\n")
	starts := e.spans(around)
	var b strings.Builder
	for i, s := range starts {
		if i == most || b.Len() > longest {
			fmt.Fprintf(&b, "[… and %d more places …]\n", len(starts)-i)
			break
		}
		before := lines[max(0, s.from-around):min(len(lines), s.to+1+around, s.from+tallest)]
		after := strings.ReplaceAll(strings.Join(before, ""), e.old, e.new)
		b.WriteString(hunk(before, strings.SplitAfter(after, "\n"), max(0, s.from-around)+1))
	}
	if b.Len() > longest {
		return strings.ToValidUTF8(b.String()[:longest], "") + "\n[…]\n"
	}
	return strings.ToValidUTF8(b.String(), "\uFFFD")
}

// span is a range of lines, from 0, both included.
type span struct{ from, to int }

// spans returns the lines that change; those too near to each other to be
// shown apart are one.
func (e replacement) spans(around int) []span {
	var all []span
	line, pos := 0, 0
	for _, at := range e.at {
		line, pos = line+strings.Count(e.text[pos:at], "\n"), at
		s := span{line, line + strings.Count(e.old, "\n")}
		if n := len(all); n > 0 && s.from-all[n-1].to <= 2*around {
			all[n-1].to = s.to
			continue
		}
		all = append(all, s)
	}
	return all
}

// hunk writes a difference as diff -u does. first is the number of its first line.
func hunk(before, after []string, first int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "@@ line %d @@\n", first)
	put := func(mark string, lines []string) {
		for _, l := range lines {
			if l != "" {
				b.WriteString(mark + strings.TrimRight(l, "\r\n") + "\n")
			}
		}
	}
	for _, op := range difflib.NewMatcher(before, after).GetOpCodes() {
		if op.Tag == 'e' {
			put(" ", before[op.I1:op.I2])
			continue
		}
		put("-", before[op.I1:op.I2])
		put("+", after[op.J1:op.J2])
	}
	return b.String()
}
