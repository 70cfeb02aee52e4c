package config_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/config"
)

func TestCollector(t *testing.T) {
	const headers = "OTEL_EXPORTER_OTLP_HEADERS"
	for name, tt := range map[string]struct {
		file string
		env  map[string]string
		to   string
		with map[string]string
		err  string
	}{
		"none":       {},
		"file":       {file: "http://a:4318", to: "http://a:4318/v1/traces"},
		"file-slash": {file: "https://a/otlp/", to: "https://a/otlp/v1/traces"},
		"file-first": {file: "http://a:4318", env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b"}, to: "http://a:4318/v1/traces"},
		"env":        {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b"}, to: "http://b/v1/traces"},
		"env-traces": {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x"}, to: "http://c/x"},
		"disabled":   {file: "http://a", env: map[string]string{"OTEL_SDK_DISABLED": "true"}},
		"env-none":   {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b", "OTEL_TRACES_EXPORTER": "none"}},
		"env-grpc": {
			env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
			err: "OTEL_EXPORTER_OTLP_ENDPOINT is for grpc, but only http/protobuf is spoken",
		},
		"headers": {
			file: "http://a", env: map[string]string{headers: "x-key=a%20b, authorization=Bearer%20c="},
			to: "http://a/v1/traces", with: map[string]string{"x-key": "a b", "authorization": "Bearer c="},
		},
		"env-no-url":     {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "b:4317"}, err: `OTEL_EXPORTER_OTLP_ENDPOINT: got "b:4317", want http://HOST:PORT`},
		"env-password":   {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://u:canary@b"}, err: "OTEL_EXPORTER_OTLP_ENDPOINT: got"},
		"header-none":    {file: "http://a", env: map[string]string{headers: "canary"}, err: headers + ": want NAME=VALUE"},
		"header-escape":  {file: "http://a", env: map[string]string{headers: "x=canary%zz"}, err: headers + ": want NAME=VALUE"},
		"header-newline": {file: "http://a", env: map[string]string{headers: "x=canary%0Ay"}, err: headers + ": want NAME=VALUE"},
	} {
		t.Run(name, func(t *testing.T) {
			to, secret, err := config.Traces{Endpoint: tt.file}.Collector(func(name string) string { return tt.env[name] })
			if (err != nil) != (tt.err != "") || err != nil && (!strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "canary")) {
				t.Fatalf("error %v, want %q", err, tt.err)
			}
			with := map[string]string{}
			for name, value := range secret {
				with[name] = value.Reveal()
			}
			if to != tt.to || !maps.Equal(with, tt.with) {
				t.Errorf("to %q with %q, want %q with %q", to, with, tt.to, tt.with)
			}
		})
	}
}
