package mcpserver

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// happened keeps the event of work that has ended or was refused, which of what is
// else no event is one.
func (s *Server) happened(ctx context.Context, w work, start time.Time, sandbox, outcome string) {
	if w.record == nil || w.quiet && outcome != tools.OutcomeRefused {
		return
	}
	what := sessions.EventCall
	if w.kind != "tool" {
		what = sessions.EventRead
	}
	named, arguments := w.record()
	who, _ := sessions.PrincipalFrom(ctx)
	s.keep(ctx, sessions.Event{
		At: start, Sandbox: short(cmp.Or(sandbox, named)), Principal: who.Name, What: what, Detail: outcome,
		Duration: time.Since(start), Tool: w.name, Arguments: arguments,
	})
}

// keep keeps an event, though who asked has gone. What was done is done: if it
// can't be kept, the log has it.
func (s *Server) keep(ctx context.Context, e sessions.Event) {
	if s.Record == nil {
		return
	}
	if err := s.Record(context.WithoutCancel(ctx), e); err != nil {
		s.Log.Warn("event lost", "what", e.What, "tool", e.Tool, "principal", e.Principal, "sandbox", e.Sandbox, "outcome", e.Detail, "err", err)
	}
}

// recordedCall is what is kept of the arguments of a call.
func recordedCall(t tools.Tool, args json.RawMessage) func() (sandbox, arguments string) {
	if t.Record == nil {
		return func() (sandbox, arguments string) { return "", "" }
	}
	return func() (sandbox, arguments string) { return t.Record(args) }
}

// maxURI bounds a URI that is kept, in bytes.
const maxURI = 1000

// recordedRead is what is kept of a URI that is read, if somebody has asked.
func recordedRead(kind, uri string) func() (sandbox, arguments string) {
	if kind == looking {
		return nil
	}
	return func() (sandbox, arguments string) {
		return "", string(mustJSON(map[string]string{"uri": redact.Text(uri[:min(len(uri), maxURI)])}))
	}
}
