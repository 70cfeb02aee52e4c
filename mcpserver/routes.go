package mcpserver

import (
	"net/http"
	"strings"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// route is what is served at a pattern of [http.ServeMux]. One that says no
// need is for nobody.
type route struct {
	pattern string
	need    sessions.Scope // a scope, anyone, public or byTicket
	serve   http.HandlerFunc
}

// What a route may need besides what a request may: see needOf.
const (
	public   sessions.Scope = "public" // nothing: it tells nothing of anybody
	byTicket sessions.Scope = "ticket" // a ticket in its path, which it looks at itself
)

// routes are all that is served over HTTP.
func (w *web) routes() []route {
	all := []route{
		{"POST /mcp", anyone, w.post},
		{"GET /mcp", anyone, w.listen},
		{"DELETE /mcp", anyone, w.endSession},
		{"GET /sse", anyone, w.sse},
		{"POST /message", anyone, w.message},
		{filesPath + "{ticket}", byTicket, w.file},
		{"/", public, w.nothing},
	}
	for _, path := range []string{"", "/mcp", "/sse", "/message"} { // wherever challenge leads
		all = append(all, route{"GET " + server.WellKnownProtectedResourcePath + path, public, w.metadata})
	}
	return all
}

// handler is what every request passes: recovery from a panic, whom it is meant
// for and from where it comes, and then, on most routes, who asks.
func (w *web) handler() http.Handler {
	mux := http.NewServeMux()
	for _, rt := range w.routes() {
		mux.Handle(rt.pattern, w.guarded(rt))
	}
	return w.recovered(w.meantForUs(mux))
}

// guarded serves a route to those who may.
func (w *web) guarded(rt route) http.Handler {
	if rt.need == public || rt.need == byTicket {
		return rt.serve
	}
	return w.authenticated(rt.need, func(rw http.ResponseWriter, r *http.Request) { rt.serve(rw, w.withLinks(r)) })
}

// nothing is what there is at all other addresses.
func (w *web) nothing(rw http.ResponseWriter, r *http.Request) {
	if allowed := w.methods(r.URL.Path); allowed != "" {
		rw.Header().Set("Allow", allowed)
		w.fail(rw, http.StatusMethodNotAllowed, nil, mcp.INVALID_REQUEST, "method %q: %s is for %s", r.Method, r.URL.Path, allowed)
		return
	}
	w.fail(rw, http.StatusNotFound, nil, mcp.INVALID_REQUEST, "there is nothing at %s; MCP is at /mcp, and for clients of 2024 at /sse", r.URL.Path)
}

// methods returns which methods there are at a path; the rest of them come to
// nothing, as what matches no other pattern.
func (w *web) methods(path string) string {
	var all []string
	for _, rt := range w.routes() {
		if method, at, ok := strings.Cut(rt.pattern, " "); ok && at == path {
			all = append(all, method)
		}
	}
	return strings.Join(all, ", ")
}
