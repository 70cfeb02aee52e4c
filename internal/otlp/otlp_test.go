package otlp_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/agentlab-mcp/agentlab/internal/otlp"
	"github.com/agentlab-mcp/agentlab/internal/redact"
)

// collector answers with each status once, the last one for ever, and keeps what
// it has taken.
type collector struct {
	mu       sync.Mutex
	statuses []int
	asked    int
	spans    []string
	key      string // the last
}

func (c *collector) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.key = r.Header.Get("X-Key")
	status := c.statuses[min(c.asked, len(c.statuses)-1)]
	c.asked++
	if status/100 == 3 {
		rw.Header().Set("Location", "/elsewhere")
	}
	rw.WriteHeader(status)
	var data tracepb.TracesData
	if body, err := io.ReadAll(r.Body); status != http.StatusOK || err != nil || proto.Unmarshal(body, &data) != nil {
		return
	}
	for _, rs := range data.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				c.spans = append(c.spans, s.Name)
			}
		}
	}
}

func TestSend(t *testing.T) {
	for name, tt := range map[string]struct {
		statuses []int
		asked    int
		sent     bool
		log      string
	}{
		"ok":          {[]int{200}, 1, true, ""},
		"again":       {[]int{503, 429, 200}, 3, true, ""},
		"refused":     {[]int{401}, 1, false, "401 Unauthorized"},
		"unavailable": {[]int{503}, 4, false, "503 Service Unavailable"},
		"redirect":    {[]int{307}, 1, false, "307 Temporary Redirect"}, // the key is not for whoever is there
	} {
		t.Run(name, func(t *testing.T) {
			c := &collector{statuses: tt.statuses}
			srv := httptest.NewServer(c)
			defer srv.Close()
			var log bytes.Buffer
			to := otlp.Collector{URL: srv.URL, Headers: map[string]redact.String{"X-Key": "canary-key"}}
			tracer, flush, err := otlp.Open(t.Context(), to, "1.2.3", slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			_, end := tracer.Request(context.Background(), "tool exec")
			end("ok")
			if err := flush(context.Background()); err != nil {
				t.Error(err)
			}
			if c.asked != tt.asked || (len(c.spans) == 1) != tt.sent || c.key != "canary-key" {
				t.Errorf("asked %d times, got %q with key %q", c.asked, c.spans, c.key)
			}
			if (log.Len() > 0) != (tt.log != "") || !strings.Contains(log.String(), tt.log) || strings.Contains(log.String(), "canary") {
				t.Errorf("log %q, want %q", log.String(), tt.log)
			}
		})
	}
}
