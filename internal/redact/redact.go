// Package redact keeps secrets out of everything that is printed. A secret is
// a type, so that forgetting to mask it is not possible: it masks itself in
// fmt, slog, JSON and text, and grep for Reveal lists every use.
package redact

import (
	"fmt"
	"io"
	"log/slog"
	"regexp"
)

const mask = "[redacted]"

// secrets are the forms of secrets that get into the wrong place: the secret of a
// Proxmox API token after its name or alone, and the password in a URL.
var secrets = regexp.MustCompile(`(![A-Za-z][A-Za-z0-9._-]*=)[^\s"']+|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}|(://)[^/\s"'@]+(@)`)

// Text masks what looks like a secret in a text that is to be shown, such as a
// value that somebody put where another was wanted.
func Text(text string) string { return secrets.ReplaceAllString(text, "${1}${2}"+mask+"${3}") }

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
