package stage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Client is an MCP client with an `agentlab mcp` of its own behind it.
type Client struct {
	*mcp.ClientSession
}

// Args are those of a tool.
type Args map[string]any

// ToolError is the text with which a tool said that it could not do it.
type ToolError string

// Error returns the text.
func (e ToolError) Error() string { return string(e) }

// Connect starts `agentlab mcp` with further variables in its environment and
// initializes a session over its standard streams. Ending ctx kills it.
func (s *Stage) Connect(ctx context.Context, env ...string) (*Client, error) {
	cmd := exec.CommandContext(ctx, s.Bin("agentlab"), "mcp")
	cmd.Env = append(slices.Clip(s.Env), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	client := mcp.NewClient(&mcp.Implementation{Name: "agentlab-stage", Version: "1"}, nil)
	session, err := client.Connect(ctx, &mcp.CommandTransport{Command: cmd}, nil)
	if err != nil {
		_ = cmd.Wait() // so that all it said is in stderr
		return nil, fmt.Errorf("start agentlab mcp: %w\n%s", err, stderr.String())
	}
	return &Client{session}, nil
}

// ConnectHTTP initializes a session with a daemon at url, such as
// http://127.0.0.1:8080/mcp, as the holder of a token.
func ConnectHTTP(ctx context.Context, url, token string) (*Client, error) {
	client := mcp.NewClient(&mcp.Implementation{Name: "agentlab-stage", Version: "1"}, nil)
	session, err := client.Connect(ctx, &mcp.StreamableClientTransport{
		Endpoint: url, HTTPClient: &http.Client{Transport: bearer(token)}, DisableStandaloneSSE: true,
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", url, err)
	}
	return &Client{session}, nil
}

// bearer sends the token with each request.
type bearer string

// RoundTrip implements [http.RoundTripper].
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

// Call calls a tool and returns the text of its answer. The typed fields go to
// into, unless it is nil: those of the structured content or, for a tool that
// answers with bulk text, of the result's metadata.
//
// Errors: ToolError, and what the transport says.
func (c *Client) Call(ctx context.Context, tool string, args Args, into any) (string, error) {
	if args == nil {
		args = Args{}
	}
	res, err := c.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: args})
	if err != nil {
		return "", fmt.Errorf("call %s: %w", tool, err)
	}
	var text strings.Builder
	for _, block := range res.Content {
		if t, ok := block.(*mcp.TextContent); ok {
			text.WriteString(t.Text)
		}
	}
	if res.IsError {
		return "", ToolError(text.String())
	}
	if into == nil {
		return text.String(), nil
	}
	if err := fields(res, into); err != nil {
		return "", fmt.Errorf("%s: %w", tool, err)
	}
	return text.String(), nil
}

func fields(res *mcp.CallToolResult, into any) error {
	from := res.StructuredContent
	for key, value := range res.Meta {
		if strings.HasSuffix(key, "/result") {
			from = value
		}
	}
	if from == nil {
		return errors.New("the answer has no typed fields")
	}
	text, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}
