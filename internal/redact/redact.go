// Package redact keeps secrets out of everything that is printed. A secret is
// a type, so that forgetting to mask it is not possible: it masks itself in
// fmt, slog, JSON and text, and grep for Reveal lists every use.
package redact

import (
	"fmt"
	"io"
	"log/slog"
)

const mask = "[redacted]"

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
