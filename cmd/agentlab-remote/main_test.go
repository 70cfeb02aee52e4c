package main

import (
	"bufio"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// onlyToken knows one token.
type onlyToken string

func (o onlyToken) Authenticate(_ context.Context, token string) (sessions.Principal, error) {
	if token != string(o) {
		return sessions.Principal{}, mcpserver.ErrUnauthenticated
	}
	return sessions.Principal{Name: "token:far", Scopes: []sessions.Scope{sessions.ScopeWrite}}, nil
}

// serve serves one tool to who has the token s3cret, and returns the URL.
func serve(t *testing.T) string {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	s := &mcpserver.Server{Version: "1", Log: slog.New(slog.DiscardHandler), Tools: []tools.Tool{
		{Name: "whoami", Scope: sessions.ScopeRead, Call: func(ctx context.Context, _ json.RawMessage) tools.Result {
			p, _ := sessions.PrincipalFrom(ctx)
			return tools.Result{Content: []tools.Content{{Text: p.Name}}}
		}},
	}}
	go func() { served <- s.ServeHTTPOn(ctx, ln, mcpserver.HTTP{Auth: onlyToken("s3cret")}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return "http://" + ln.Addr().String()
}

// A client of another's making starts the program as desktop clients do.
func TestClientIsJoined(t *testing.T) {
	program := filepath.Join(t.TempDir(), "agentlab-remote")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), program, "--server", serve(t))
	cmd.Env = []string{"AGENTLAB_TOKEN=s3cret"}
	s, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil).Connect(t.Context(), &mcp.CommandTransport{Command: cmd}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	res, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "whoami"})
	if err != nil {
		t.Fatal(err)
	}
	if text, ok := res.Content[0].(*mcp.TextContent); !ok || text.Text != "token:far" {
		t.Errorf("it says %+v", res.Content[0])
	}
}

func TestExitCodes(t *testing.T) {
	url := serve(t)
	const ping = `{"jsonrpc":"2.0","id":1,"method":"ping"}` + "\n"
	for name, tt := range map[string]struct {
		args  []string
		token string
		code  int
		said  string // on standard error, or output
	}{
		"help":       {[]string{"--help"}, "", 0, "usage: agentlab-remote --server URL"},
		"no server":  {nil, "", exitUsage, `--server: got ""`},
		"unknown":    {[]string{"--sever", url}, "", exitUsage, "not defined: -sever"},
		"argument":   {[]string{"--server", url, "x"}, "", exitUsage, `unexpected argument "x"`},
		"plain":      {[]string{"--server", "http://lab.example.org"}, "x", exitUsage, "want https://"},
		"wrong":      {[]string{"--server", url}, "x", 0, "a token that is valid"},
		"nobody":     {[]string{"--server", "http://127.0.0.1:1"}, "", exitLost, "can't be reached"},
		"right":      {[]string{"--server", url}, "s3cret", 0, `"id":1`},
		"right path": {[]string{"--server", url + "/mcp"}, "s3cret", 0, `"id":1`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var said strings.Builder
			out := bufio.NewWriter(&said)
			code := run(t.Context(), tt.args, strings.NewReader(ping), out, out, func(string) string { return tt.token })
			if err := out.Flush(); err != nil {
				t.Fatal(err)
			}
			if code != tt.code || !strings.Contains(said.String(), tt.said) {
				t.Errorf("exit code %d, said %q; want %d, %q", code, said.String(), tt.code, tt.said)
			}
		})
	}
}
