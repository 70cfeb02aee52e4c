package remote

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/redact"
)

// TokenEnv names the variable with the token for a server.
const TokenEnv = "AGENTLAB_TOKEN"

// EnvToken is the Token of a Server that stands in a variable.
func EnvToken(env func(string) string) func() (redact.String, error) {
	return func() (redact.String, error) { return redact.String(strings.TrimSpace(env(TokenEnv))), nil }
}

// Server is one elsewhere, as the command line names it.
type Server struct {
	URL   string                        // of --server; without a path it is that of AgentLab's endpoint
	CA    string                        // of --ca: a file of certificates, which count alone; empty is those that the system trusts
	Token func() (redact.String, error) // is asked at each request, so that it may be exchanged; "" is none
}

// Open returns a bridge to the server, which has not said anything yet. All that
// may be wrong with how it is named is an error, which names the flag.
func (s Server) Open() (*Bridge, error) {
	u, err := url.Parse(s.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil {
		return nil, fmt.Errorf("--server: got %q, want https://HOST[:PORT][/PATH]", s.URL)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/mcp"
	}
	has, err := s.Token()
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(u.Hostname()); has != "" && u.Scheme == "http" && u.Hostname() != "localhost" && !ip.IsLoopback() {
		return nil, fmt.Errorf("--server: %s would send the token so that anybody on the way can read it; want https://", s.URL)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 32 // a client may have as many calls running
	transport.DialContext = (&net.Dialer{Timeout: patience, KeepAlive: 15 * time.Second}).DialContext
	if s.CA != "" {
		if transport.TLSClientConfig, err = trusting(s.CA); err != nil {
			return nil, err
		}
	}
	return &Bridge{server: s, url: u.String(), client: &http.Client{
		Transport: transport,
		CheckRedirect: func(r *http.Request, _ []*http.Request) error { // it would get the token
			return fmt.Errorf("it redirects to %s; name that if it is meant", r.URL)
		},
	}}, nil
}

// trusting returns what trusts servers with a certificate that one in the file
// has signed.
func trusting(file string) (*tls.Config, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("--ca: " + file + ": want certificates in PEM")
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

// mendTLS says what mends a connection that was not made secure, so that nothing
// was sent on it; empty is that it was not that.
func mendTLS(err error) string {
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, name := errors.AsType[x509.HostnameError](err)
	invalid, bad := errors.AsType[x509.CertificateInvalidError](err)
	_, verify := errors.AsType[*tls.CertificateVerificationError](err)
	_, header := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case unknown:
		return "; name a file with the certificate of the authority that signed the server's with --ca"
	case name:
		return "; ask for it in --server by a name that is in its certificate"
	case bad && invalid.Reason == x509.Expired:
		return "; its operator must renew its certificate, unless the clock of this machine is wrong"
	case bad, verify:
		return "; its operator must give it another certificate (http_tls_cert)"
	case header, strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"): // net/http has no other name for it
		return "; it does not speak TLS: its operator must give it a certificate (http_tls_cert)"
	}
	return ""
}
