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
