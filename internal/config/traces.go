package config

import (
	"cmp"
	"fmt"
	"net/url"
	"strings"

	"github.com/agentlab-mcp/agentlab/internal/redact"
)

// Traces is where traces of requests are sent.
type Traces struct {
	// address of a collector of OpenTelemetry that traces of requests are sent to, such as `http://127.0.0.1:4318`;
	// empty is what its own variables say, or none: docs/traces.md
	Endpoint string `yaml:"otlp_endpoint"`
}

func (t Traces) validate(p *problems) {
	p.check(t.Endpoint == "" || isCollector(t.Endpoint),
		"otlp_endpoint: got %q, want http://HOST:PORT or https://HOST:PORT; credentials belong in the variable OTEL_EXPORTER_OTLP_HEADERS", t.Endpoint)
}

// spoken is the protocol of OTLP that traces are sent by.
const spoken = "http/protobuf"

// Collector returns the URL that spans are POSTed to, and the headers that go with
// them; both are empty if traces are sent nowhere. What the file does not say is
// in OpenTelemetry's variables; headers are nowhere else, since they are
// credentials.
//
// Source: OpenTelemetry specification, "OpenTelemetry Protocol Exporter".
func (t Traces) Collector(env func(string) string) (to string, headers map[string]redact.String, err error) {
	from := "otlp_endpoint"
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"} {
		if t.Endpoint == "" {
			from, t.Endpoint = name, env(name)
		}
	}
	if t.Endpoint == "" || env("OTEL_SDK_DISABLED") == "true" || from != "otlp_endpoint" && env("OTEL_TRACES_EXPORTER") == "none" {
		return "", nil, nil
	}
	protocol := cmp.Or(env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), env("OTEL_EXPORTER_OTLP_PROTOCOL"), spoken)
	if from != "otlp_endpoint" && protocol != spoken {
		return "", nil, fmt.Errorf("%s is for %s, but only %s is spoken: set otlp_endpoint to a collector that takes it", from, protocol, spoken)
	}
	if !isCollector(t.Endpoint) {
		return "", nil, fmt.Errorf("%s: got %q, want http://HOST:PORT or https://HOST:PORT", from, redact.Text(t.Endpoint))
	}
	headers = map[string]redact.String{}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"} {
		if err := addHeaders(headers, env(name)); err != nil {
			return "", nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if from != "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" { // which is taken as it is
		t.Endpoint = strings.TrimSuffix(t.Endpoint, "/") + "/v1/traces"
	}
	return t.Endpoint, headers, nil
}

func addHeaders(to map[string]redact.String, list string) error {
	for pair := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' }) {
		name, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
		value, err := url.PathUnescape(value)
		if err != nil || name == "" || value == "" || strings.ContainsFunc(name+value, isControl) || strings.ContainsAny(name, " :\"") {
			return fmt.Errorf("want NAME=VALUE,NAME=VALUE, each value percent-encoded") // and not what it is
		}
		to[name] = redact.String(value)
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func isCollector(address string) bool {
	u, err := url.Parse(address)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == ""
}
