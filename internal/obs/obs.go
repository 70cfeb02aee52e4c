// Package obs shows those who watch a daemon how it does: whether it serves,
// whether it can be used, and metrics for Prometheus. They look at a listener of
// its own, since they are not the clients that the daemon serves, and an answer
// must not depend on a limit of theirs.
//
// What is counted has few labels with few values each, and never one that says
// who asks or for what: a label is a time series for ever, and the metrics are
// shown to whoever can connect. What there is at a time is read from where it is
// kept when somebody looks, so that no count can go astray.
package obs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// Daemon is what is watched.
type Daemon struct {
	Version string
	Clients Clients
	// Store returns the records, or an error while the installation can't be
	// opened, which is for Store to log.
	Store func(ctx context.Context) (sessions.Store, error)
	// Stuck returns what has ended and could not be removed so far; nil is nothing.
	Stuck func() []sessions.Stuck
	// Load returns how busy the backends are; nil is that there are none.
	Load func() []sessions.Load
	// State is the directory whose file system must not be full.
	State string
	Log   *slog.Logger
}

// Clients are those connected now.
type Clients interface {
	Conns() int        // of all transports
	HTTPConns() int    // TCP connections
	HTTPSessions() int // that have not ended
}

// Watch is what there is to see of a daemon. It may be used from many
// goroutines at once.
type Watch struct {
	daemon   Daemon
	registry *prometheus.Registry
	counts   counts
}

// Limits of the listener.
const (
	limit     = 2 * time.Second // to open the installation and read from the store
	maxConns  = 64
	maxGather = 4 // scrapes at a time; more are told to come again
	readTime  = 10 * time.Second
	writeTime = 10 * time.Second
	idleTime  = 2 * time.Minute
	maxHeader = 16 << 10 // bytes
)

// New returns a Watch of d, with a registry of its own.
func New(d Daemon) *Watch {
	w := &Watch{daemon: d, registry: prometheus.NewRegistry()}
	w.counts = newCounts(w.registry)
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "agentlab_build_info", Help: "1, with the version of the daemon", ConstLabels: prometheus.Labels{"version": d.Version},
	})
	build.Set(1)
	w.registry.MustRegister(build, records{w}, room{d},
		gauge("agentlab_clients", "MCP clients connected: over the socket, and over HTTP streams of 2024, sessions that have not ended, and from 2026-07-28 on, where there are none, requests being served", d.Clients.Conns),
		gauge("agentlab_http_connections", "connections over HTTP that are open", d.Clients.HTTPConns),
		gauge("agentlab_http_sessions", "sessions over HTTP that have not ended; from 2026-07-28 on there are none", d.Clients.HTTPSessions),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return w
}

func gauge(name, help string, value func() int) prometheus.GaugeFunc {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
}

// Serve serves /healthz, /readyz and /metrics to all who connect to ln until ctx
// ends or ln fails. It closes ln, and returns nil if it was ctx that ended it.
func (w *Watch) Serve(ctx context.Context, ln net.Listener) error {
	errorLog := slog.NewLogLogger(w.daemon.Log.Handler(), slog.LevelDebug)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) { answer(rw, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", w.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(w.registry, promhttp.HandlerOpts{ErrorLog: errorLog, MaxRequestsInFlight: maxGather}))
	srv := &http.Server{
		Handler: meantForUs(mux), ReadTimeout: readTime, WriteTimeout: writeTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader, ErrorLog: errorLog,
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(netutil.LimitListener(ln, maxConns)) }()
	select {
	case err := <-failed:
		return errors.Join(fmt.Errorf("serve metrics on %s: %w", ln.Addr(), err), srv.Close())
	case <-ctx.Done():
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		if srv.Shutdown(ctx) != nil { // somebody reads slowly
			_ = srv.Close()
		}
		return nil
	}
}

// meantForUs refuses what was sent to another name. A web page can make a
// browser on this machine ask us, and read the answer, by having a name of its
// own resolve to our address.
func meantForUs(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if ip := net.ParseIP(strings.Trim(host, "[]")); host != "localhost" && !ip.IsLoopback() {
			answer(rw, http.StatusForbidden, "ask for localhost or an IP of the loopback")
			return
		}
		next.ServeHTTP(rw, r)
	})
}

// ready answers whether the daemon can be used.
func (w *Watch) ready(rw http.ResponseWriter, r *http.Request) {
	if _, err := w.read(r.Context(), sessions.Query{Limit: 1}); err != nil {
		answer(rw, http.StatusServiceUnavailable, err.Error())
		return
	}
	answer(rw, http.StatusOK, "ok")
}

func answer(rw http.ResponseWriter, status int, line string) {
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	rw.WriteHeader(status)
	_, _ = fmt.Fprintln(rw, line) // fails when nobody listens any more
}
