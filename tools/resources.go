package tools

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"unicode/utf8"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// Resource is something that people give a model to read: one thing, or all
// that a template's variables name.
type Resource struct {
	URI         string // an RFC 6570 template if Variables is not empty
	Variables   []string
	Name        string
	Title       string // for people
	Description string
	MIME        string // empty if it is not always the same
	Scope       sessions.Scope

	// match returns what the variables are in a URI, and false if it is not
	// one of this resource's.
	match func(uri string) (place, bool)
	read  func(ctx context.Context, m *sessions.Manager, at place) (Result, error)
}

// Resources are all that can be read. Clients see the table; what belongs to
// which caller is looked up at each reading.
type Resources struct {
	Table []Resource
	svc   *service
}

const (
	maxURI = 16 << 10 // bytes: the longest path, each byte of it percent-encoded
	maxLog = 1 << 20  // bytes of a process's output in a resource
)

// AllResources returns the resources. Open and log are as for [All].
func AllResources(open Source, log *slog.Logger) *Resources {
	s := &service{open: open, log: log}
	return &Resources{svc: s, Table: []Resource{
		{
			URI: "sandbox://sandboxes", Name: "sandboxes", Title: "Your sandboxes", MIME: "application/json",
			Description: "Your live sandboxes: id, name, profile, state, end.",
			Scope:       sessions.ScopeRead, match: exactly("sandbox://sandboxes"), read: readSandboxes,
		},
		{
			URI: "sandbox://profiles", Name: "profiles", Title: "Sandbox profiles", MIME: "application/json",
			Description: "The profiles that sandboxes are made from: size, network, lifetime.",
			Scope:       sessions.ScopeRead, match: exactly("sandbox://profiles"), read: readProfiles,
		},
		{
			URI: "sandbox://{sandbox_id}/files{+path}", Variables: []string{"sandbox_id", "path"}, Name: "file", Title: "File in a sandbox",
			Description: "A file of up to 5 MiB, or what is in a directory, by its absolute path; without path the home directory.",
			Scope:       sessions.ScopeRead, match: matchFile, read: s.readFileResource,
		},
		{
			URI: "sandbox://{sandbox_id}/processes/{process_id}/log", Variables: []string{"sandbox_id", "process_id"}, Name: "process_log", Title: "Output of a process",
			Description: "What a command wrote, stdout and stderr as they came; of a long output the last 1 MiB.",
			MIME:        "text/plain; charset=utf-8",
			Scope:       sessions.ScopeRead, match: matchLog, read: s.readLogResource,
		},
	}}
}

// Find returns the resource that a URI is of, nil if there is none.
func (r *Resources) Find(uri string) *Resource {
	if len(uri) > maxURI {
		return nil
	}
	for i := range r.Table {
		if _, ok := r.Table[i].match(uri); ok {
			return &r.Table[i]
		}
	}
	return nil
}

// Read returns what a URI names, as the one Content of the result. Like a
// tool's, it never fails otherwise than by Result.IsError.
func (r *Resources) Read(ctx context.Context, uri string) Result {
	const what = "read resource"
	res, err := Result{}, error(nil)
	found := r.Find(uri)
	if found == nil {
		return r.svc.present(ctx, what, noResource(uri))
	}
	m, err := r.svc.open(ctx)
	if err != nil {
		return r.svc.broken(what, err)
	}
	at, _ := found.match(uri)
	if err = at.problem; err == nil {
		res, err = found.read(ctx, m, at)
	}
	if err != nil {
		res = r.svc.present(ctx, what, err)
	}
	res.Sandbox, res.Outcome = at.sandbox, cmp.Or(res.Outcome, "ok")
	return res
}

// Over says whether a URI is of a sandbox that is not the caller's, or not any
// more, so that what it names will never be there. It may be asked of what Read
// has not found.
func (r *Resources) Over(ctx context.Context, uri string) bool {
	found := r.Find(uri)
	if found == nil {
		return true
	}
	at, _ := found.match(uri)
	m, err := r.svc.open(ctx)
	if err != nil || at.sandbox == "" {
		return false
	}
	_, err = m.Get(ctx, at.sandbox, 0)
	known, ok := errors.AsType[*sessions.Error](err)
	return ok && known.Kind == sessions.NotFound
}

// readSandboxes is list_sandboxes for people.
func readSandboxes(ctx context.Context, m *sessions.Manager, _ place) (Result, error) {
	list, err := m.List(ctx)
	if err != nil {
		return Result{}, err
	}
	return asJSON(listOut{Sandboxes: views(m, list)})
}

type profileOut struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Cores       int    `json:"cpu"`
	MemoryMB    int    `json:"memory_mb"`
	DiskMB      int    `json:"disk_mb"`
	MaxCores    int    `json:"max_cpu"`
	MaxMemoryMB int    `json:"max_memory_mb"`
	MaxDiskMB   int    `json:"max_disk_mb"`
	Network     string `json:"network"`
	User        string `json:"user"`
	TTL         int    `json:"ttl_seconds"`
	MaxTTL      int    `json:"max_ttl_seconds"`
	Problem     string `json:"problem,omitempty"`
}

func readProfiles(ctx context.Context, m *sessions.Manager, _ place) (Result, error) {
	out := struct {
		Profiles []profileOut `json:"profiles"`
	}{Profiles: []profileOut{}}
	for _, p := range m.Offered(ctx) {
		out.Profiles = append(out.Profiles, profileOut{
			p.Name, p.Description, p.Cores, p.MemoryMB, p.DiskMB, p.MaxCores, p.MaxMemoryMB, p.MaxDiskMB,
			p.Network, p.User, int(p.TTL.Seconds()), int(p.MaxTTL.Seconds()), p.Problem,
		})
	}
	return asJSON(out)
}

func asJSON(v any) (Result, error) {
	text, err := json.MarshalIndent(v, "", "  ")
	return Result{Content: []Content{{Text: string(text), MIME: "application/json"}}}, err
}

// readFileResource reads a file as a whole, or lists a directory.
func (s *service) readFileResource(ctx context.Context, m *sessions.Manager, at place) (Result, error) {
	var res Result
	err := m.Use(ctx, at.sandbox, bootWait(0), func(ctx context.Context, sb sessions.Sandbox, conn guest.Conn) error {
		name := absolute(sb, at.path)
		c, err := wholeFile(ctx, conn, name)
		if errors.Is(err, guest.ErrIsDir) {
			c, err = directory(ctx, conn, name)
		}
		if err != nil {
			return fileError(ctx, conn, name, err)
		}
		res.Content = []Content{c}
		return nil
	})
	return res, err
}

// wholeFile reads a file of at most maxFile bytes.
func wholeFile(ctx context.Context, conn guest.Conn, name string) (Content, error) {
	r, info, err := conn.ReadFile(ctx, name, 0, maxFile+1)
	if err != nil {
		return Content{}, err
	}
	defer r.Close()
	if info.Size > maxFile {
		return Content{}, invalid("%s has %s bytes, a resource at most %s; the tool read_file reads it in parts (offset and limit), exec with head, tail or grep finds what matters",
			quoted(name), thousands(int(info.Size)), thousands(maxFile))
	}
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return Content{}, err
	}
	if len(data) > maxFile { // it has grown, or is one that the kernel makes up
		return Content{}, invalid("%s has more than %s bytes; the tool read_file reads it in parts (offset and limit)", quoted(name), thousands(maxFile))
	}
	mime := http.DetectContentType(data)
	switch plain := !binary(data) && utf8.Valid(data); {
	case plain:
		return Content{Text: string(data), MIME: mime}, nil
	case mime == "text/plain; charset=utf-8":
		mime = "application/octet-stream"
	}
	return Content{Data: data, MIME: mime}, nil
}

// directory lists one as list_files does.
func directory(ctx context.Context, conn guest.Conn, name string) (Content, error) {
	list, err := conn.ListFiles(ctx, name, guest.ListOptions{Limit: 1000})
	if err != nil {
		return Content{}, err
	}
	return Content{Text: listResult(list).Content[0].Text, MIME: "inode/directory"}, nil
}

// readLogResource reads the end of a process's output. The agent's own reading
// of it goes on where it was.
func (s *service) readLogResource(ctx context.Context, m *sessions.Manager, at place) (Result, error) {
	var res Result
	err := m.Use(ctx, at.sandbox, bootWait(0), func(ctx context.Context, _ sessions.Sandbox, conn guest.Conn) error {
		p, out, err := conn.Processes().Read(ctx, at.process, guest.ReadRequest{Offset: -maxLog, Max: maxLog, Peek: true})
		if err != nil {
			return s.processError(ctx, conn, at.process, err)
		}
		tail := out.Both
		if out.Offset > 0 {
			tail = tail[lineStart(tail):]
		}
		text := clean(tail)
		if before := out.Next - int64(len(tail)); before > 0 {
			text = clipped{tail: text, to: before}.text(whole(p, 0))
		}
		res.Content = []Content{{Text: text, MIME: "text/plain; charset=utf-8"}}
		return nil
	})
	return res, err
}
