package config

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"time"
)

// HTTP is how the daemon serves over HTTP, which it does if Listen is set. All
// requests of one principal that are being served have 96 MiB, so that one of more
// than that would never be.
type HTTP struct {
	// `HOST:PORT`. An address that is not of the loopback needs TLS and tokens, or the daemon does not start
	Listen string `yaml:"http_listen"`
	// who may ask: `token`, whoever has one of `agentlab token` or of `oauth_issuer`, or `none`, whoever can
	// connect, who is then taken for the daemon's user. That may be any user of this machine, and is possible on the
	// loopback only
	Auth string `yaml:"http_auth"`
	// absolute path of the certificate in PEM, with those between it and one that clients trust; read anew when it
	// changes
	TLSCert string `yaml:"http_tls_cert"`
	// absolute path of its private key; one that others can read is refused
	TLSKey string `yaml:"http_tls_key"`
	// where clients find us, without `/mcp`, if a proxy stands between: `https://agentlab.example.org`
	PublicURL string `yaml:"http_public_url"`
	// names that clients may ask for, `HOST` or `HOST:PORT`, beside that of `http_public_url`. On the loopback
	// `localhost` and its addresses always are; elsewhere an empty list is any
	AllowedHosts []string `yaml:"http_allowed_hosts"`
	// web pages of others that may ask: `https://app.example.org`
	AllowedOrigins []string `yaml:"http_allowed_origins"`

	// requests a second of one principal on average, ten times as many at once; `0` is no limit. What comes faster
	// than five times as often waits for its turn, also what is then refused, so that others don't notice
	RateLimit int `yaml:"http_rate_limit"`
	// calls of one principal at a time; `0` is no limit
	MaxCalls int `yaml:"http_max_calls"`
	// size of a request in MiB, at most `96`
	MaxBodyMB int `yaml:"http_max_body_mb"`
	// connections at a time; what is asked on more is refused with 503. Half of them can be streams that one
	// principal listens to
	MaxConnections int `yaml:"http_max_connections"`
	// for how long a session that is not used lives
	SessionTTL time.Duration `yaml:"http_session_ttl"`
}

// The values of HTTP.Auth.
const (
	AuthToken = "token"
	AuthNone  = "none"
)

func defaultHTTP() HTTP {
	return HTTP{Auth: AuthToken, RateLimit: 100, MaxCalls: 256, MaxBodyMB: 32, MaxConnections: 1000, SessionTTL: time.Hour}
}

// validate adds what is wrong with the values.
func (h HTTP) validate(ps *problems) {
	ps.check(h.Listen == "" || validListen(h.Listen), "http_listen: got %q, want HOST:PORT such as 127.0.0.1:8765", h.Listen)
	ps.check(h.Auth == AuthToken || h.Auth == AuthNone, "http_auth: got %q, want token or none", h.Auth)
	ps.check((h.TLSCert == "") == (h.TLSKey == ""), "http_tls_cert, http_tls_key: got one of them, want both or none")
	ps.check(h.TLSCert == "" || filepath.IsAbs(h.TLSCert), "http_tls_cert: got %q, want %s", h.TLSCert, absolute)
	ps.check(h.TLSKey == "" || filepath.IsAbs(h.TLSKey), "http_tls_key: got %q, want %s", h.TLSKey, absolute)
	ps.check(h.PublicURL == "" || validAddress(h.PublicURL, true), "http_public_url: got %q, want https://HOST[:PORT][/PATH]", h.PublicURL)
	for _, name := range h.AllowedHosts {
		ps.check(validAddress("https://"+name, false), "http_allowed_hosts: got %q, want HOST or HOST:PORT", name)
	}
	for _, origin := range h.AllowedOrigins {
		ps.check(validAddress(origin, false), "http_allowed_origins: got %q, want SCHEME://HOST or SCHEME://HOST:PORT", origin)
	}
	ps.check(h.RateLimit >= 0, "http_rate_limit: got %d, want 0 (no limit) or more", h.RateLimit)
	ps.check(h.MaxCalls >= 0, "http_max_calls: got %d, want 0 (no limit) or more", h.MaxCalls)
	ps.check(h.MaxBodyMB >= 1 && h.MaxBodyMB <= 96, "http_max_body_mb: got %d, want 1 to 96", h.MaxBodyMB)
	ps.check(h.MaxConnections >= 1, "http_max_connections: got %d, want at least 1", h.MaxConnections)
	ps.check(h.SessionTTL >= time.Second, "http_session_ttl: got %v, want at least 1s", h.SessionTTL)
}

func validListen(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && (n > 0 || port == "0")
}

// validAddress says whether s is that of a server, and has a path only if it may.
func validAddress(s string, path bool) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Hostname() != "" && u.User == nil &&
		u.RawQuery == "" && u.Fragment == "" && (path || u.Path == "")
}

// Certificate reads the certificate and its key. A key that others can read is
// refused.
func (h HTTP) Certificate() (tls.Certificate, error) {
	cert, _, err := readFile(h.TLSCert)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("http_tls_cert: %w", err)
	}
	key, err := Secret(h.TLSKey)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("http_tls_key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, []byte(key.Reveal()))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("http_tls_cert %s and http_tls_key %s: %w", h.TLSCert, h.TLSKey, err)
	}
	return pair, nil
}
