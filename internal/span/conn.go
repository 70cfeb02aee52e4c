package span

import (
	"context"
	"errors"
	"io"

	"go.opentelemetry.io/otel/trace"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// Conn returns c with a span for each call, if ctx is traced; else c itself.
func Conn(ctx context.Context, c guest.Conn) guest.Conn {
	if !trace.SpanFromContext(ctx).SpanContext().IsSampled() {
		return c
	}
	return conn{c}
}

type conn struct{ guest.Conn }

// Unwrap lets a backend find what it opened.
func (c conn) Unwrap() guest.Conn { return c.Conn }

func (c conn) Run(ctx context.Context, cmd guest.Cmd, std guest.Streams) (exit guest.Exit, err error) {
	err = call(ctx, "guest run", func(ctx context.Context) (err error) { exit, err = c.Conn.Run(ctx, cmd, std); return err })
	return exit, err
}

// ReadFile has a span that ends when the reading begins.
func (c conn) ReadFile(ctx context.Context, path string, off, n int64) (r io.ReadCloser, info guest.FileInfo, err error) {
	err = call(ctx, "guest read file", func(ctx context.Context) (err error) { r, info, err = c.Conn.ReadFile(ctx, path, off, n); return err })
	return r, info, err
}

func (c conn) WriteFile(ctx context.Context, path string, r io.Reader, opt guest.WriteOptions) (res guest.WriteResult, err error) {
	err = call(ctx, "guest write file", func(ctx context.Context) (err error) { res, err = c.Conn.WriteFile(ctx, path, r, opt); return err })
	return res, err
}

func (c conn) ListFiles(ctx context.Context, path string, opt guest.ListOptions) (list guest.Listing, err error) {
	err = call(ctx, "guest list files", func(ctx context.Context) (err error) { list, err = c.Conn.ListFiles(ctx, path, opt); return err })
	return list, err
}

func (c conn) Processes() guest.Processes { return processes{c.Conn.Processes()} }

type processes struct{ guest.Processes }

func (p processes) Start(ctx context.Context, cmd guest.Cmd, opt guest.StartOptions) (proc guest.Process, out guest.Output, err error) {
	err = call(ctx, "guest start", func(ctx context.Context) (err error) { proc, out, err = p.Processes.Start(ctx, cmd, opt); return err })
	return proc, out, err
}

func (p processes) Read(ctx context.Context, id string, req guest.ReadRequest) (proc guest.Process, out guest.Output, err error) {
	err = call(ctx, "guest read", func(ctx context.Context) (err error) { proc, out, err = p.Processes.Read(ctx, id, req); return err })
	return proc, out, err
}

func (p processes) Control(ctx context.Context, id string, in guest.Input) (proc guest.Process, err error) {
	err = call(ctx, "guest control", func(ctx context.Context) (err error) { proc, err = p.Processes.Control(ctx, id, in); return err })
	return proc, err
}

func (p processes) List(ctx context.Context) (list []guest.Process, err error) {
	err = call(ctx, "guest list processes", func(ctx context.Context) (err error) { list, err = p.Processes.List(ctx); return err })
	return list, err
}

// call makes a call to a guest in a span. Its outcome says no more than that: the
// error may hold what the guest has said.
func call(ctx context.Context, name string, do func(context.Context) error) error {
	ctx, end := Start(ctx, name)
	err := do(ctx)
	switch {
	case err == nil:
		end(ok)
	case errors.Is(err, guest.ErrUnreachable):
		end("unreachable")
	case ctx.Err() != nil:
		end("canceled")
	default:
		end("failed")
	}
	return err
}
