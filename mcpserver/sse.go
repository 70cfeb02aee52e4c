package mcpserver

import (
	"net/http"
	"net/url"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// sse is the transport of 2024-11-05: all messages to the client are events of
// this response, and those from it come by POST to the address that the first
// of them tells. The session ends with the response.
func (w *web) sse(rw http.ResponseWriter, r *http.Request) {
	owner := principal(r.Context())
	sh := w.shares.of(owner)
	defer sh.letGo()
	if problem := sh.listen(); problem != nil {
		w.refuse(rw, http.StatusTooManyRequests, nil, problem)
		return
	}
	defer sh.unlisten()
	c := w.srv.connect(r.Context(), sh)
	defer c.close()
	e := &events{w: rw, timeout: w.srv.writeTimeout()}
	c.out = &outlet{
		put:     func(line []byte, _ *response) error { return e.event("message", line) },
		nothing: e.comment,
		broke:   func(error) { c.cancel() },
	}
	c.show(r.Context())
	w.sessions.add(c, owner)
	defer w.sessions.end(c.id, owner)
	s, done := w.sessions.use(c.id, owner)
	if s == nil { // others of his are so many that it had to give way at once
		return
	}
	defer done()
	c.out.write(func() error { return e.event("endpoint", []byte(w.path("/message")+"?sessionId="+c.id)) })
	defer c.out.end()
	defer c.drain()
	w.events(c)
}

// events sends what belongs to no request, until the client is gone or, when
// the server ends, has got all its answers.
func (w *web) events(c *conn) {
	quiet := time.NewTicker(keepAlive)
	defer quiet.Stop()
	for {
		select {
		case n := <-c.notes:
			c.out.send(nil, c.encode(n), nil)
		case <-quiet.C:
			if !c.known(c.ctx) {
				c.cancel()
			}
			c.out.ping()
		case <-c.ctx.Done():
			return
		case <-w.ending.Done(): // message lets nothing more in
			return
		}
	}
}

// path is that of an endpoint as the client must ask for it.
func (w *web) path(endpoint string) string {
	if u, err := url.Parse(w.base(&http.Request{})); err == nil && w.PublicURL != "" {
		return u.Path + endpoint
	}
	return endpoint
}

// message takes a message of a client that listens at sse.
func (w *web) message(rw http.ResponseWriter, r *http.Request) {
	owner := principal(r.Context())
	s, done := w.sessions.use(r.URL.Query().Get("sessionId"), owner)
	defer done()
	if s == nil || s.out == nil {
		w.fail(rw, http.StatusNotFound, nil, mcp.INVALID_REQUEST, "there is no such session, or not any more; begin anew at /sse")
		return
	}
	body, free := w.body(rw, r, s.share)
	if body == nil {
		return
	}
	defer free()
	rw.WriteHeader(http.StatusAccepted)
	who, _ := sessions.PrincipalFrom(r.Context()) // his scopes may be others by now
	s.handle(withCredential(sessions.WithPrincipal(s.ctx, who), credentialFrom(r.Context())), body)
}
