package redact_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/redact"
)

func TestNeverPrinted(t *testing.T) {
	const secret = "hunter2-hunter2"
	values := map[string]any{
		"String": redact.String(secret),
		"Bytes":  redact.Bytes(secret),
		"inside": struct {
			S redact.String
			B redact.Bytes
		}{redact.String(secret), redact.Bytes(secret)},
	}
	for name, v := range values {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "v", v)
			slog.New(slog.NewTextHandler(&log, nil)).Info("m", "v", v)
			js, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			printed := []string{log.String(), string(js)}
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
				printed = append(printed, fmt.Sprintf(verb, v))
			}
			for _, p := range printed {
				if strings.Contains(p, secret) || strings.Contains(p, fmt.Sprintf("%x", secret)) {
					t.Errorf("secret printed: %s", p)
				}
			}
		})
	}
	if got := redact.String(secret).Reveal(); got != secret {
		t.Errorf("Reveal() = %q", got)
	}
}
