package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/spf13/cobra"

	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/mcpserver"
)

// adminClient calls the operator's tools. The daemon alone has the database, so
// that the command line is one more MCP client of it, and the only one that
// asks to be the operator.
type adminClient struct {
	ctx     context.Context
	dir     *os.File
	conn    *net.UnixConn
	session *mcp.ClientSession
}

// newAdminClient connects to the daemon, and starts it if there is none.
func newAdminClient(cmd *cobra.Command, locate func() (config.Paths, error)) (*adminClient, error) {
	paths, err := locate()
	if err != nil {
		return nil, fail(exitFailed, err)
	}
	dir, err := config.OpenDir(paths.Runtime, config.RuntimeMode)
	if err != nil {
		return nil, fail(exitUnsafe, err)
	}
	a := &adminClient{ctx: cmd.Context(), dir: dir}
	if err := a.connect(paths, cmd.ErrOrStderr()); err != nil {
		a.close()
		return nil, fail(exitLost, err)
	}
	return a, nil
}

func (a *adminClient) connect(paths config.Paths, warn io.Writer) (err error) {
	b := bridge{dir: a.dir, paths: paths, warn: warn}
	if a.conn, err = b.connect(a.ctx); err != nil {
		return err
	}
	if _, err := io.WriteString(a.conn, mcpserver.Hello{Admin: true}.Line()); err != nil {
		return fmt.Errorf("say hello to the daemon: %w", err)
	}
	client := mcp.NewClient(&mcp.Implementation{Name: "agentlab", Version: version()}, nil)
	if a.session, err = client.Connect(a.ctx, &mcp.IOTransport{Reader: a.conn, Writer: a.conn}, nil); err != nil {
		return fmt.Errorf("the daemon takes no client: %w", err)
	}
	return nil
}

// call calls a tool and reads its structured result.
func (a *adminClient) call(tool string, args map[string]any, out any) error {
	res, err := a.session.CallTool(a.ctx, &mcp.CallToolParams{Name: tool, Arguments: args})
	if err != nil {
		return fmt.Errorf("%s: %w", tool, err)
	}
	if res.IsError {
		var text []string
		for _, c := range res.Content {
			if t, ok := c.(*mcp.TextContent); ok {
				text = append(text, strings.TrimPrefix(t.Text, tool+": "))
			}
		}
		return errors.New(strings.Join(text, "\n"))
	}
	told, err := json.Marshal(res.StructuredContent)
	if err != nil {
		return fmt.Errorf("%s: %w", tool, err)
	}
	if err := json.Unmarshal(told, out); err != nil {
		return fmt.Errorf("%s: read its result: %w", tool, err)
	}
	return nil
}

// close lets go of the daemon.
func (a *adminClient) close() {
	if a.session != nil {
		_ = a.session.Close()
	}
	if a.conn != nil {
		_ = a.conn.Close()
	}
	_ = a.dir.Close()
}
