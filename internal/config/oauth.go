package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// OAuth is whose tokens count beside those of the installation. Nothing of it
// needs to be set: then no others do.
type OAuth struct {
	// URL of an identity provider, exactly as it stands in the claim `iss` of its tokens; empty is none
	Issuer string `yaml:"oauth_issuer"`
	// what the claim `aud` of a token must be or have; needed with `oauth_issuer`
	Audience string `yaml:"oauth_audience"`
	// which of its scopes is which of ours: `["labs.use=sandbox:write", "labs.look=sandbox:read"]`; all others are
	// ignored. By default same names.
	Scopes []string `yaml:"oauth_scopes"`
	// absolute path of a file of PEM certificates for the issuer; empty is what the system trusts
	TLSCA string `yaml:"oauth_tls_ca"`
}

// maxIssuer bounds a URL that becomes part of the names of principals, in bytes.
const maxIssuer = 200

// validate adds what is wrong with the values.
func (o OAuth) validate(ps *problems) {
	ps.check(o.Issuer == "" || validIssuer(o.Issuer), "oauth_issuer: got %q, want https://HOST or https://HOST/PATH, at most %d bytes", o.Issuer, maxIssuer)
	ps.check((o.Issuer == "") == (o.Audience == ""), "oauth_audience: got %q with oauth_issuer %q, want both or none: a token for somebody else must not count here", o.Audience, o.Issuer)
	for _, s := range o.Scopes {
		theirs, ours, ok := strings.Cut(s, "=")
		ps.check(ok && theirs != "" && !strings.ContainsAny(theirs, " \t") && slices.Contains(sessions.Scopes(), sessions.Scope(ours)),
			"oauth_scopes: got %q, want THEIRS=OURS, where OURS is one of %q", s, sessions.Scopes())
	}
	ps.check(o.Issuer != "" || len(o.Scopes) == 0 && o.TLSCA == "", "oauth_scopes, oauth_tls_ca: they say nothing without oauth_issuer")
	ps.check(o.TLSCA == "" || filepath.IsAbs(o.TLSCA), "oauth_tls_ca: got %q, want %s", o.TLSCA, absolute)
}

func validIssuer(s string) bool {
	u, err := url.Parse(s) // RFC 8414, section 2: https, neither query nor fragment
	return err == nil && len(s) <= maxIssuer && u.Scheme == "https" && u.Hostname() != "" && u.User == nil &&
		!strings.ContainsAny(s, "?#") && u.Opaque == ""
}

// ScopeMap is Scopes as a table, nil if there are none. The values are valid.
func (o OAuth) ScopeMap() map[string]sessions.Scope {
	if len(o.Scopes) == 0 {
		return nil
	}
	table := map[string]sessions.Scope{}
	for _, s := range o.Scopes {
		theirs, ours, _ := strings.Cut(s, "=")
		table[theirs] = sessions.Scope(ours)
	}
	return table
}

// Client returns what the issuer is asked with.
func (o OAuth) Client() (*http.Client, error) {
	if o.TLSCA == "" {
		return http.DefaultClient, nil
	}
	pem, _, err := readFile(o.TLSCA)
	if err != nil {
		return nil, fmt.Errorf("oauth_tls_ca: %w", err)
	}
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("oauth_tls_ca: %w", errors.New("the file has no certificate in PEM"))
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12}
	return &http.Client{Transport: transport}, nil
}
