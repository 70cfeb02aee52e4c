package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/mcpserver"
)

// web is what a daemon serves over HTTP. A nil one is nothing.
type web struct {
	net.Listener
	http mcpserver.HTTP
}

// listenHTTP listens where the configuration says; that is nowhere if it says
// nothing.
func listenHTTP(ctx context.Context, all config.Config, auth mcpserver.Authenticator, log *slog.Logger) (*web, error) {
	cfg := all.HTTP
	if cfg.Listen == "" {
		return nil, nil
	}
	w := &web{http: mcpserver.HTTP{
		PublicURL: cfg.PublicURL, Hosts: cfg.AllowedHosts, Origins: cfg.AllowedOrigins,
		Limits:  mcpserver.Limits{Rate: float64(cfg.RateLimit), Calls: cfg.MaxCalls},
		MaxBody: int64(cfg.MaxBodyMB) << 20, MaxConns: cfg.MaxConnections,
		SessionTTL: cfg.SessionTTL,
	}}
	if cfg.Auth != config.AuthNone {
		w.http.Auth = auth
	}
	if all.OAuth.Issuer != "" {
		w.http.Issuers = []string{all.OAuth.Issuer}
	}
	scheme := "http"
	if cfg.TLSCert != "" {
		scheme = "https"
		c := &certificate{HTTP: cfg, log: log}
		if err := c.load(); err != nil {
			return nil, err
		}
		w.http.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("http_listen: %w", err)
	}
	w.Listener = ln
	if err := w.http.Check(ln.Addr()); err != nil {
		return nil, errors.Join(fmt.Errorf("http_listen: %s: %w (http_tls_cert, http_tls_key, http_auth: token); "+
			"on a loopback address such as 127.0.0.1 it needs neither", cfg.Listen, err), ln.Close())
	}
	log.Info("listening over HTTP", "url", scheme+"://"+ln.Addr().String()+"/mcp", "authentication", w.http.Auth != nil)
	return w, nil
}

// listenMetrics listens for those who watch the daemon; that is nowhere if
// address is empty.
func listenMetrics(ctx context.Context, address string, log *slog.Logger) (net.Listener, error) {
	if address == "" {
		return nil, nil
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics_listen: %w", err)
	}
	log.Info("listening for who watches", "metrics", "http://"+ln.Addr().String()+"/metrics")
	return ln, nil
}

func (w *web) serve(ctx context.Context, server *mcpserver.Server) error {
	return server.ServeHTTPOn(ctx, w.Listener, w.http)
}

func (w *web) close() error {
	if w == nil {
		return nil
	}
	return w.Close()
}

// certificate is ours, read anew when its files have changed. As long as what
// they hold can't be used, the last one that could is.
type certificate struct {
	config.HTTP
	log *slog.Logger

	mu   sync.Mutex
	cert tls.Certificate
	read [2]time.Time // when the files were last changed before they were read
	told string       // the last error, so as to log it once
}

// get implements the GetCertificate of a [tls.Config].
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil && err.Error() != c.told {
		c.told = err.Error()
		c.log.Error("new certificate can't be used", "err", err)
	}
	cert := c.cert
	return &cert, nil
}

// load reads the files if they were changed.
func (c *certificate) load() error {
	var changed [2]time.Time
	for i, path := range []string{c.TLSCert, c.TLSKey} {
		if info, err := os.Stat(path); err == nil { // else reading it says why
			changed[i] = info.ModTime()
		}
	}
	if changed == c.read && c.cert.Certificate != nil {
		return nil
	}
	cert, err := c.Certificate()
	if err != nil {
		return err
	}
	c.cert, c.read, c.told = cert, changed, ""
	return nil
}
