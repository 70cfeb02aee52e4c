package mcpserver

import (
	"context"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// Ask has a request served as from a client whose principal ctx has, and
// returns the answer as it is sent.
func Ask(ctx context.Context, s *Server, line string) []byte {
	s.once.Do(s.build)
	c := s.connect(ctx, nil)
	defer c.close()
	msg, problem := parse([]byte(line))
	if problem != nil {
		return c.encode(problem)
	}
	r := newCall(c, nil, msg, len(line))
	defer r.cancel()
	return c.encode(toResponse(s.dispatch(ctx, r, []byte(line)), msg.ID))
}

// NeedOf is what a method needs.
func NeedOf(s *Server, method string) sessions.Scope {
	s.once.Do(s.build)
	_, need := s.needOf(context.Background(), message{Method: method})
	return need
}

// SignTicket signs a ticket as the server does.
func SignTicket(s *Server, t auth.Ticket) string {
	s.once.Do(s.build)
	text, err := s.tickets.Sign(t)
	if err != nil {
		panic(err)
	}
	return text
}
