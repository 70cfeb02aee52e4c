package failpoint

import (
	"context"
	"io"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// conn has points around each call to the inside of a machine.
type conn struct {
	guest.Conn
	points *Points
}

// Unwrap lets a backend find what it opened.
func (c conn) Unwrap() guest.Conn { return c.Conn }

func (c conn) Run(ctx context.Context, cmd guest.Cmd, std guest.Streams) (guest.Exit, error) {
	return around(c.points, "guest run", func() (guest.Exit, error) { return c.Conn.Run(ctx, cmd, std) })
}

func (c conn) ReadFile(ctx context.Context, path string, off, n int64) (r io.ReadCloser, info guest.FileInfo, err error) {
	err = c.points.Around("guest read file", func() (err error) {
		r, info, err = c.Conn.ReadFile(ctx, path, off, n)
		return err
	})
	return r, info, err
}

func (c conn) WriteFile(ctx context.Context, path string, r io.Reader, opt guest.WriteOptions) (guest.WriteResult, error) {
	return around(c.points, "guest write file", func() (guest.WriteResult, error) { return c.Conn.WriteFile(ctx, path, r, opt) })
}

func (c conn) ListFiles(ctx context.Context, path string, opt guest.ListOptions) (guest.Listing, error) {
	return around(c.points, "guest list files", func() (guest.Listing, error) { return c.Conn.ListFiles(ctx, path, opt) })
}

func (c conn) Processes() guest.Processes { return processes{c.Conn.Processes(), c.points} }

type processes struct {
	guest.Processes
	points *Points
}

func (p processes) Start(ctx context.Context, cmd guest.Cmd, opt guest.StartOptions) (proc guest.Process, out guest.Output, err error) {
	err = p.points.Around("guest start", func() (err error) {
		proc, out, err = p.Processes.Start(ctx, cmd, opt)
		return err
	})
	return proc, out, err
}

func (p processes) Read(ctx context.Context, id string, req guest.ReadRequest) (proc guest.Process, out guest.Output, err error) {
	err = p.points.Around("guest read", func() (err error) {
		proc, out, err = p.Processes.Read(ctx, id, req)
		return err
	})
	return proc, out, err
}

func (p processes) Control(ctx context.Context, id string, in guest.Input) (guest.Process, error) {
	return around(p.points, "guest control", func() (guest.Process, error) { return p.Processes.Control(ctx, id, in) })
}

func (p processes) List(ctx context.Context) ([]guest.Process, error) {
	return around(p.points, "guest list processes", func() ([]guest.Process, error) { return p.Processes.List(ctx) })
}
