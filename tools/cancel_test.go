package tools_test

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/tools"
)

// telling is a Conn that tells when a file has begun to be read, and when it
// is closed.
type telling struct {
	guest.Conn
	began  context.CancelFunc
	closed chan struct{}
}

func (c telling) ReadFile(ctx context.Context, path string, off, n int64) (io.ReadCloser, guest.FileInfo, error) {
	r, info, err := c.Conn.ReadFile(ctx, path, off, n)
	if err != nil {
		return nil, info, err
	}
	return &tellingReader{r, c}, info, nil
}

type tellingReader struct {
	io.ReadCloser
	c telling
}

func (r *tellingReader) Read(p []byte) (int, error) {
	defer r.c.began()
	return r.ReadCloser.Read(p)
}

func (r *tellingReader) Close() error {
	defer close(r.c.closed)
	return r.ReadCloser.Close()
}

// A cancelled call that reads much stops to, and gives up the file.
func TestCancelledReadStops(t *testing.T) {
	e := newEnv(t)
	e.write("large", strings.Repeat("x\n", 5<<20/2))
	e.write("huge", strings.Repeat("x\n", 100<<20/2))
	raw, err := json.Marshal(args{"sandbox_id": e.sandbox, "path": "huge", "offset": 1 << 30})
	check(t, err)
	real := e.conn.Conn
	for name, read := range map[string]func(ctx context.Context) tools.Result{
		"tool": func(ctx context.Context) tools.Result { return e.tools["read_file"].Call(ctx, raw) },
		"resource": func(ctx context.Context) tools.Result {
			return e.resources.Read(ctx, "sandbox://"+e.sandbox+"/files"+e.home+"/large")
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(as(t.Context(), "local:1"))
			defer cancel()
			told := telling{real, cancel, make(chan struct{})}
			e.conn.Conn = told
			if res := read(ctx); !res.IsError || !strings.Contains(textOf(res), "cancelled") {
				t.Errorf("%.300s", textOf(res))
			}
			<-told.closed
		})
	}
}
