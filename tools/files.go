package tools

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/agnivade/levenshtein"
	"github.com/bmatcuk/doublestar/v4"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

const maxFile = 5 << 20 // bytes of a file that goes through a tool as a whole

type fileMeta struct {
	Path   string    `json:"path"`
	Size   int64     `json:"size"`
	MTime  time.Time `json:"mtime"`
	Mode   string    `json:"mode"`
	SHA256 string    `json:"sha256,omitempty"` // only if all of the file was read
	Lines  int       `json:"lines,omitempty"`  // only if all of the file was read
}

func metaOfFile(info guest.FileInfo) fileMeta {
	return fileMeta{Path: info.Path, Size: info.Size, MTime: info.MTime.UTC(), Mode: octal(info.Mode)}
}

func octal(m fs.FileMode) string { return fmt.Sprintf("%04o", m.Perm()) }

type writeFileIn struct {
	target
	Path     string `arg:"path,required" bytes:"4095"`
	Content  string `arg:"content,required" bytes:"6990508" nul:"ok" doc:"At most 5 MiB"`
	Encoding string `arg:"encoding" enum:"utf8|base64" default:"utf8"`
	Append   bool   `arg:"append"`
	Mode     string `arg:"mode" bytes:"10" doc:"Octal, as 0755"`
}

type writeFileOut struct {
	Path    string `json:"path"`
	Bytes   int64  `json:"bytes"`
	Created bool   `json:"created"`
}

func (s *service) writeFile() Tool {
	return define(s, Tool{
		Name: "write_file", Title: "Write file",
		Scope:       sessions.ScopeWrite,
		Description: "Write a file in a sandbox. Replaces it as a whole, makes missing directories. Relative paths start at home.",
		Output:      outputOf[writeFileOut](),
		Annotations: Annotations{Destructive: true},
		Meta:        map[string]any{"anthropic/alwaysLoad": true},
		Doing:       "writing the file",
	}, func(ctx context.Context, m *sessions.Manager, in writeFileIn) (Result, error) {
		content, mode, err := in.decoded()
		if err != nil {
			return Result{}, err
		}
		var res Result
		err = m.Use(ctx, in.SandboxID, bootWait(0), func(ctx context.Context, sb sessions.Sandbox, conn guest.Conn) error {
			name := absolute(sb, in.Path)
			wrote, err := conn.WriteFile(ctx, name, bytes.NewReader(content), guest.WriteOptions{Append: in.Append, Mode: mode})
			if err != nil {
				return fileError(ctx, conn, name, err)
			}
			res = structured(writeFileOut{name, wrote.Bytes, wrote.Created}, fmt.Sprintf("%s written to %s", count(int(wrote.Bytes), "byte", "bytes"), name))
			return nil
		})
		return res, err
	})
}

// decoded returns the bytes to write and the mode.
func (in writeFileIn) decoded() ([]byte, fs.FileMode, error) {
	content := []byte(in.Content)
	if in.Encoding == "base64" {
		var err error
		content, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(in.Content), ""))
		if err != nil {
			return nil, 0, invalid("content: not base64 (standard alphabet, padded): %v", err)
		}
	}
	if len(content) > maxFile {
		return nil, 0, invalid("content: has %s bytes, at most %s are allowed; write the first part, then the others with append=true", thousands(len(content)), thousands(maxFile))
	}
	if in.Mode == "" {
		return content, 0, nil
	}
	mode, err := strconv.ParseUint(strings.TrimPrefix(in.Mode, "0o"), 8, 12)
	if err != nil || mode == 0 || mode > 0o777 {
		return nil, 0, invalid("mode: %q is not an octal number from 0001 to 0777, as 0644 or 0755", in.Mode)
	}
	return content, fs.FileMode(mode), nil
}

// fileError adds to an error about a file what helps to mend the call: names
// that are near, who owns it.
func fileError(ctx context.Context, conn guest.Conn, name string, cause error) error {
	switch {
	case errors.Is(cause, fs.ErrNotExist):
		return sessions.Errorf(sessions.NotFound, "%s does not exist%s", quoted(name), near(ctx, conn, name))
	case errors.Is(cause, guest.ErrIsDir):
		return invalid("%s is a directory; list_files shows it", quoted(name))
	case errors.Is(cause, guest.ErrNotDir):
		return invalid("%s: a part of this path is a file, not a directory", quoted(name))
	case errors.Is(cause, fs.ErrPermission):
		return invalid("%s: permission denied%s; exec with another user, or choose another place", quoted(name), owner(ctx, conn, name))
	}
	return cause
}

// owner says whose the file, or else its directory, is.
func owner(ctx context.Context, conn guest.Conn, name string) string {
	for _, name := range []string{name, path.Dir(name)} {
		list, err := conn.ListFiles(ctx, path.Dir(name), guest.ListOptions{Pattern: escapeGlob(path.Base(name)), Limit: 1})
		if err == nil && len(list.Files) == 1 {
			f := list.Files[0]
			return fmt.Sprintf(" (%s is owned by uid %d, mode %s)", quoted(name), f.UID, octal(f.Mode))
		}
	}
	return ""
}

// near names files beside the missing one that may have been meant.
func near(ctx context.Context, conn guest.Conn, name string) string {
	dir, base := path.Split(name)
	list, err := conn.ListFiles(ctx, dir, guest.ListOptions{Limit: 1000})
	if err != nil {
		return fmt.Sprintf("; nor does the directory %s", quoted(dir))
	}
	type candidate struct {
		name string
		dist int
	}
	var found []candidate
	for _, f := range list.Files {
		other := path.Base(f.Path)
		d := levenshtein.ComputeDistance(strings.ToLower(brief(base)), strings.ToLower(brief(other)))
		if d <= max(1, len(base)/3) || strings.HasPrefix(other, base) {
			found = append(found, candidate{quoted(path.Join(dir, other)), d})
		}
	}
	if len(found) == 0 {
		return fmt.Sprintf("; list_files shows what is in %s", quoted(dir))
	}
	slices.SortStableFunc(found, func(a, b candidate) int { return a.dist - b.dist })
	var names []string
	for _, c := range found[:min(len(found), 3)] {
		names = append(names, c.name)
	}
	return "; near it there is " + strings.Join(names, ", ")
}

// escapeGlob makes a pattern that matches name only.
func escapeGlob(name string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `{`, `\{`).Replace(name)
}

// quoted shows a path, in Go's quotes if it would not be plain to see: with
// control characters, bytes that are not UTF-8, or space at an end.
func quoted(name string) string {
	plain := utf8.ValidString(name) && strings.TrimSpace(name) == name && name != "" &&
		!strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) })
	if plain && name[0] != '"' {
		return name
	}
	return strconv.Quote(name)
}

type listFilesIn struct {
	target
	Path    string `arg:"path" bytes:"4095" doc:"Default home"`
	Pattern string `arg:"pattern" bytes:"1000" doc:"Glob on the path below, with * and **"`
	Depth   *int   `arg:"depth" min:"1" max:"10" doc:"Default 1, with / or ** in pattern 10"`
	Limit   int    `arg:"limit" default:"200" min:"1" max:"1000"`
}

func (in listFilesIn) depth() int {
	switch {
	case in.Depth != nil:
		return *in.Depth
	case strings.Contains(in.Pattern, "/") || strings.Contains(in.Pattern, "**"):
		return 10
	}
	return 1
}

type listMeta struct {
	Shown int  `json:"shown"`
	Total int  `json:"total"`
	More  bool `json:"total_is_lower_bound"`
}

func (s *service) listFiles() Tool {
	return define(s, Tool{
		Name: "list_files", Title: "List files",
		Scope:       sessions.ScopeRead,
		Description: "Files below a directory, sorted: type size mtime path. Odd names are in quotes.",
		Annotations: Annotations{ReadOnly: true, Idempotent: true},
		Meta:        hint("directory listing, find files by glob"),
		Doing:       "listing files",
	}, func(ctx context.Context, m *sessions.Manager, in listFilesIn) (Result, error) {
		if !doublestar.ValidatePattern(in.Pattern) {
			return Result{}, invalid("pattern: %q is not a glob: a [ or { is not closed, or it ends with \\", brief(in.Pattern))
		}
		var res Result
		err := m.Use(ctx, in.SandboxID, bootWait(0), func(ctx context.Context, sb sessions.Sandbox, conn guest.Conn) error {
			name := absolute(sb, in.Path)
			list, err := conn.ListFiles(ctx, name, guest.ListOptions{Pattern: in.Pattern, Depth: in.depth(), Limit: in.Limit})
			if err != nil {
				return fileError(ctx, conn, name, err)
			}
			res = listResult(list)
			return nil
		})
		return res, err
	})
}

// listResult writes a line for each file.
func listResult(list guest.Listing) Result {
	const most = 30000
	var b strings.Builder
	shown := 0
	for _, f := range list.Files {
		line := fmt.Sprintf("%s %d %s %s", kind(f.Mode), f.Size, f.MTime.UTC().Format("2006-01-02T15:04:05Z"), quoted(f.Path))
		if f.Link != "" {
			line += " -> " + quoted(f.Link)
		}
		if b.Len()+len(line) > most {
			break
		}
		b.WriteString(line + "\n")
		shown++
	}
	switch {
	case list.More:
		fmt.Fprintf(&b, "[%s of at least %s; narrow pattern or raise limit]", thousands(shown), thousands(list.Total))
	case shown < list.Total:
		fmt.Fprintf(&b, "[%s of %s; narrow pattern or raise limit]", thousands(shown), thousands(list.Total))
	case shown == 0:
		b.WriteString("[nothing]")
	}
	return plain(b.String(), listMeta{shown, list.Total, list.More})
}

// kind is the letter that ls has for the type of a file.
func kind(m fs.FileMode) string {
	switch {
	case m.IsRegular():
		return "-"
	case m.IsDir():
		return "d"
	case m&fs.ModeSymlink != 0:
		return "l"
	case m&fs.ModeNamedPipe != 0:
		return "p"
	case m&fs.ModeSocket != 0:
		return "s"
	case m&fs.ModeCharDevice != 0:
		return "c"
	}
	return "b"
}
