package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/internal/remote"
	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, file: filepath.Join(t.TempDir(), "ca.pem")}
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "an authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
	}
	key, der := a.issue(a.cert)
	a.key = key
	a.write(a.file, "CERTIFICATE", der, time.Now())
	return a
}

// issue signs a certificate for a new key. The first is its own.
func (a *authority) issue(c *x509.Certificate) (*ecdsa.PrivateKey, []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	by := a.key
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), by)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, der
}

func (a *authority) write(path, kind string, der []byte, changed time.Time) {
	a.t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	if err := os.Chtimes(path, changed, changed); err != nil {
		a.t.Fatal(err)
	}
}

// certify gives a server a certificate of that number, which ends then. The
// files have changed at a time of their own each time.
func (a *authority) certify(h config.HTTP, number int64, name string, end time.Time) {
	a.t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(number), Subject: pkix.Name{CommonName: "a server"}, NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: end}
	if ip := net.ParseIP(name); ip != nil {
		c.IPAddresses = []net.IP{ip}
	} else {
		c.DNSNames = []string{name}
	}
	key, der := a.issue(c)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	changed := time.Unix(1e9+number, 0)
	a.write(h.TLSCert, "CERTIFICATE", der, changed)
	a.write(h.TLSKey, "PRIVATE KEY", private, changed)
}

// serveTLS serves as the daemon does over HTTPS, by its configuration.
func serveTLS(t *testing.T, h config.HTTP) (host string) {
	t.Helper()
	cfg := config.Default()
	cfg.HTTP = h
	w, err := listenHTTP(t.Context(), cfg, onlyToken("s3cret"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	s := &mcpserver.Server{Tools: []tools.Tool{whoami()}, Version: "1", Log: slog.New(slog.DiscardHandler), Grace: time.Millisecond}
	go func() { served <- w.serve(ctx, s) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return w.Addr().String()
}

func tlsConfig(t *testing.T) config.HTTP {
	h := config.Default().HTTP
	dir := t.TempDir()
	h.Listen, h.TLSCert, h.TLSKey = "127.0.0.1:0", filepath.Join(dir, "c"), filepath.Join(dir, "k")
	return h
}

func tomorrow() time.Time { return time.Now().Add(24 * time.Hour) }

// onlyToken knows one token.
type onlyToken string

func (o onlyToken) Authenticate(_ context.Context, token string) (sessions.Principal, error) {
	if token != string(o) {
		return sessions.Principal{}, mcpserver.ErrUnauthenticated
	}
	return sessions.Principal{Name: "token:far", Scopes: []sessions.Scope{sessions.ScopeRead}}, nil
}

// whoami is a tool that names its caller.
func whoami() tools.Tool {
	return tools.Tool{Name: "whoami", Scope: sessions.ScopeRead, Call: func(ctx context.Context, _ json.RawMessage) tools.Result {
		p, _ := sessions.PrincipalFrom(ctx)
		return tools.Result{Content: []tools.Content{{Text: p.Name}}}
	}}
}

// join joins a client of another's making to a server, by the bridge. ended gets
// the bridge's error.
func join(t *testing.T, url, ca string) (client *mcp.ClientSession, ended <-chan error, err error) {
	t.Helper()
	b, err := remote.Server{URL: url, CA: ca, Token: remote.EnvToken(func(string) string { return "s3cret" })}.Open()
	if err != nil {
		t.Fatal(err)
	}
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- b.Run(t.Context(), inR, outW); outW.Close() }()
	client, err = mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil).Connect(t.Context(), &mcp.IOTransport{Reader: outR, Writer: inW}, nil)
	if err == nil {
		t.Cleanup(func() { client.Close() })
	}
	t.Cleanup(func() { inW.Close() })
	return client, done, err
}

func wantFar(t *testing.T, client *mcp.ClientSession) {
	t.Helper()
	res, err := client.CallTool(t.Context(), &mcp.CallToolParams{Name: "whoami"})
	if err != nil {
		t.Fatal(err)
	}
	if text, ok := res.Content[0].(*mcp.TextContent); !ok || text.Text != "token:far" {
		t.Errorf("answer %v", res.Content)
	}
}

// A client of stdio reaches a server over TLS, and goes on when the certificate
// is renewed meanwhile, which new connections get.
func TestRemoteOverTLS(t *testing.T) {
	ca, h := newAuthority(t), tlsConfig(t)
	ca.certify(h, 2, "127.0.0.1", tomorrow())
	host := serveTLS(t, h)
	client, _, err := join(t, "https://"+host, ca.file)
	if err != nil {
		t.Fatal(err)
	}
	wantFar(t, client)
	wantCertificate(t, ca, host, 2)
	ca.certify(h, 3, "127.0.0.1", tomorrow())
	wantCertificate(t, ca, host, 3)
	wantFar(t, client)
}

// wantCertificate says which one a new connection gets.
func wantCertificate(t *testing.T, ca *authority, host string, number int64) {
	t.Helper()
	text, err := os.ReadFile(ca.file)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}).DialContext(t.Context(), "tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64(); got != number {
		t.Errorf("certificate %d, want %d", got, number)
	}
}

// What keeps a connection from being secure is said together with what mends
// it. The call was not made.
func TestRemoteSaysWhatIsWrongWithTLS(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	plain := httptest.NewServer(nil)
	defer plain.Close()
	for name, tt := range map[string]struct {
		name string // in the certificate; empty is that the server has none
		end  time.Time
		ca   string
		want string
	}{
		"unknown authority": {"127.0.0.1", tomorrow(), "", "certificate of the authority that signed the server's with --ca"},
		"wrong authority":   {"127.0.0.1", tomorrow(), other.file, "certificate of the authority that signed the server's with --ca"},
		"wrong name":        {"lab.example.org", tomorrow(), ca.file, "ask for it in --server by a name that is in its certificate"},
		"expired":           {"127.0.0.1", time.Now().Add(-time.Hour), ca.file, "its operator must renew its certificate, unless the clock of this machine is wrong"},
		"no TLS":            {"", time.Time{}, ca.file, "it does not speak TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			url := "https://" + strings.TrimPrefix(plain.URL, "http://")
			if tt.name != "" {
				h := tlsConfig(t)
				ca.certify(h, 2, tt.name, tt.end)
				url = "https://" + serveTLS(t, h)
			}
			_, ended, err := join(t, url, tt.ca)
			if err == nil || !strings.Contains(err.Error(), "can't be reached: ") || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "not known") {
				t.Errorf("answer %v", err)
			}
			if err := <-ended; err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("it ends with %v", err)
			}
		})
	}
}
