package mcpserver

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// transfer is a request that moves a file, and its response. The client may take
// any time for it, as long as it goes on reading or sending; it ends when who
// asks may not move the file any more.
type transfer struct {
	http.ResponseWriter
	srv    *Server
	ticket auth.Ticket
	ctx    context.Context
	start  time.Time

	status  int    // of the answer; 0 is none yet
	outcome string // for the log; empty is what status says

	mu    sync.Mutex
	bytes int64 // of the file, moved
	err   error // why the client's side went no further
}

func (s *Server) transfer(ctx context.Context, rw http.ResponseWriter, t auth.Ticket) *transfer {
	return &transfer{ResponseWriter: rw, srv: s, ticket: t, ctx: ctx, start: time.Now()}
}

// until makes what waits for the client return once ctx ends, until release.
func (t *transfer) until(ctx context.Context) (release func()) {
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		rc := http.NewResponseController(t.ResponseWriter)
		_ = rc.SetReadDeadline(time.Now()) // these fail when closed, which ends it, too
		if !t.ticket.Write {               // else there is an answer to write
			_ = rc.SetWriteDeadline(time.Now())
		}
	})
	return func() {
		if !stop() {
			<-ended // a response must not be touched when its handler has returned
		}
	}
}

// moved counts what has been moved, and remembers why it goes no further.
func (t *transfer) moved(n int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bytes += int64(n)
	if err != nil && !errors.Is(err, io.EOF) && t.err == nil {
		t.err = err
	}
}

// broken is why the client's side went no further; nil if it did.
func (t *transfer) broken() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// WriteHeader is part of [http.ResponseWriter].
func (t *transfer) WriteHeader(status int) {
	t.status = status
	t.ResponseWriter.WriteHeader(status)
}

// Write is part of io.Writer.
func (t *transfer) Write(b []byte) (int, error) {
	_ = http.NewResponseController(t.ResponseWriter).SetWriteDeadline(time.Now().Add(t.srv.writeTimeout())) // fails when closed, as Write then does
	if !t.ticket.Write && t.ctx.Err() != nil {
		t.moved(0, context.Cause(t.ctx)) // between two pieces of the file
		return 0, context.Cause(t.ctx)
	}
	n, err := t.ResponseWriter.Write(b)
	if !t.ticket.Write && t.status < http.StatusMultipleChoices {
		t.moved(n, err)
	}
	return n, err
}

// Unwrap is for http.ResponseController.
func (t *transfer) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// body is what the client sends, until ctx ends.
func (t *transfer) body(ctx context.Context, r io.Reader) io.Reader {
	return &patient{t, ctx, r}
}

// patient is the body of a transfer.
type patient struct {
	*transfer
	ctx context.Context
	r   io.Reader
}

// Read is part of io.Reader.
func (p *patient) Read(b []byte) (int, error) {
	rc := http.NewResponseController(p.ResponseWriter)
	_ = rc.SetReadDeadline(time.Now().Add(p.srv.writeTimeout())) // fails when closed, as Read then does
	defer p.until(p.ctx)()
	n, err := p.r.Read(b)
	if p.ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return n, context.Cause(p.ctx)
	}
	p.moved(n, err)
	if errors.Is(err, io.EOF) { // what is done with it may take longer
		_ = rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// over writes one line in the log, which never has the path or the ticket.
func (t *transfer) over() {
	outcome := t.outcome
	switch {
	case outcome != "":
	case t.broken() != nil:
		outcome = "interrupted"
	case t.status == 0:
		outcome = "panic"
	case t.status == http.StatusConflict:
		outcome = sessions.Conflict.String()
	case t.status >= http.StatusBadRequest:
		outcome = sessions.Invalid.String()
	default:
		outcome = "ok"
	}
	direction := "download"
	if t.ticket.Write {
		direction = "upload"
	}
	took := time.Since(t.start)
	t.srv.Log.Info("transfer", "direction", direction, "principal", t.ticket.Principal, "sandbox", short(t.ticket.Sandbox),
		"bytes", t.bytes, "outcome", outcome, "ms", took.Milliseconds())
	t.srv.Watch.Transfer(direction, outcome, t.bytes, took)
	t.srv.keep(t.ctx, sessions.Event{
		At: t.start, Sandbox: short(t.ticket.Sandbox), Principal: t.ticket.Principal, What: sessions.EventTransfer, Detail: outcome, Duration: took,
		Tool: direction, Arguments: string(mustJSON(map[string]any{"path": redact.Text(t.ticket.Path), "bytes": t.bytes})),
	})
}
