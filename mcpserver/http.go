package mcpserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// HTTP says how tools are served over HTTP. The zero value serves whoever can
// connect to a loopback address.
type HTTP struct {
	// Auth says who asks. With none it is the daemon's own user, "local:<uid>".
	Auth Authenticator
	// Issuers are the authorization servers that clients may get tokens from.
	Issuers []string

	// TLS is nil for plain HTTP.
	TLS *tls.Config
	// PublicURL is where clients find us, without the path of an endpoint, if
	// that is not what their requests say: https://agentlab.example.org.
	PublicURL string
	// Hosts are the names, each with or without a port, that we may be asked
	// for, besides that of PublicURL. On a loopback address those of the
	// loopback always are; elsewhere all are if the list is empty.
	Hosts []string
	// Origins are the web pages that may ask, as https://app.example.org,
	// besides our own.
	Origins []string

	// Limits are those of one principal.
	Limits Limits
	// MaxBody is the size of a request in bytes, at most 96 MiB, which is what
	// one principal has for all; 0 is 32 MiB.
	MaxBody int64
	// MaxConns is how many connections there may be; on more, all is refused. 0
	// is 1000.
	MaxConns int
	// SessionTTL is for how long a session lives that is not used; 0 is 1 h.
	SessionTTL time.Duration
}

// ErrExposed means that others than this machine's users can reach the listener,
// and it has no TLS or nobody is asked who they are.
var ErrExposed = errors.New("it can be reached from other machines, so it needs TLS and authentication")

// Check returns ErrExposed if what listens there must not be served so.
func (h HTTP) Check(addr net.Addr) error {
	if !loopback(addr) && (h.TLS == nil || h.Auth == nil) {
		return ErrExposed
	}
	return nil
}

// Limits of what clients do before they have said anything.
const (
	readHeader = 10 * time.Second
	readBody   = time.Minute
	idleConn   = 2 * time.Minute
	maxHeader  = 64 << 10 // bytes
)

// ServeHTTPOn serves streamable HTTP of both eras at /mcp, and that of 2024 at
// /sse, to all who connect to ln, until ctx ends or ln fails. It closes ln.
//
// When ctx ends, new calls are refused and those running may go on for
// [Server.Grace]; then they are cancelled. It returns when all are done: nil if
// it was ctx that ended it.
//
// Errors: ErrExposed.
func (s *Server) ServeHTTPOn(ctx context.Context, ln net.Listener, h HTTP) error {
	s.once.Do(s.build)
	if err := h.Check(ln.Addr()); err != nil {
		return errors.Join(fmt.Errorf("listen on %s: %w", ln.Addr(), err), ln.Close())
	}
	return newWeb(s, h).serveOn(ctx, ln)
}

// serveOn serves all who connect to ln until ctx ends.
func (w *web) serveOn(ctx context.Context, ln net.Listener) error {
	defer w.srv.serving(w)()
	calls, cancelCalls := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelCalls()
	srv := &http.Server{
		Handler:           w.handler(),
		TLSConfig:         w.TLS,
		ReadHeaderTimeout: readHeader,
		IdleTimeout:       idleConn,
		Protocols:         new(http.Protocols),
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return calls },
		ErrorLog:          slog.NewLogLogger(w.srv.Log.Handler(), slog.LevelDebug),
	}
	// Not HTTP/2: its write deadline ends a stream that writes nothing, such as
	// the response to a call or an upload that is still going on, and MaxConns
	// would count one connection for hundreds of streams.
	srv.Protocols.SetHTTP1(true)
	w.countConns(srv)
	ln = netutil.LimitListener(ln, w.MaxConns+moreConns)
	failed := make(chan error, 1)
	go func() {
		if w.TLS != nil {
			failed <- srv.ServeTLS(ln, "", "")
		} else {
			failed <- srv.Serve(ln)
		}
	}()
	sweep := time.NewTicker(min(lookForExcess, max(time.Second, w.sessions.ttl/4)))
	defer sweep.Stop()
	for {
		select {
		case <-sweep.C:
			w.sweep()
		case err := <-failed:
			return errors.Join(fmt.Errorf("serve HTTP on %s: %w", ln.Addr(), err), srv.Close())
		case <-ctx.Done():
			return w.shutDown(srv, cancelCalls)
		}
	}
}

const (
	// moreConns is how many connections more there may be, to tell those who ask
	// on them that there are too many. Who comes after them waits.
	moreConns = 64
	// connsAfter is when there may be room for a connection again.
	connsAfter = 5 * time.Second
)

// overKey marks the context of a connection that is one too many.
type overKey struct{}

// countConns counts connections, and marks those that are too many when they are
// made.
func (w *web) countConns(srv *http.Server) {
	srv.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		if w.conns.Add(1) > int64(w.MaxConns) {
			return context.WithValue(ctx, overKey{}, true)
		}
		return ctx
	}
	srv.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			w.conns.Add(-1)
		}
	}
}

// sweep forgets the clients of which there is nothing left.
func (w *web) sweep() {
	w.keepExcesses(false)
	w.sessions.sweep()
	w.shares.sweep()
	w.strikes.sweep()
}

// keepExcesses keeps the events of refusals for limits that are due.
func (w *web) keepExcesses(end bool) {
	for _, e := range w.shares.excesses(end) {
		w.srv.keep(context.Background(), e)
	}
}

// shutDown lets the calls end, and ends them when they take too long. New ones
// are told, as long as there are others, that the server is ending.
func (w *web) shutDown(srv *http.Server, cancelCalls func()) error {
	empty := w.gate.shut()
	w.endStreams()
	select {
	case <-empty:
	case <-time.After(w.srv.grace()):
	}
	cancelCalls()
	ctx, cancel := context.WithTimeout(context.Background(), w.srv.writeTimeout())
	defer cancel()
	err := srv.Shutdown(ctx)
	if err != nil { // a client does not read
		err = srv.Close()
	}
	w.sessions.endAll()
	w.keepExcesses(true)
	if err != nil {
		return fmt.Errorf("end HTTP: %w", err)
	}
	return nil
}

// loopback says whether only this machine can reach addr.
func loopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// web is a server on one HTTP listener.
type web struct {
	HTTP
	srv      *Server
	sessions sessionTable
	shares   shares
	strikes  strikes
	conns    atomic.Int64 // open, also those that are too many

	gate       gate            // requests are let in
	ending     context.Context // done: what would not end by itself ends
	endStreams context.CancelFunc
}

func newWeb(s *Server, h HTTP) *web {
	w := &web{HTTP: h, srv: s, shares: shares{Limits: h.Limits}}
	defaults(&w.MaxBody, maxLine)
	defaults(&w.MaxConns, 1000)
	w.shares.streams = max(1, w.MaxConns/2)
	defaults(&w.SessionTTL, time.Hour)
	w.sessions.ttl = w.SessionTTL
	w.ending, w.endStreams = context.WithCancel(context.Background())
	return w
}

func defaults[T int | int64 | time.Duration](v *T, value T) {
	if *v == 0 {
		*v = value
	}
}

// principal returns who asks; it is what authenticate has put there.
func principal(ctx context.Context) string {
	who, _ := sessions.PrincipalFrom(ctx)
	return who.Name
}
