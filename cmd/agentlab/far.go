package main

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

	"github.com/agentlab-mcp/agentlab/internal/config"
)

// tokenEnv names the variable with the token for a server elsewhere.
const tokenEnv = "AGENTLAB_TOKEN"

// farServer is a server elsewhere, as the command line names it.
type farServer struct{ url, tokenFile, ca string }

// open returns a bridge to it, which has not said anything yet. All that may be
// wrong with how it is named is an error of the command line.
func (f farServer) open(env func(string) string) (*remote, error) {
	u, err := url.Parse(f.url)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil {
		return nil, fmt.Errorf("--server: got %q, want https://HOST[:PORT][/PATH]", f.url)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/mcp"
	}
	token := func() (string, error) { return strings.TrimSpace(env(tokenEnv)), nil }
	if f.tokenFile != "" {
		token = func() (string, error) {
			secret, err := config.Secret(f.tokenFile)
			if err != nil {
				return "", fmt.Errorf("--token-file: %w", err)
			}
			return secret.Reveal(), nil
		}
	}
	has, err := token()
	if err != nil {
		return nil, err
	}
	if f.tokenFile != "" && has == "" {
		return nil, fmt.Errorf("--token-file: %s is empty", f.tokenFile)
	}
	if ip := net.ParseIP(u.Hostname()); has != "" && u.Scheme == "http" && u.Hostname() != "localhost" && !ip.IsLoopback() {
		return nil, fmt.Errorf("--server: %s would send the token so that anybody on the way can read it; want https://", f.url)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 32 // a client may have as many calls running
	transport.DialContext = (&net.Dialer{Timeout: patience, KeepAlive: 15 * time.Second}).DialContext
	if f.ca != "" {
		if transport.TLSClientConfig, err = trusting(f.ca); err != nil {
			return nil, err
		}
	}
	return &remote{url: u.String(), token: token, client: &http.Client{
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
