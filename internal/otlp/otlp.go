// Package otlp sends traces to a collector, by OTLP over HTTP.
//
// The spans and their form are OpenTelemetry's. Sending them is ours, since
// otlptracehttp brings gRPC with it, which it does not use: 7 MB of program for a
// POST.
package otlp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/sethvargo/go-retry"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/internal/span"
)

const (
	sendLimit = 10 * time.Second // one try
	tries     = 3                // more, of what may work again
)

// Collector is where traces go.
type Collector struct {
	URL     string                   // that is POSTed to
	Headers map[string]redact.String // mostly credentials
}

// Open returns a tracer whose spans are sent to a collector in the background,
// and what sends the rest at the end, within the time of its ctx. Spans that can't
// be sent are lost, which is logged once until some are sent again.
func Open(ctx context.Context, to Collector, version string, log *slog.Logger) (*span.Tracer, func(context.Context) error, error) {
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "agentlab"), attribute.String("service.version", version)), resource.WithFromEnv())
	if err != nil {
		return nil, nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	client := &http.Client{Timeout: sendLimit, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	exporter := otlptrace.NewUnstarted(&sender{to: to, client: client, log: log})
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	return span.New(provider), provider.Shutdown, nil
}

// sender implements [otlptrace.Client].
type sender struct {
	to     Collector
	client *http.Client
	log    *slog.Logger

	mu   sync.Mutex
	lost bool // the last ones, which was logged
}

// Start is part of [otlptrace.Client].
func (*sender) Start(context.Context) error { return nil }

// Stop is part of [otlptrace.Client].
func (s *sender) Stop(context.Context) error {
	s.client.CloseIdleConnections()
	return nil
}

// UploadTraces sends spans. It returns no error, which OpenTelemetry would print,
// but logs it.
func (s *sender) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	// Of the same form as the ExportTraceServiceRequest that OTLP wants, which is in
	// a package with gRPC (opentelemetry-proto, trace.proto).
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err == nil {
		err = retry.Do(ctx, retry.WithMaxRetries(tries, retry.NewExponential(200*time.Millisecond)), func(ctx context.Context) error { return s.post(ctx, body) })
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && !s.lost {
		s.log.Warn("traces can't be sent and are lost", "err", err)
	}
	s.lost = err != nil
	return nil
}

func (s *sender) post(ctx context.Context, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.to.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	for key, value := range s.to.Headers {
		req.Header.Set(key, value.Reveal())
	}
	res, err := s.client.Do(req)
	if err != nil {
		return retry.RetryableError(err)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // so that the connection is used again
	err = errors.Join(err, res.Body.Close())
	switch res.StatusCode {
	case http.StatusOK, http.StatusAccepted, http.StatusNoContent:
		return err
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout: // OTLP/HTTP, "Retryable response codes"
		return retry.RetryableError(fmt.Errorf("%s answers %s", s.to.URL, res.Status))
	}
	return fmt.Errorf("%s answers %s", s.to.URL, res.Status)
}
