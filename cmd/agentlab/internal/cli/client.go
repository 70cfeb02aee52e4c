package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/tools"
)

// client calls the tools of the daemon.
type client struct {
	conn    io.Closer
	session *mcp.ClientSession
	step    func(step string) // is told each step of a call; nil is nobody
}

// open joins the daemon; see Host.Join.
func open(ctx context.Context, host Host, start bool, hostDirs []string, warn io.Writer) (*client, error) {
	conn, err := host.Join(ctx, start, hostDirs, warn)
	if err != nil {
		return nil, Fail(exitLost, err)
	}
	c := &client{conn: conn}
	lib := mcp.NewClient(&mcp.Implementation{Name: "agentlab", Version: host.Version}, &mcp.ClientOptions{ProgressNotificationHandler: c.progress})
	if c.session, err = lib.Connect(ctx, &mcp.IOTransport{Reader: conn, Writer: conn}, nil); err != nil {
		_ = conn.Close()
		return nil, Fail(exitLost, fmt.Errorf("the daemon takes no client: %w", err))
	}
	return c, nil
}

// close lets go of the daemon.
func (c *client) close() {
	_ = c.conn.Close() // first: there is nothing more to say
	_ = c.session.Close()
}

func (c *client) progress(_ context.Context, req *mcp.ProgressNotificationClientRequest) {
	if step, ok := req.Params.Meta[mcpserver.StepKey].(string); ok && c.step != nil {
		c.step(step)
	}
}

// args are those of a tool.
type args map[string]any

// call calls a tool. What it answers goes to out: the structured result or, of
// a tool without one, what its metadata tells programs.
func (c *client) call(ctx context.Context, tool string, a args, out any) error {
	params := &mcp.CallToolParams{Name: tool, Arguments: a, Meta: mcp.Meta{tools.BytesKey: true}}
	if c.step != nil {
		params.SetProgressToken(tool)
	}
	res, err := c.session.CallTool(ctx, params)
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, mcp.ErrConnectionClosed), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Failure{exitLost, errors.New("the daemon went away; sandboxes go on, and running this again starts another")}
	case err != nil:
		return Failure{exitRefused, fmt.Errorf("%s: %w", tool, err)}
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
	return strings.NewReplacer("list_sandboxes", "agentlab sandbox list", "create_sandbox", "agentlab sandbox new", "extend_ttl", "agentlab sandbox extend",
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
	codes := map[string]int{
		"invalid": exitUsage, "not_found": exitNotFound, "conflict": exitRefused, "exhausted": exitRefused,
		tools.OutcomeRefused: exitRefused, "unavailable": exitUnavailable,
	}
	code := codes[kind]
	if code == 0 {
		code = exitFailed
	}
	return Failure{code, refused{kind, words().Replace(strings.Join(text, "\n"))}}
}
