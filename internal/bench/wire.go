package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentlab-mcp/agentlab/internal/stage"
)

// wire is a client with an `agentlab mcp` of its own that makes nothing of the
// answers: how long a client takes to decode a long one is not ours to measure.
type wire struct {
	mcp.Connection
	last int64 // id of a request
}

func dialWire(ctx context.Context, st *stage.Stage) (*wire, error) {
	cmd := exec.CommandContext(ctx, st.Bin("agentlab"), "mcp")
	cmd.Env = st.Env
	conn, err := (&mcp.CommandTransport{Command: cmd}).Connect(ctx)
	if err != nil {
		return nil, err
	}
	w := &wire{Connection: conn}
	if _, _, err = w.ask(ctx, "initialize", `{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}`); err != nil {
		_ = w.Close()
		return nil, err
	}
	return w, nil
}

// ask makes a request and returns how long its answer took to be here.
func (w *wire) ask(ctx context.Context, method, params string) (json.RawMessage, time.Duration, error) {
	w.last++
	id, err := jsonrpc.MakeID(float64(w.last))
	if err != nil {
		return nil, 0, err
	}
	start := time.Now()
	if err := w.Write(ctx, &jsonrpc.Request{ID: id, Method: method, Params: json.RawMessage(params)}); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", method, err)
	}
	for {
		msg, err := w.Read(ctx)
		took := time.Since(start)
		if err != nil {
			return nil, 0, fmt.Errorf("%s: %w", method, err)
		}
		if res, ok := msg.(*jsonrpc.Response); ok && res.ID == id {
			return res.Result, took, res.Error
		}
	}
}

// call calls a tool. Its typed fields go to into, unless that is nil.
func (w *wire) call(ctx context.Context, tool, args string, into any) (time.Duration, error) {
	text, took, err := w.ask(ctx, "tools/call", fmt.Sprintf(`{"name":%q,"arguments":%s}`, tool, args))
	if err != nil {
		return 0, err
	}
	var res struct {
		IsError           bool
		Content           []struct{ Text string }
		StructuredContent json.RawMessage
	}
	if err := json.Unmarshal(text, &res); err != nil {
		return 0, fmt.Errorf("%s: %w", tool, err)
	}
	if res.IsError {
		return 0, fmt.Errorf("%s: %v", tool, res.Content)
	}
	if into != nil {
		err = json.Unmarshal(res.StructuredContent, into)
	}
	return took, err
}

// listPages lists what we have, page by page, as an agent would.
func (w *wire) listPages(ctx context.Context, n int) (s sample, err error) {
	var out struct {
		Next string `json:"next_after"`
	}
	for len(s) < n {
		after := out.Next
		out.Next = ""
		took, err := w.call(ctx, "list_sandboxes", fmt.Sprintf(`{"after":%q}`, after), &out)
		if err != nil {
			return nil, err
		}
		s = append(s, took)
	}
	return s, nil
}
