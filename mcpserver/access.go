package mcpserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// anyone is what a request needs that everybody may make whom we know.
const anyone sessions.Scope = "*"

// needOf returns what a request needs, and what to call that. Empty is that it
// is for nobody: what is new has no entry, and so is refused until it has.
//
// Lists are for anyone; they show only what the caller may use.
func (s *Server) needOf(ctx context.Context, m message) (what string, need sessions.Scope) {
	switch mcp.MCPMethod(m.Method) {
	case mcp.MethodInitialize, mcp.MethodServerDiscover, mcp.MethodPing, mcp.MethodSetLogLevel,
		mcp.MethodToolsList, mcp.MethodResourcesList, mcp.MethodResourcesTemplatesList, mcp.MethodPromptsList:
		need = anyone
	case mcp.MethodResourcesRead, mcp.MethodResourcesSubscribe, mcp.MethodResourcesUnsubscribe, mcp.MethodSubscriptionsListen,
		mcp.MethodPromptsGet, mcp.MethodCompletionComplete:
		need = sessions.ScopeRead
	case mcp.MethodToolsCall:
		return m.Params.Name, s.needOfTool(ctx, m.Params.Name)
	default: // is for nobody
	}
	return m.Method, need
}

// needOfTool returns what a tool needs: of one that is not offered in ctx, what
// nobody has.
func (s *Server) needOfTool(ctx context.Context, name string) sessions.Scope {
	t := s.byName[name]
	if t.Offered != nil && !t.Offered(ctx) {
		return ""
	}
	return t.Scope
}

// errScope is that the caller lacks what its request needs.
type errScope struct {
	what string
	need sessions.Scope // empty: nobody may
	who  sessions.Principal
}

// Error says what is missing and what to do.
func (e *errScope) Error() string {
	if e.need == "" {
		return e.what + " is not available"
	}
	return fmt.Sprintf("%s needs the scope %s, and you have %s; the operator of this AgentLab can give you a token with more",
		e.what, e.need, cmp.Or(e.who.ScopeText(), "none"))
}

// allow is the one place that says whether a request may be made: of a tool, a
// resource, a prompt, a completion, a list or a route. Whose a sandbox is, the
// Manager says.
//
// Errors: *errScope; auth.ErrUnauthenticated if nobody asks, or somebody whose
// token was revoked meanwhile.
func (s *Server) allow(ctx context.Context, what string, need sessions.Scope) error {
	who, ok := sessions.PrincipalFrom(ctx)
	switch {
	case !ok || s.crowd.gone(who.Name):
		return auth.ErrUnauthenticated
	case need == anyone || who.May(need):
		return nil
	}
	s.Log.Info("refused", "what", short(what), "principal", who.Name, "needs", string(need), "request", requestID(ctx))
	return &errScope{what, need, who}
}

// guard answers a request that must not be made, and returns nil for one that
// may. A tool that exists is left to perform, whose answer a model reads.
func (s *Server) guard(ctx context.Context, m message) mcp.JSONRPCMessage {
	what, need := s.needOf(ctx, m)
	if m.Method == string(mcp.MethodToolsCall) && need != "" {
		return nil
	}
	err := s.allow(ctx, what, need)
	code := mcp.INVALID_REQUEST
	lacks, ok := errors.AsType[*errScope](err)
	switch {
	case err == nil:
		return nil
	case ok && lacks.need == "" && m.Method == string(mcp.MethodToolsCall):
		code, err = mcp.INVALID_PARAMS, fmt.Errorf("tool %q not found", short(what))
	case ok && lacks.need == "":
		code, err = mcp.METHOD_NOT_FOUND, fmt.Errorf("method %q not found", short(what))
	}
	return mcp.JSONRPCError{Error: mcp.NewJSONRPCErrorDetails(code, err.Error(), nil)}
}

// onlyWhatIsAllowed takes from lists what the caller can't use.
func (s *Server) onlyWhatIsAllowed() *server.Hooks {
	reads := func(ctx context.Context) bool {
		who, _ := sessions.PrincipalFrom(ctx)
		return who.May(sessions.ScopeRead)
	}
	h := &server.Hooks{}
	h.AddAfterListTools(func(ctx context.Context, _ any, _ *mcp.ListToolsRequest, res *mcp.ListToolsResult) {
		who, _ := sessions.PrincipalFrom(ctx)
		all := res.Tools
		res.Tools = make([]mcp.Tool, 0, len(all))
		for _, t := range all {
			if who.May(s.needOfTool(ctx, t.Name)) {
				res.Tools = append(res.Tools, t)
			}
		}
	})
	h.AddAfterListResources(func(ctx context.Context, _ any, _ *mcp.ListResourcesRequest, res *mcp.ListResourcesResult) {
		if !reads(ctx) {
			res.Resources = []mcp.Resource{}
		}
	})
	h.AddAfterListResourceTemplates(func(ctx context.Context, _ any, _ *mcp.ListResourceTemplatesRequest, res *mcp.ListResourceTemplatesResult) {
		if !reads(ctx) {
			res.ResourceTemplates = []mcp.ResourceTemplate{}
		}
	})
	h.AddAfterListPrompts(func(ctx context.Context, _ any, _ *mcp.ListPromptsRequest, res *mcp.ListPromptsResult) {
		if !reads(ctx) {
			res.Prompts = []mcp.Prompt{}
		}
	})
	return h
}

// End cancels all that a principal has running, and refuses what it asks for
// from now on: its token was revoked. A principal that has ended never comes
// back; the next token of that name is another one.
func (s *Server) End(principal string) {
	for _, cancel := range s.crowd.end(principal) {
		cancel(auth.ErrUnauthenticated)
	}
}

// enter makes ctx end when the principal's token is over or revoked, until leave.
func (s *Server) enter(ctx context.Context) (_ context.Context, leave func()) {
	who, _ := sessions.PrincipalFrom(ctx)
	ctx, cancel := context.WithCancelCause(ctx)
	over := func() {}
	if !who.Expires.IsZero() {
		ctx, over = context.WithDeadlineCause(ctx, who.Expires, auth.ErrUnauthenticated)
	}
	out := s.crowd.enter(who.Name, cancel)
	return ctx, func() { out(); over(); cancel(nil) }
}

// crowd is who has what running.
type crowd struct {
	mu      sync.Mutex
	running map[string]map[int]context.CancelCauseFunc // by principal
	count   int
	ended   map[string]bool
}

func (c *crowd) gone(who string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended[who]
}

func (c *crowd) enter(who string, cancel context.CancelCauseFunc) (leave func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running == nil {
		c.running = map[string]map[int]context.CancelCauseFunc{}
	}
	if c.running[who] == nil {
		c.running[who] = map[int]context.CancelCauseFunc{}
	}
	if c.ended[who] { // since allow was asked
		cancel(auth.ErrUnauthenticated)
	}
	c.count++
	id := c.count
	c.running[who][id] = cancel
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if delete(c.running[who], id); len(c.running[who]) == 0 {
			delete(c.running, who)
		}
	}
}

func (c *crowd) end(who string) []context.CancelCauseFunc {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		c.ended = map[string]bool{}
	}
	c.ended[who] = true
	var all []context.CancelCauseFunc
	for _, cancel := range c.running[who] {
		all = append(all, cancel)
	}
	return all
}
