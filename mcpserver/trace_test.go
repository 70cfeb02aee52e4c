package mcpserver_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/agentlab-mcp/agentlab/internal/span"
	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

// traced adds the traceparent that is set to each request.
type traced struct{ parent atomic.Pointer[string] }

func (c *traced) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if p := c.parent.Load(); p != nil {
		r.Header.Set("Traceparent", *p)
	}
	return http.DefaultTransport.RoundTrip(r)
}

// The client's trace is that of the request, else that of the header, else a new
// one; and who does not record his is not recorded.
func TestTraceOfTheClient(t *testing.T) {
	const (
		header  = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		request = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
		silent  = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
	)
	spans := tracetest.NewInMemoryExporter()
	call := func(context.Context, json.RawMessage) tools.Result {
		return tools.Result{Outcome: "conflict", IsError: true}
	}
	server := &mcpserver.Server{
		Version: "1", Log: slog.New(slog.DiscardHandler), Trace: span.New(sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))),
		Tools: []tools.Tool{{Name: "works", Scope: sessions.ScopeRead, Call: call}},
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.ServeHTTPOn(ctx, ln, mcpserver.HTTP{}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	var sent traced
	client, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil).Connect(t.Context(),
		&mcp.StreamableClientTransport{Endpoint: "http://" + ln.Addr().String() + "/mcp", HTTPClient: &http.Client{Transport: &sent}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, tt := range []struct {
		name, header string
		request      any
		want         string // trace and parent
	}{
		{"header", header, nil, "0af7651916cd43dd8448eb211c80319c b7ad6b7169203331"},
		{"request", header, request, "4bf92f3577b34da6a3ce929d0e0e4736 00f067aa0ba902b7"},
		{"request-is-none", header, "canary", "0af7651916cd43dd8448eb211c80319c b7ad6b7169203331"},
		{"request-is-no-text", header, 7, "0af7651916cd43dd8448eb211c80319c b7ad6b7169203331"},
		{"not-recorded", header, silent, ""},
		{"neither", "", nil, "new 0000000000000000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spans.Reset()
			sent.parent.Store(&tt.header)
			params := &mcp.CallToolParams{Name: "works"}
			if tt.request != nil {
				params.Meta = mcp.Meta{"traceparent": tt.request}
			}
			if _, err := client.CallTool(t.Context(), params); err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, s := range spans.GetSpans() {
				trace := s.SpanContext.TraceID().String()
				if !s.Parent.IsValid() {
					trace = "new"
				}
				got += trace + " " + s.Parent.SpanID().String()
				if s.Name != "tool works" || s.Status.Description != "conflict" {
					t.Errorf("span %q, %+v", s.Name, s.Status)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("spans (-want +got):\n%s", diff)
			}
		})
	}
}
