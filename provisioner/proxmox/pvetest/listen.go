package pvetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// perConnection is how many requests pveproxy takes on one connection;
// keepIdle is how long it waits for the next (measured).
const (
	perConnection = 100
	keepIdle      = 5 * time.Second
)

type listener struct {
	url  string
	cert tls.Certificate
	srv  *http.Server
}

func (l *listener) close() { _ = l.srv.Close() }

type requestCount struct{}

// Listen starts the HTTPS server of a node, if it is not running, and returns
// its URL. Every node answers for all, as pveproxy does.
func (s *Server) Listen(node string) string {
	return s.listen(node).url
}

// Certificate is that of the node's server, in DER: what a client is to trust.
func (s *Server) Certificate(node string) []byte {
	return s.listen(node).cert.Certificate[0]
}

// Fingerprint is the SHA-256 of the node's certificate as Proxmox shows it.
func (s *Server) Fingerprint(node string) string {
	return fingerprint(s.Certificate(node))
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":")
}

func (s *Server) listen(node string) *listener {
	s.start()
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.listeners[node]; l != nil {
		return l
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it takes no time
	if err != nil {
		panic(fmt.Sprintf("pvetest: listen: %v", err)) // as httptest does: a test can't go on
	}
	return s.serve(node, ln, s.Handler(node), 0)
}

// Serve starts the HTTPS server of a node on a listener of the caller's, such as
// one of connections in memory, with a handler that may do something before or
// after [Server.Handler], and a version of TLS at most, 0 being the latest: in 1.2
// clients come again at next to no cost. The URL that Listen then returns has the
// listener's address.
func (s *Server) Serve(node string, ln net.Listener, handler http.Handler, maxTLS uint16) {
	s.start()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serve(node, ln, handler, maxTLS)
}

func (s *Server) serve(node string, ln net.Listener, handler http.Handler, maxTLS uint16) *listener {
	cert := newCertificate(node)
	l := &listener{
		url: "https://" + ln.Addr().String(), cert: cert,
		srv: &http.Server{
			Handler:           handler,
			IdleTimeout:       keepIdle,
			ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // clients that break off
			ReadHeaderTimeout: time.Minute,
			ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
				return context.WithValue(ctx, requestCount{}, new(atomic.Int32))
			},
			TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
		},
	}
	s.listeners[node] = l
	secure := tls.NewListener(ln, &tls.Config{
		Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"},
		CurvePreferences: []tls.CurveID{tls.X25519}, // the OpenSSL of PVE 8 has none that costs more
		MaxVersion:       maxTLS,
	})
	s.work.Go(func() { _ = l.srv.Serve(secure) })
	return l
}

// newCertificate is self-signed, for 127.0.0.1 and localhost.
func newCertificate(node string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // crypto/rand never fails
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: node, Organization: []string{"PVE Cluster Node"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost", node},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
