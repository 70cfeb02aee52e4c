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

func TestTextMasksWhatLooksLikeASecret(t *testing.T) {
	const uuid = "0a1b2c3d-1111-2222-3333-444455556666"
	for text, want := range map[string]string{
		`got "agentlab@pve!t1=` + uuid + `", want a name`: `got "agentlab@pve!t1=[redacted]", want a name`,
		"agentlab@pve!t1=hunter2 and more":                "agentlab@pve!t1=[redacted] and more",
		"secret " + uuid:                                  "secret [redacted]",
		"https://root:hunter2@pve:8006/":                  "https://[redacted]@pve:8006/",
		"root@pve:22 has no node pve-1 at https://pve/x":  "root@pve:22 has no node pve-1 at https://pve/x",
	} {
		if got := redact.Text(text); got != want {
			t.Errorf("Text(%s) = %s, want %s", text, got, want)
		}
	}
}
