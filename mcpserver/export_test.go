package mcpserver

import (
	"context"
	"io"
	"net/http"

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

// ReceiveAll reads the body of an upload until ctx ends.
func ReceiveAll(ctx context.Context, s *Server, rw http.ResponseWriter, r *http.Request) error {
	tr := s.transfer(ctx, rw, auth.Ticket{Write: true})
	_, err := io.Copy(io.Discard, tr.body(ctx, r.Body))
	return err
}

// SendMuch sends more than what is between us and the client holds, until ctx ends.
func SendMuch(ctx context.Context, s *Server, rw http.ResponseWriter, _ *http.Request) error {
	tr := s.transfer(ctx, rw, auth.Ticket{})
	defer tr.until(ctx)()
	_, err := tr.Write(make([]byte, 64<<20))
	return err
}

// SendLate sends when ctx has ended, and returns why the transfer went no further.
func SendLate(ctx context.Context, s *Server, rw http.ResponseWriter) error {
	tr := s.transfer(ctx, rw, auth.Ticket{})
	_, _ = tr.Write([]byte("x"))
	return tr.broken()
}
