package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/mcpserver"
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
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
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
	c := &x509.Certificate{SerialNumber: big.NewInt(number), NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: end}
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
	s := &mcpserver.Server{Tools: farTools(nil, nil), Version: "1", Log: slog.New(slog.DiscardHandler), Grace: time.Millisecond}
	go func() { served <- w.serve(ctx, s) }()
	t.Cleanup(func() {
		cancel()
		if err := within(t, "the end of the server", served); err != nil {
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

// A client of stdio reaches a server over TLS in both eras, and goes on when the
// certificate is renewed meanwhile, which new connections get.
func TestRemoteOverTLS(t *testing.T) {
	ca, h := newAuthority(t), tlsConfig(t)
	ca.certify(h, 2, "127.0.0.1", tomorrow())
	host := serveTLS(t, h)
	c := join(t, farServer{url: "https://" + host, ca: ca.file}, map[string]string{tokenEnv: "s3cret"})
	c.say(farCall("1", "whoami", true))
	c.hear("token:far")
	c.say(opening)
	c.hear("serverInfo")
	c.say(ready)
	c.say(farCall("2", "whoami", false))
	c.hear("token:far")
	wantCertificate(t, ca, host, 2)

	ca.certify(h, 3, "127.0.0.1", tomorrow())
	wantCertificate(t, ca, host, 3)
	c.say(farCall("3", "whoami", false))
	c.hear("token:far")
	if rest, err := c.end(); rest != "" || err != nil {
		t.Errorf("at the end: %q, error %v", rest, err)
	}
}

// wantCertificate says which one a new connection gets.
func wantCertificate(t *testing.T, ca *authority, host string, number int64) {
	t.Helper()
	trust, err := trusting(ca.file)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := (&tls.Dialer{Config: trust}).DialContext(t.Context(), "tcp", host)
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
			c := join(t, farServer{url: url, ca: tt.ca}, map[string]string{tokenEnv: "s3cret"})
			c.say(farCall("1", "whoami", true))
			line := within(t, "an answer", c.said)
			if !strings.Contains(line, "can't be reached: ") || !strings.Contains(line, tt.want) || strings.Contains(line, "not known") {
				t.Errorf("answer %s", line)
			}
			if _, err := c.end(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("it ends with %v", err)
			}
		})
	}
}
