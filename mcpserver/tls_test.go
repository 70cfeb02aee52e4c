package mcpserver_test

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/mcpserver"
)

// A client that could speak HTTP/2 must not: its streams end at the deadline for
// writing, also when there is nothing to write yet.
func TestTLSIsHTTP1(t *testing.T) {
	borrowed := httptest.NewTLSServer(http.NotFoundHandler())
	defer borrowed.Close()
	f := startHTTP(t, mcpserver.HTTP{TLS: &tls.Config{Certificates: borrowed.TLS.Certificates}})
	f.url = strings.Replace(f.url, "http:", "https:", 1)
	p := f.peer()
	trusted := borrowed.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	p.client.Transport = &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: trusted}}
	if res := p.do(http.MethodGet, "/", nil); res.ProtoMajor != 1 {
		t.Errorf("protocol %s", res.Proto)
	}
}
