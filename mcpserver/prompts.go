package mcpserver

import (
	"context"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/agentlab-mcp/agentlab/tools"
)

// offerPrompts registers the prompts.
func (s *Server) offerPrompts() {
	for _, p := range s.Prompts {
		def := mcp.Prompt{Name: p.Name, Title: p.Title, Description: p.Description}
		for _, a := range p.Arguments {
			def.Arguments = append(def.Arguments, mcp.PromptArgument{Name: a.Name, Description: a.Description, Required: a.Required})
		}
		s.mcp.AddPrompt(def, func(ctx context.Context, req mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
			res := s.perform(ctx, work{
				kind: "prompt", name: p.Name, need: p.Scope, meta: req.Params.Meta,
				do: func(ctx context.Context) tools.Result { return p.Get(ctx, req.Params.Arguments) },
			})
			if res.IsError {
				return nil, refused(ctx, res, "")
			}
			return mcp.NewGetPromptResult(p.Description, []mcp.PromptMessage{
				mcp.NewPromptMessage(mcp.RoleUser, mcp.NewTextContent(res.Content[0].Text)),
			}), nil
		})
	}
}

// completion answers completion/complete, for prompts and templates alike: a
// name means the same in each. What there is none of has no values; clients
// ask for that too, while a person types.
type completion struct{ *Server }

// CompletePromptArgument is part of server.PromptCompletionProvider.
func (c completion) CompletePromptArgument(ctx context.Context, prompt string, a mcp.CompleteArgument, given mcp.CompleteContext) (*mcp.Completion, error) {
	for _, p := range c.Prompts {
		for _, known := range p.Arguments {
			if p.Name == prompt && known.Name == a.Name {
				return c.complete(ctx, a, given), nil
			}
		}
	}
	return &mcp.Completion{}, nil
}

// CompleteResourceArgument is part of server.ResourceCompletionProvider.
func (c completion) CompleteResourceArgument(ctx context.Context, uri string, a mcp.CompleteArgument, given mcp.CompleteContext) (*mcp.Completion, error) {
	for _, r := range c.Resources.Table {
		for _, known := range r.Variables {
			if r.URI == uri && known == a.Name {
				return c.complete(ctx, a, given), nil
			}
		}
	}
	return &mcp.Completion{}, nil
}

func (c completion) complete(ctx context.Context, a mcp.CompleteArgument, given mcp.CompleteContext) *mcp.Completion {
	if c.allow(ctx, "completion", c.Completer.Scope) != nil {
		return &mcp.Completion{}
	}
	values, total := c.Completer.Complete(ctx, a.Name, a.Value, given.Arguments)
	return &mcp.Completion{Values: values, Total: total, HasMore: total > len(values)}
}
