package tools

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/internal/hosttree"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// Linker makes the URL where a ticket can be used.
type Linker func(auth.Ticket) (url string, err error)

type linkerKey struct{}

// WithLinker returns a context of a caller that reaches us over HTTP, where
// files can be moved by URL. Without it, the tools for that are not offered.
func WithLinker(ctx context.Context, link Linker) context.Context {
	return context.WithValue(ctx, linkerKey{}, link)
}

func linker(ctx context.Context) Linker {
	link, _ := ctx.Value(linkerKey{}).(Linker)
	return link
}

func hasLinker(ctx context.Context) bool { return linker(ctx) != nil }

// MaxTransfer is how many bytes a file has at most that is moved by URL.
const MaxTransfer = hosttree.MaxBytes

type urlIn struct {
	target
	Path string `arg:"path,required" bytes:"4095" doc:"The file in the sandbox"`
	TTL  int    `arg:"ttl_seconds" default:"900" min:"10" max:"3600" doc:"How long the URL is good"`
}

type urlOut struct {
	URL       string    `json:"url"`
	Method    string    `json:"method"`
	Path      string    `json:"path"`
	ExpiresAt time.Time `json:"expires_at"`
	MaxBytes  int64     `json:"max_bytes,omitempty"`
	Bytes     *int64    `json:"bytes,omitempty"`
}

func (s *service) uploadURL() Tool {
	return define(s, Tool{
		Name: "upload_url", Title: "URL to upload a file",
		Scope:       sessions.ScopeWrite,
		Offered:     hasLinker,
		Description: "A URL to which anybody can PUT a file for a sandbox, without a token, until it expires: curl -T FILE URL. For what is too large for write_file.",
		Output:      outputOf[urlOut](),
		Annotations: Annotations{Destructive: true},
		Meta:        hint("upload a large local file by HTTP"),
		Doing:       "making the URL",
	}, func(ctx context.Context, m *sessions.Manager, in urlIn) (Result, error) {
		return s.url(ctx, m, in, true)
	})
}

func (s *service) downloadURL() Tool {
	return define(s, Tool{
		Name: "download_url", Title: "URL to download a file",
		Scope:       sessions.ScopeRead,
		Offered:     hasLinker,
		Description: "A URL from which anybody can GET a file of a sandbox, without a token, until it expires; ranges work. For what is too large for read_file.",
		Output:      outputOf[urlOut](),
		Annotations: Annotations{ReadOnly: true},
		Meta:        hint("download a large file by HTTP"),
		Doing:       "making the URL",
	}, func(ctx context.Context, m *sessions.Manager, in urlIn) (Result, error) {
		return s.url(ctx, m, in, false)
	})
}

func (s *service) url(ctx context.Context, m *sessions.Manager, in urlIn, write bool) (Result, error) {
	who, _ := sessions.PrincipalFrom(ctx)
	out := urlOut{Method: "GET", ExpiresAt: time.Now().Add(seconds(in.TTL))}
	if !who.Expires.IsZero() && who.Expires.Before(out.ExpiresAt) { // it must not outlive what it was asked for with
		out.ExpiresAt = who.Expires
	}
	out.ExpiresAt = out.ExpiresAt.UTC().Truncate(time.Second)
	if write {
		out.Method, out.MaxBytes = "PUT", MaxTransfer
	}
	err := m.Use(ctx, in.SandboxID, bootWait(0), func(ctx context.Context, sb sessions.Sandbox, conn guest.Conn) error {
		out.Path = absolute(sb, in.Path)
		r, info, err := conn.ReadFile(ctx, out.Path, 0, 0)
		switch {
		case err == nil:
			_ = r.Close()
			if !write {
				out.Bytes = &info.Size
			}
		case !write || !errors.Is(err, fs.ErrNotExist):
			return fileError(ctx, conn, out.Path, err)
		}
		return nil
	})
	if err != nil {
		return Result{}, err
	}
	out.URL, err = linker(ctx)(auth.Ticket{Principal: who.Name, Sandbox: in.SandboxID, Path: out.Path, Write: write, Expires: out.ExpiresAt})
	if err != nil {
		return Result{}, err
	}
	return structured(out, fmt.Sprintf("%s %s\nfor %s, until %s", out.Method, out.URL, quoted(out.Path), clock(out.ExpiresAt))), nil
}
