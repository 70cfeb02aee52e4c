package mcpserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// recovered survives the panic of a handler.
func (w *web) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil && v != http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
				w.fail(rw, http.StatusInternalServerError, nil, mcp.INTERNAL_ERROR, "internal error (ref %s)", w.srv.panicked(r.Context(), v))
			}
		}()
		// Of connections there are only so many: nobody keeps one whom we don't know.
		rw.Header().Set("Connection", "close")
		// A client that does not read must not keep us; who sends more sets it anew.
		rc := http.NewResponseController(rw)
		_ = rc.SetWriteDeadline(time.Now().Add(w.srv.writeTimeout()))
		if r.ContentLength != 0 {
			// Nor must one that does not send: before it answers, net/http reads the
			// body that a refusal has left. Who reads it here sets it anew. Half of
			// the time is left for the answer.
			_ = rc.SetReadDeadline(time.Now().Add(w.srv.writeTimeout() / 2))
		}
		next.ServeHTTP(rw, r)
	})
}

// meantForUs refuses what a web page of somebody else's makes a browser send:
// its origin is not ours, or its host is not when a name was bound to our
// address just for that. An origin that may ask is told so.
func (w *web) meantForUs(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		switch {
		case !w.knownHost(r):
			w.fail(rw, http.StatusForbidden, nil, mcp.INVALID_REQUEST, "host %q is not one that this server goes by; the operator can add it to http_allowed_hosts", r.Host)
		case origin != "" && !w.knownOrigin(origin, r):
			w.fail(rw, http.StatusForbidden, nil, mcp.INVALID_REQUEST, "origin %q may not use this server; the operator can add it to http_allowed_origins", origin)
		case r.Context().Value(overKey{}) != nil:
			w.refuse(rw, http.StatusServiceUnavailable, nil, tooMuch("connections", connsAfter, "%d connections are open already, the most there may be at a time", w.MaxConns))
		case !w.gate.enter():
			w.refuse(rw, http.StatusServiceUnavailable, nil, ending())
		default:
			defer w.gate.leave()
			if origin != "" && crossOrigin(rw.Header(), origin, r) { // that was the question
				rw.WriteHeader(http.StatusNoContent)
				return
			}
			next.ServeHTTP(rw, r)
		}
	})
}

func (w *web) knownHost(r *http.Request) bool {
	name := hostname(r.Host)
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	here := ok && loopback(local)
	ip := net.ParseIP(name)
	if here && (name == "localhost" || ip != nil && ip.IsLoopback()) || !here && len(w.Hosts) == 0 {
		return true
	}
	u, err := url.Parse(w.PublicURL)
	if err == nil && w.PublicURL != "" && strings.EqualFold(u.Hostname(), name) {
		return true
	}
	return slices.ContainsFunc(w.Hosts, func(h string) bool { return strings.EqualFold(h, r.Host) || strings.EqualFold(h, name) })
}

// hostname is the name in a Host header, which may have a port.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.Trim(host, "[]"))
}

func (w *web) knownOrigin(origin string, r *http.Request) bool {
	if slices.ContainsFunc(w.Origins, func(o string) bool { return strings.EqualFold(o, origin) }) {
		return true
	}
	return strings.EqualFold(origin, scheme(r)+"://"+r.Host) || w.PublicURL != "" && strings.EqualFold(origin, originOf(w.PublicURL))
}

func originOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

func scheme(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}

// crossOrigin tells the browser that the page may read the answer, and says
// whether that is all that was asked.
func crossOrigin(h http.Header, origin string, r *http.Request) (asked bool) {
	h.Add("Vary", "Origin")
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", strings.Join([]string{mcp.HeaderSessionID, "WWW-Authenticate", "Retry-After"}, ", "))
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST, DELETE")
	h.Set("Access-Control-Allow-Headers", r.Header.Get("Access-Control-Request-Headers"))
	h.Set("Access-Control-Max-Age", "600")
	return true
}

// authenticated puts who asks into the context, and refuses who lacks what is
// needed.
func (w *web) authenticated(need sessions.Scope, next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if w.Auth == nil {
			w.admitted(rw, r.WithContext(withLocalPrincipal(r.Context(), os.Getuid())), need, next)
			return
		}
		token, ok := bearer(r.Header)
		if !ok {
			w.challenge(rw, r, http.StatusUnauthorized, "", "send a token: Authorization: Bearer TOKEN")
			return
		}
		who, err := w.Auth.Authenticate(r.Context(), token)
		switch {
		case errors.Is(err, ErrUnauthenticated):
			w.strike(rw, r, err)
		case err != nil:
			w.srv.Log.Error("token can't be checked", "err", err)
			w.srv.Watch.AuthFailure("unavailable")
			w.refuse(rw, http.StatusServiceUnavailable, nil, tooMuch("", 5*time.Second, "tokens can't be checked at the moment"))
		default:
			again := func(ctx context.Context) (sessions.Principal, error) { return w.Auth.Authenticate(ctx, token) }
			w.admitted(rw, r.WithContext(withCredential(sessions.WithPrincipal(r.Context(), who), again)), need, next)
		}
	})
}

// strike answers a request whose token is none. Who tries many is told to wait,
// and no more is written down of it.
func (w *web) strike(rw http.ResponseWriter, r *http.Request, err error) {
	if wait := w.strikes.strike(r.RemoteAddr); wait > 0 {
		w.srv.Watch.AuthFailure("invalid")
		w.refuse(rw, http.StatusTooManyRequests, nil, tooMuch("", wait,
			"more than %d tokens that are not valid came from this address, and then one each %v", strikesAtOnce, strikeEvery))
		return
	}
	w.srv.Log.Info("token refused", "from", r.RemoteAddr, "err", err)
	w.invalidToken(rw, r)
}

// admitted serves a request of somebody whom we know, until its token is revoked.
func (w *web) admitted(rw http.ResponseWriter, r *http.Request, need sessions.Scope, next http.HandlerFunc) {
	err := w.srv.allow(r.Context(), r.Pattern, need)
	if lacks, ok := errors.AsType[*errScope](err); ok {
		w.challenge(rw, r, http.StatusForbidden, "insufficient_scope", lacks.Error())
		return
	}
	if err != nil {
		w.invalidToken(rw, r)
		return
	}
	ctx, leave := w.srv.enter(r.Context())
	defer leave()
	sh := w.shares.of(principal(ctx))
	defer sh.letGo()
	if problem := sh.turn(ctx); problem != nil {
		w.refuse(rw, http.StatusTooManyRequests, nil, problem)
		return
	}
	rw.Header().Del("Connection")
	next(rw, r.WithContext(w.srv.Trace.From(ctx, r.Header.Get)))
}

// bearer returns the token of RFC 6750, section 2.1.
func bearer(h http.Header) (token string, ok bool) {
	kind, token, _ := strings.Cut(h.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	return token, strings.EqualFold(kind, "Bearer") && token != ""
}

// invalidToken says that the token that was sent is none.
func (w *web) invalidToken(rw http.ResponseWriter, r *http.Request) {
	w.challenge(rw, r, http.StatusUnauthorized, "invalid_token", "the token is not valid, or not any more")
}

// challenge says that a token is wanted, or another one, and where to learn who
// gives them: RFC 6750, section 3, and RFC 9728, section 5.1.
func (w *web) challenge(rw http.ResponseWriter, r *http.Request, status int, code, text string) {
	h, reason := "Bearer ", "missing"
	if code != "" {
		reason = "invalid"
		h += fmt.Sprintf("error=%q, error_description=%q, ", code, text)
	}
	h += fmt.Sprintf("resource_metadata=%q, scope=%q", w.base(r)+server.WellKnownProtectedResourcePath+r.URL.Path, scopes())
	w.srv.Watch.AuthFailure(reason)
	rw.Header().Set("WWW-Authenticate", h)
	w.fail(rw, status, nil, mcp.INVALID_REQUEST, "%s", text)
}

// scopes are what a token must have to use all of the tools.
func scopes() string { return string(sessions.ScopeRead) + " " + string(sessions.ScopeWrite) }

// base is where the client finds us.
func (w *web) base(r *http.Request) string {
	if w.PublicURL != "" {
		return strings.TrimSuffix(w.PublicURL, "/")
	}
	return scheme(r) + "://" + r.Host
}

// metadata says who gives tokens for an endpoint: RFC 9728.
func (w *web) metadata(rw http.ResponseWriter, r *http.Request) {
	if w.Auth == nil {
		w.fail(rw, http.StatusNotFound, nil, mcp.INVALID_REQUEST, "this server asks for no token")
		return
	}
	path := strings.TrimPrefix(r.URL.Path, server.WellKnownProtectedResourcePath)
	if path == "" {
		path = "/mcp"
	}
	server.NewProtectedResourceMetadataHandler(server.ProtectedResourceMetadataConfig{
		Resource:               w.base(r) + path,
		ResourceName:           "AgentLab",
		AuthorizationServers:   w.Issuers,
		ScopesSupported:        strings.Fields(scopes()),
		BearerMethodsSupported: []string{"header"},
	}).ServeHTTP(rw, r)
}

// fail answers with a JSON-RPC error and an HTTP status.
func (w *web) fail(rw http.ResponseWriter, status int, id json.RawMessage, code int, format string, args ...any) {
	w.refuse(rw, status, id, &mcp.JSONRPCErrorDetails{Code: code, Message: fmt.Sprintf(format, args...)})
}

// refuse answers with a JSON-RPC error and an HTTP status, which is
// [http.StatusTooManyRequests] for what may be tried again, unless the server as
// a whole can't serve it.
func (w *web) refuse(rw http.ResponseWriter, status int, id json.RawMessage, problem *mcp.JSONRPCErrorDetails) {
	w.srv.limited(problem)
	if when, ok := problem.Data.(retry); ok {
		if status != http.StatusServiceUnavailable {
			status = http.StatusTooManyRequests
		}
		rw.Header().Set("Retry-After", strconv.Itoa(when.AfterSeconds))
	}
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(status)
	enc := json.NewEncoder(rw)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(refusal(id, problem)) // to a client that may be gone
}
