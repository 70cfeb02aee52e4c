package redact_test

import (
	"bytes"
	"encoding/json"
	"errors"
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
		`got "agentlab@pve!t1=` + uuid + `", want a name`:                    `got "agentlab@pve!t1=[redacted]", want a name`,
		"agentlab@pve!t1=hunter2 and more":                                   "agentlab@pve!t1=[redacted] and more",
		"secret " + uuid:                                                     "secret [redacted]",
		"https://root:hunter2@pve:8006/":                                     "https://[redacted]@pve:8006/",
		"a token agentlab_abcdefghij_abcdefghijklmnop here":                  "a token [redacted] here",
		"curl -H 'Authorization: Bearer abc.def-123' url":                    "curl -H 'Authorization: Bearer [redacted]' url",
		"AWS_SECRET_ACCESS_KEY=abc/def run; DB_PASSWORD='x y'":               "AWS_SECRET_ACCESS_KEY=[redacted] run; DB_PASSWORD=[redacted]",
		"login --password hunter2 --token-file path":                         "login --password [redacted] --token-file path",
		"git push ghp_0123456789abcdefABCD":                                  "git push [redacted]",
		"jwt eyJhbGciOiJIUzI1.eyJzdWIiOiIx.c2ln":                             "jwt [redacted]",
		"-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\nafter": "[redacted]\nafter",
		"cat token.txt; make secret":                                         "cat token.txt; make secret",
		"root@pve:22 has no node pve-1 at https://pve/x":                     "root@pve:22 has no node pve-1 at https://pve/x",
	} {
		if got := redact.Text(text); got != want {
			t.Errorf("Text(%s) = %s, want %s", text, got, want)
		}
	}
}

// A secret that shows what it is is masked wherever it stands.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "--token", "bearer", "password=\"", "://x", "-----BEGIN PRIVATE KEY-----", "a!b=", "eyJ"} {
		f.Add(s, "")
		f.Add("x", s)
	}
	secrets := []string{
		"agentlab_abcdefghij_abcdefghijklmnopqrstuvwxyz", "ghp_0123456789abcdefABCD", "glpat-0123-56789abcdef", "AKIAIOSFODNN7EXAMPLE",
		"eyJhbGciOiJIUzI1.eyJzdWIiOiIx.c2lnbmF0-XJl", "0a1b2c3d-1111-2222-3333-444455556666",
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		for _, s := range secrets {
			text, rest := before+" "+s+" "+after, s[len(s)/2:]
			if !strings.Contains(before+after, rest) && strings.Contains(redact.Text(text), rest) {
				t.Errorf("Text(%q) = %q", text, redact.Text(text))
			}
		}
	})
}

// What is so short that it is not looked at has none of the forms.
func FuzzShortText(f *testing.F) {
	for _, s := range []string{"basic abcdef", "basic\tabcde", "!a=x", "a!b=c", "://x@", "--token x", "token=x", "hf_012345678", "eyJ012345.x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got, want := redact.Text(text), redact.Slowly(text); got != want {
			t.Errorf("Text(%q) = %q, want %q", text, got, want)
		}
	})
}

// What is logged is masked wherever it stands in a line, and nothing else is.
func FuzzAttr(f *testing.F) {
	f.Add("runsc said ", " and ended", 7)
	f.Fuzz(func(t *testing.T, before, after string, n int) {
		const secret, rest = "ghp_0123456789abcdefABCD", "9abcdefABCD"
		if strings.Contains(before+after, rest) {
			t.Skip("it is what else there is")
		}
		var log strings.Builder
		h := slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: redact.Attr})
		text := before + " " + secret + " " + after
		slog.New(h).With("with", text).WithGroup("group").Info("said", "text", text, "err", fmt.Errorf("wrapped: %w", errors.New(text)),
			slog.Group("inner", "text", text), "n", n, "none", error(nil))
		if strings.Contains(log.String(), rest) || !strings.Contains(log.String(), fmt.Sprintf("group.n=%d group.none=<nil>", n)) {
			t.Errorf("logged %s", log.String())
		}
	})
}
