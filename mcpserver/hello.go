package mcpserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/agentlab-mcp/agentlab/internal/hosttree"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// helloPrefix begins a line that is of ours and not of the protocol.
const helloPrefix = "agentlab "

// maxHello is the longest hello, in bytes.
const maxHello = 64 << 10

// Hello is what a program of ours may say of itself before it speaks the
// protocol, in a line of its own: "agentlab " and this as JSON. An MCP client
// says nothing, and so gets nothing that an agent must not have.
type Hello struct {
	// Admin asks for what is the operator's. Everybody who reaches the socket is
	// the user whose daemon this is; what acts for an agent does not ask.
	Admin bool `json:"admin,omitempty"`
	// Terminal says that what follows is not the protocol but that of package
	// terminal: one command with its streams.
	Terminal bool `json:"terminal,omitempty"`
	// HostDirs are directories of the user's, absolute, whose files may be
	// copied to and from sandboxes.
	HostDirs []string `json:"host_dirs,omitempty"`
}

// Line is what to send.
func (h Hello) Line() string { return helloPrefix + string(mustJSON(h)) + "\n" }

// parseHello reads a hello; there is none if the line is one of the protocol.
// What a newer program asks for and we don't know is an error, or it would
// believe to have it.
func parseHello(line []byte) (h Hello, there bool, err error) {
	text, there := bytes.CutPrefix(line, []byte(helloPrefix))
	if !there {
		return h, false, nil
	}
	if len(text) > maxHello {
		return h, true, fmt.Errorf("hello has %d bytes, want at most %d", len(text), maxHello)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&h); err != nil {
		return Hello{}, true, fmt.Errorf("hello is not understood by this version: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Hello{}, true, errors.New("hello is followed by something else; want one JSON object")
	}
	return h, true, nil
}

// apply returns the context of what such a client asks for.
func (h Hello) apply(ctx context.Context) (context.Context, error) {
	who, ok := sessions.PrincipalFrom(ctx)
	if ok && h.Admin {
		who.Scopes = []sessions.Scope{sessions.ScopeAdmin}
	}
	dirs, err := hosttree.New(h.HostDirs)
	if err != nil {
		return ctx, fmt.Errorf("hello: %w", err)
	}
	return tools.WithHostDirs(sessions.WithPrincipal(ctx, who), dirs), nil
}
