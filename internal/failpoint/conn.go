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

func (c conn) Run(ctx context.Context, cmd guest.Cmd, std guest.Streams) (exit guest.Exit, err error) {
	err = c.points.Around("guest run", func() (err error) {
		exit, err = c.Conn.Run(ctx, cmd, std)
		return err
	})
	return exit, err
}

func (c conn) ReadFile(ctx context.Context, path string, off, n int64) (r io.ReadCloser, info guest.FileInfo, err error) {
	err = c.points.Around("guest read file", func() (err error) {
		r, info, err = c.Conn.ReadFile(ctx, path, off, n)
		return err
	})
	return r, info, err
}

func (c conn) WriteFile(ctx context.Context, path string, r io.Reader, opt guest.WriteOptions) (res guest.WriteResult, err error) {
	err = c.points.Around("guest write file", func() (err error) {
		res, err = c.Conn.WriteFile(ctx, path, r, opt)
		return err
	})
	return res, err
}

func (c conn) ListFiles(ctx context.Context, path string, opt guest.ListOptions) (list guest.Listing, err error) {
	err = c.points.Around("guest list files", func() (err error) {
		list, err = c.Conn.ListFiles(ctx, path, opt)
		return err
	})
	return list, err
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

func (p processes) Control(ctx context.Context, id string, in guest.Input) (proc guest.Process, err error) {
	err = p.points.Around("guest control", func() (err error) {
		proc, err = p.Processes.Control(ctx, id, in)
		return err
	})
	return proc, err
}

func (p processes) List(ctx context.Context) (all []guest.Process, err error) {
	err = p.points.Around("guest list processes", func() (err error) {
		all, err = p.Processes.List(ctx)
		return err
	})
	return all, err
}
