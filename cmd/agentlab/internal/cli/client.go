package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/tools"
)

// Client calls the tools of the daemon.
type Client struct {
	conn    io.Closer
	session *mcp.ClientSession
	step    func(step string)   // is told each step of a call; nil is nobody
	moved   func(m tools.Moved) // is told how much a call has copied; nil is nobody
}

// NewClient speaks to the daemon at the other end of conn, which is closed with
// it, also if it fails.
func NewClient(ctx context.Context, conn io.ReadWriteCloser, version string) (*Client, error) {
	c := &Client{conn: conn}
	lib := mcp.NewClient(&mcp.Implementation{Name: "agentlab", Version: version}, &mcp.ClientOptions{ProgressNotificationHandler: c.progress})
	var err error
	if c.session, err = lib.Connect(ctx, &mcp.IOTransport{Reader: conn, Writer: conn}, nil); err != nil {
		_ = conn.Close()
		return nil, Failure{ExitLost, fmt.Errorf("the daemon takes no client: %w", err)}
	}
	return c, nil
}

// open joins the daemon; see Host.Join.
func open(ctx context.Context, host Host, want Want, warn io.Writer) (*Client, error) {
	conn, err := host.Join(ctx, want, warn)
	if err != nil {
		return nil, Fail(ExitLost, err)
	}
	return NewClient(ctx, conn, host.Version)
}

// Close lets go of the daemon.
func (c *Client) Close() {
	_ = c.conn.Close() // first: there is nothing more to say
	_ = c.session.Close()
}

func (c *Client) progress(_ context.Context, req *mcp.ProgressNotificationClientRequest) {
	if step, ok := req.Params.Meta[mcpserver.StepKey].(string); ok && c.step != nil {
		c.step(step)
	}
	if moved, ok := req.Params.Meta[mcpserver.MovedKey].(map[string]any); ok && c.moved != nil {
		done, _ := moved["bytes"].(float64)
		total, _ := moved["total"].(float64)
		c.moved(tools.Moved{Done: int64(done), Total: int64(total)})
	}
}

// args are those of a tool.
type args map[string]any

// Call calls a tool. What it answers goes to out: the structured result or, of
// a tool without one, what its metadata tells programs. An error says what the
// tool says, without its name.
func (c *Client) Call(ctx context.Context, tool string, a args, out any) error {
	params := &mcp.CallToolParams{Name: tool, Arguments: a, Meta: mcp.Meta{tools.BytesKey: true}}
	if c.step != nil || c.moved != nil {
		params.SetProgressToken(tool)
	}
	res, err := c.session.CallTool(ctx, params)
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		if _, answered := errors.AsType[*jsonrpc.Error](err); answered && !errors.Is(err, mcp.ErrConnectionClosed) {
			return fmt.Errorf("%s: %w", tool, err)
		}
		return Failure{ExitLost, errors.New("the daemon went away; sandboxes go on, and running this again starts another")}
	case res.IsError:
		return refusal(tool, res)
	}
	told := res.StructuredContent
	if told == nil {
		told = res.Meta[tools.MetaKey]
	}
	if told == nil {
		return fmt.Errorf("%s: its answer is none that this version understands", tool)
	}
	text, err := json.Marshal(told)
	if err != nil {
		return fmt.Errorf("%s: %w", tool, err)
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("%s: read its answer: %w", tool, err)
	}
	return nil
}

// words puts the names of commands where a text has those of tools.
func words() *strings.Replacer {
	return strings.NewReplacer("list_sandboxes", "agentlab sandbox list", "create_sandbox", "agentlab sandbox new", "extend_ttl", "agentlab sandbox extend", "start_sandbox", "agentlab sandbox start", "stop_sandbox", "agentlab sandbox stop",
		"read_process", "agentlab sandbox logs", "list_files", "agentlab sandbox exec ID -- ls", "ttl_seconds", "--ttl", "memory_mb", "--memory-mb", "disk_gb", "--disk-gb",
		"set overwrite=true", "set --force", "local_path: ", "")
}

// refused is what a tool said that could not do it.
type refused struct {
	kind string // a sessions.Kind, or tools.OutcomeRefused
	text string
}

func (r refused) Error() string { return r.text }

// refusal is the error of a tool that could not do it.
func refusal(tool string, res *mcp.CallToolResult) error {
	var text []string
	for _, c := range res.Content {
		if t, ok := c.(*mcp.TextContent); ok {
			text = append(text, strings.TrimPrefix(t.Text, tool+": "))
		}
	}
	meta, _ := res.Meta[tools.MetaKey].(map[string]any)
	kind, _ := meta["kind"].(string)
	return refused{kind, strings.Join(text, "\n")}
}

// inWords gives an error of Call its exit code, and the words of the command line.
func inWords(err error) error {
	r, ok := errors.AsType[refused](err)
	if !ok {
		return Fail(ExitFailed, err)
	}
	codes := map[string]int{
		"invalid": ExitUsage, "not_found": exitNotFound, "conflict": exitRefused, "exhausted": exitRefused,
		tools.OutcomeRefused: exitRefused, "unavailable": exitUnavailable,
	}
	return Failure{cmp.Or(codes[r.kind], ExitFailed), errors.New(words().Replace(err.Error()))}
}
