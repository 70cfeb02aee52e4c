package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// watched renames a file while a client is connected, waits until it is told that
// the tools have changed, and prints the definition of create_sandbox.
func watched(ctx context.Context, from, to string) error {
	told := make(chan bool, 10)
	client := mcp.NewClient(&mcp.Implementation{Name: "script", Version: "1"}, &mcp.ClientOptions{
		ToolListChangedHandler: func(context.Context, *mcp.ToolListChangedRequest) { told <- true },
	})
	cmd := exec.Command("agentlab", "mcp")
	cmd.Stderr = os.Stderr
	s, err := client.Connect(ctx, &mcp.CommandTransport{Command: cmd, TerminateDuration: 2 * stuckAfter}, nil)
	if err != nil {
		return err
	}
	if err := s.Ping(ctx, nil); err != nil { // whoever is served is told
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	select {
	case <-told:
	case <-ctx.Done():
		return fmt.Errorf("nobody has told of the change: %w", ctx.Err())
	}
	list, err := s.ListTools(ctx, nil)
	if err != nil {
		return err
	}
	text, err := json.Marshal(list.Tools)
	if err != nil {
		return err
	}
	fmt.Println(string(text))
	return bridged{s, cmd.Process}.Close()
}
