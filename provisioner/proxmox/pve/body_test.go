package pve

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/redact"
)

// A body that is slow to say that it is empty, as on a busy machine, is not
// announced: PVE refuses calls that have none to have one.
func TestNoBodyIsAnnounced(t *testing.T) {
	h, err := NewHTTPS("https://pve.example.com:8006", Auth{Token: redact.String("u@pve!t1=secret")}, Trust{})
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"GET", "DELETE"} {
		req, err := h.request(t.Context(), Request{Method: method, Path: []string{"nodes"}})
		if err != nil {
			t.Fatal(err)
		}
		if req.GetBody != nil || req.Body == nil {
			t.Errorf("%s: net/http may repeat it by itself", method)
		}
		req.Body = io.NopCloser(slow{})
		var sent strings.Builder
		if err := req.Write(&sent); err != nil {
			t.Fatal(err)
		}
		if _, body, _ := strings.Cut(sent.String(), "\r\n\r\n"); strings.Contains(sent.String(), "chunked") || body != "" {
			t.Errorf("%s: sent %q", method, sent.String())
		}
	}
}

// The zone of a link-local address stays escaped.
func TestAddressWithAZone(t *testing.T) {
	h, err := NewHTTPS("https://[fe80::1%25eth0]:8006", Auth{Token: redact.String("u@pve!t1=secret")}, Trust{})
	if err != nil {
		t.Fatal(err)
	}
	req, err := h.request(t.Context(), Request{Method: "GET", Path: []string{"version"}})
	if err != nil || req.URL.Host != "[fe80::1%eth0]:8006" {
		t.Errorf("request to %v, %v", req, err)
	}
}

type slow struct{}

func (slow) Read([]byte) (int, error) {
	time.Sleep(300 * time.Millisecond) // net/http waits 200
	return 0, io.EOF
}
