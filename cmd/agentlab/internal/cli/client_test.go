package cli_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab/internal/cli"
)

// serve returns what joins a server with one tool.
func serve(t *testing.T, tool string, answer func(args map[string]any) *mcp.CallToolResult) cli.Host {
	t.Helper()
	return cli.Host{Join: func(context.Context, cli.Want, io.Writer) (io.ReadWriteCloser, error) {
		s := mcp.NewServer(&mcp.Implementation{Name: "far", Version: "1"}, nil)
		mcp.AddTool(s, &mcp.Tool{Name: tool}, func(_ context.Context, _ *mcp.CallToolRequest, args map[string]any) (*mcp.CallToolResult, any, error) {
			return answer(args), nil, nil
		})
		far, near := net.Pipe()
		go func() {
			_ = s.Run(t.Context(), &mcp.IOTransport{Reader: far, Writer: far})
			_ = far.Close()
		}()
		return near, nil
	}}
}

// do runs a command and returns what it printed and its exit code.
func do(t *testing.T, host cli.Host, args ...string) (stdout string, code int, err error) {
	t.Helper()
	var out bytes.Buffer
	cmd := cli.NewSandboxCommand(host)
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err = cmd.ExecuteContext(t.Context())
	if f, ok := errors.AsType[cli.Failure](err); ok {
		code = f.Code
	}
	return out.String(), code, err
}

// A list that does not fit a page is followed to its end.
func TestListFollowsPages(t *testing.T) {
	host := serve(t, "list_sandboxes", func(args map[string]any) *mcp.CallToolResult {
		n := map[any]int{"": 1, "sb-1": 2, "sb-2": 3}[args["after"]]
		out := map[string]any{"sandboxes": []any{map[string]any{"sandbox_id": fmt.Sprint("sb-", n), "state": "ready"}}}
		if n < 3 {
			out["next_after"] = fmt.Sprint("sb-", n)
		}
		return &mcp.CallToolResult{StructuredContent: out}
	})
	out, _, err := do(t, host, "list")
	if err != nil || strings.Count(out, "sb-") != 3 || !strings.Contains(out, "sb-3") {
		t.Errorf("list prints %q, error %v", out, err)
	}
}

// A daemon that goes away in the middle is told, however the connection ends.
func TestDaemonGoesAway(t *testing.T) {
	for _, cause := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET} {
		var conn net.Conn
		host := serve(t, "list_sandboxes", func(map[string]any) *mcp.CallToolResult {
			_ = conn.Close()
			return &mcp.CallToolResult{}
		})
		join := host.Join
		host.Join = func(ctx context.Context, want cli.Want, warn io.Writer) (io.ReadWriteCloser, error) {
			c, err := join(ctx, want, warn)
			conn = c.(net.Conn)
			return broken{conn, cause}, err
		}
		if _, code, err := do(t, host, "list"); code != 5 || !strings.Contains(err.Error(), "the daemon went away") {
			t.Errorf("%v: exit code %d, error %v", cause, code, err)
		}
	}
}

// broken is a connection that ends with an error.
type broken struct {
	net.Conn
	cause error
}

func (b broken) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	if err != nil {
		err = b.cause
	}
	return n, err
}

// Each class of an error has its exit code.
func TestExitCodes(t *testing.T) {
	for kind, want := range map[string]int{
		"internal": 1, "": 1, "invalid": 2, "not_found": 6, "conflict": 7, "exhausted": 7, "refused": 7, "unavailable": 8,
	} {
		host := serve(t, "destroy", func(map[string]any) *mcp.CallToolResult {
			return &mcp.CallToolResult{
				IsError: true, Content: []mcp.Content{&mcp.TextContent{Text: "destroy: it is so; list_sandboxes shows it"}},
				Meta: mcp.Meta{"agentlab.dev/result": map[string]any{"kind": kind}},
			}
		})
		_, code, err := do(t, host, "destroy", "sb-aaaaaaaaaaaaaaaaaaaa")
		if code != want || err == nil || err.Error() != "it is so; agentlab sandbox list shows it" {
			t.Errorf("%s: exit code %d, error %v, want %d", kind, code, err, want)
		}
	}
}

// What prune would do, and has done, is a line for each sandbox, and what could not
// be done an exit code.
func TestPruneTellsOutcomes(t *testing.T) {
	id := "sb-" + strings.Repeat("a", 20)
	gone := map[string]any{"sandbox_id": id, "name": "box", "owner": "o", "backend": "b", "why": "its time is up"}
	left := map[string]any{"sandbox_id": id, "owner": "o", "backend": "b", "why": "its machine vanished", "left": true}
	stuck := map[string]any{"sandbox_id": id, "owner": "o", "backend": "b", "why": "it has ended", "problem": "no answer"}
	for _, tt := range []struct {
		list, undecided []any
		line            string
		code, dryCode   int
	}{
		{[]any{gone}, nil, id + "  gone     its time is up  box   o      b", 0, 0},
		{[]any{left}, nil, id + "  wait     its machine vanished  -     o      b", 0, 0},
		{[]any{stuck}, nil, id + "  stuck    it has ended; no answer  -     o      b", 8, 0},
		{nil, []any{map[string]any{"backend": "b", "problem": "is down"}}, "nothing has ended or is stuck", 8, 8},
	} {
		host := serve(t, "sandbox_prune", func(args map[string]any) *mcp.CallToolResult {
			return &mcp.CallToolResult{StructuredContent: map[string]any{"dry_run": args["dry_run"], "sandboxes": tt.list, "undecided": tt.undecided}}
		})
		out, code, err := do(t, host, "prune")
		if code != tt.code || !strings.Contains(out, tt.line+"\n") {
			t.Errorf("exit code %d, %v, want %d and %s: %s", code, err, tt.code, tt.line, out)
		}
		out, code, err = do(t, host, "prune", "--dry-run")
		if code != tt.dryCode || strings.Contains(out, "gone") || strings.Contains(out, "stuck  ") {
			t.Errorf("dry: exit code %d, %v, want %d: %s", code, err, tt.dryCode, out)
		}
	}
}
