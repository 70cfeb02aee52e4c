// Package redact keeps secrets out of everything that is printed. A secret is
// a type, so that forgetting to mask it is not possible: it masks itself in
// fmt, slog, JSON and text, and grep for Reveal lists every use.
package redact

import (
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
)

const mask = "[redacted]"

// secrets are the forms of secrets that get into the wrong place. What a group
// holds is left.
var secrets = regexp.MustCompile(strings.Join([]string{
	`(![A-Za-z][A-Za-z0-9._-]*=)[^\s"']+`,                                          // the secret of a Proxmox API token after its name
	`[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}`,                         // or alone
	`(://)[^/\s"'@]+(@)`,                                                           // a password in a URL
	`agentlab_[a-z2-7]{10}_[a-z2-7]{8,}`,                                           // a token of ours
	`eyJ[\w-]{8,}\.[\w-]+\.?[\w-]*`,                                                // a JSON web token
	`\b(?:gh[a-z]_|github_pat_|glpat-|sk-|xox[a-z]-|npm_|hf_|AKIA|AIza)[\w-]{12,}`, // of services that mark theirs
	`(?i:(\b(?:bearer|basic)\s+)[\w.~+/=-]{6,})`,                                   // what an HTTP header has
	`(?i:([\w-]*(?:password|passwd|secret|token|api_?key|access_?key)[\w-]*=)(?:"[^"]*"|'[^']*'|[^\s"'&;]+))`, // an assignment
	`(?i:(--[\w-]*(?:password|passwd|secret|token|api-?key)[ \t]+)(?:"[^"]*"|'[^']*'|[^\s"'&;-][^\s"'&;]*))`,  // a flag
	`-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\z)`,
}, "|"))

// shortest is the length of the shortest secret without "=", "://" or "--" in or
// before it: "basic " and six characters. Most of what is logged is shorter.
const shortest = 12

// Text masks what looks like a secret in a text that is to be shown, such as a
// value that somebody put where another was wanted.
func Text(text string) string {
	if len(text) < shortest && !strings.ContainsAny(text, "=:") && !strings.Contains(text, "--") {
		return text
	}
	return replace(text)
}

func replace(text string) string {
	return secrets.ReplaceAllString(text, "${1}${2}${4}${5}${6}"+mask+"${3}")
}

// Attr is [Text] for the texts and errors in a line of a log, whoever has written
// them: a guest and Proxmox are quoted there, too. It is a ReplaceAttr of
// [slog.HandlerOptions].
func Attr(_ []string, a slog.Attr) slog.Attr {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindString {
		a.Value = slog.StringValue(Text(v.String()))
	}
	if err, ok := v.Any().(error); ok {
		a.Value = slog.StringValue(Text(fmt.Sprint(err))) // of a nil pointer, too
	}
	return a
}

// String is a secret text.
type String string

// Format masks the secret under every verb of fmt.
func (String) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, mask) }

// LogValue masks the secret in slog.
func (String) LogValue() slog.Value { return slog.StringValue(mask) }

// MarshalText masks the secret in JSON and YAML.
func (String) MarshalText() ([]byte, error) { return []byte(mask), nil }

// Reveal returns the secret itself.
func (s String) Reveal() string { return string(s) }

// Bytes is a secret key or other binary value.
type Bytes []byte

// Format masks the secret under every verb of fmt.
func (Bytes) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, mask) }

// LogValue masks the secret in slog.
func (Bytes) LogValue() slog.Value { return slog.StringValue(mask) }

// MarshalText masks the secret in JSON and YAML.
func (Bytes) MarshalText() ([]byte, error) { return []byte(mask), nil }

// Reveal returns the secret itself.
func (b Bytes) Reveal() []byte { return b }
