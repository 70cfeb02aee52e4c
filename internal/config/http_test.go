package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/config"
)

func TestMistakesInHTTPAreNamed(t *testing.T) {
	for _, tt := range []struct{ name, config, want string }{
		{"no-port", "http_listen: localhost", `http_listen: got "localhost", want HOST:PORT such as 127.0.0.1:8765`},
		{"bad-port", "http_listen: localhost:99999", `http_listen: got "localhost:99999"`},
		{"no-key", "http_tls_cert: /c.pem", `http_tls_cert, http_tls_key: got one of them, want both or none`},
		{"relative-cert", "http_tls_cert: c.pem\nhttp_tls_key: /k.pem", `http_tls_cert: got "c.pem", want an absolute path`},
		{"relative-key", "http_tls_cert: /c.pem\nhttp_tls_key: k.pem", `http_tls_key: got "k.pem", want an absolute path`},
		{"url-without-scheme", "http_public_url: lab.example.org", `http_public_url: got "lab.example.org"`},
		{"url-with-query", "http_public_url: https://lab.example.org/?x", `http_public_url: got`},
		{"host-with-scheme", "http_allowed_hosts: [https://lab.example.org]", `http_allowed_hosts: got "https://lab.example.org", want HOST or HOST:PORT`},
		{"host-with-path", "http_allowed_hosts: [lab.example.org/mcp]", `http_allowed_hosts: got`},
		{"origin-without-scheme", "http_allowed_origins: [app.example.org]", `http_allowed_origins: got "app.example.org", want SCHEME://HOST`},
		{"origin-with-path", "http_allowed_origins: [https://app.example.org/]", `http_allowed_origins: got`},
		{"rate", "http_rate_limit: -1", `http_rate_limit: got -1, want 0 (no limit) or more`},
		{"calls", "http_max_calls: -1", `http_max_calls: got -1`},
		{"body", "http_max_body_mb: 0", `http_max_body_mb: got 0, want 1 to 96`},
		{"large-body", "http_max_body_mb: 97", `http_max_body_mb: got 97, want 1 to 96`},
		{"connections", "http_max_connections: 0", `http_max_connections: got 0`},
		{"ttl", "http_session_ttl: 1ms", `http_session_ttl: got 1ms, want at least 1s`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := config.LoadAll(write(t, map[string]string{"config.yaml": tt.config}))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v\nwant one with %s", err, tt.want)
			}
		})
	}
}

// pair writes a certificate and its key.
func pair(t *testing.T, dir string) config.HTTP {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	h := config.HTTP{TLSCert: filepath.Join(dir, "cert.pem"), TLSKey: filepath.Join(dir, "key.pem")}
	for path, block := range map[string]*pem.Block{h.TLSCert: {Type: "CERTIFICATE", Bytes: cert}, h.TLSKey: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func TestCertificate(t *testing.T) {
	h := pair(t, t.TempDir())
	if _, err := h.Certificate(); err != nil {
		t.Fatal(err)
	}
	other := h
	other.TLSCert = pair(t, t.TempDir()).TLSCert
	if _, err := other.Certificate(); err == nil || !strings.Contains(err.Error(), other.TLSCert) || !strings.Contains(err.Error(), h.TLSKey) {
		t.Errorf("of another key: error %v", err)
	}
	if err := os.Chmod(h.TLSKey, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Certificate(); err == nil || !strings.Contains(err.Error(), "http_tls_key: "+h.TLSKey) || !strings.Contains(err.Error(), "chmod 0600") {
		t.Errorf("with a key that others can read: error %v", err)
	}
}
