package mcpserver

import (
	"bytes"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/agentlab-mcp/agentlab/tools"
)

// Define changes how the tools are described, and what they do by that. They
// must be those of [Server.Tools]. Clients are told that the list has changed, if
// it has, and those who come read these instructions.
func (s *Server) Define(list []tools.Tool, instructions string) {
	s.once.Do(s.build)
	s.define(list, instructions)
}

func (s *Server) define(list []tools.Tool, instructions string) {
	s.defining.Lock()
	defer s.defining.Unlock()
	s.instructions.Store(&instructions)
	var defs []mcp.Tool
	var all []server.ServerTool
	for _, t := range list {
		d := definition(t)
		defs = append(defs, d)
		all = append(all, server.ServerTool{Tool: d, Handler: s.handler(t)})
	}
	now := mustJSON(defs)
	if bytes.Equal(now, s.defined) {
		return
	}
	s.defined = now
	s.mcp.SetTools(all...)
}
