package pve

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// PVE is written in Perl: whether a number arrives as 1, "1" or "" depends on
// how it was last used. These types take whatever comes (measured: nextid
// "100", memory "384", cores 1, pos "0").

// Int is a whole number; null and "" are 0.
type Int int64

// UnmarshalJSON implements json.Unmarshaler.
func (n *Int) UnmarshalJSON(b []byte) error {
	s, err := scalar(b)
	if err != nil || s == "" {
		*n = 0
		return err
	}
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		*n = Int(i)
		return nil
	}
	f, err := strconv.ParseFloat(s, 64) // 1.5e9, 0.25
	if err != nil {
		return fmt.Errorf("%q is not a number", s)
	}
	*n = Int(f)
	return nil
}

// Float is a number; null and "" are 0.
type Float float64

// UnmarshalJSON implements json.Unmarshaler.
func (n *Float) UnmarshalJSON(b []byte) error {
	s, err := scalar(b)
	if err != nil || s == "" {
		*n = 0
		return err
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return fmt.Errorf("%q is not a number", s)
	}
	*n = Float(f)
	return nil
}

// Bool is true for 1, "1" and true.
type Bool bool

// UnmarshalJSON implements json.Unmarshaler.
func (v *Bool) UnmarshalJSON(b []byte) error {
	s, err := scalar(b)
	if err != nil {
		return err
	}
	switch strings.ToLower(s) {
	case "", "0", "off", "no", "false":
		*v = false
	case "1", "on", "yes", "true":
		*v = true
	default:
		return fmt.Errorf("%q is neither true nor false", s)
	}
	return nil
}

// Text is a string; a number is taken as written, true is 1.
type Text string

// UnmarshalJSON implements json.Unmarshaler.
func (t *Text) UnmarshalJSON(b []byte) error {
	s, err := scalar(b)
	*t = Text(s)
	return err
}

// scalar returns the text of a JSON string, number, boolean or null.
func scalar(b []byte) (string, error) {
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return "", nil
	}
	switch b[0] {
	case '"':
		var s string
		err := json.Unmarshal(b, &s)
		return s, err
	case '{', '[':
		return "", fmt.Errorf("%.20q is not a plain value", b)
	case 'n':
		return "", nil
	case 't':
		return "1", nil
	case 'f':
		return "0", nil
	}
	return string(b), nil
}

// Bytes is data of the guest. PVE hands each byte over as one character
// U+0000 to U+00FF (PVE::QemuServer::Agent decodes base64 into a Perl string),
// so that text looks garbled and nothing is lost; Bytes are the bytes.
type Bytes []byte

// UnmarshalJSON implements json.Unmarshaler. It reads strings by itself, once:
// there are megabytes of them.
func (d *Bytes) UnmarshalJSON(b []byte) error {
	if b = bytes.TrimSpace(b); len(b) < 2 || b[0] != '"' {
		s, err := scalar(b)
		*d = Bytes(s)
		return err
	}
	s := string(b[1 : len(b)-1])
	out := make([]byte, 0, len(s))
	for len(s) > 0 {
		r, n := rune(s[0]), 1
		switch {
		case r >= utf8.RuneSelf:
			r, n = utf8.DecodeRuneInString(s)
		case strings.HasPrefix(s, `\/`):
			r, n = '/', 2
		case r == '\\': // Go has JSON's other escapes, too
			c, _, rest, err := strconv.UnquoteChar(s, '"')
			if err != nil {
				return fmt.Errorf("%.12q is no byte", s)
			}
			r, n = c, len(s)-len(rest)
		}
		if r > 0xff {
			return fmt.Errorf("character %U is not a byte", r)
		}
		out, s = append(out, byte(r)), s[n:]
	}
	*d = out
	return nil
}

// latin1 is the reverse of Bytes: text whose characters are the bytes of data.
// PVE sends each as one byte (measured).
func latin1(data []byte) string {
	out := make([]byte, 0, len(data)+len(data)/4)
	for _, b := range data {
		out = utf8.AppendRune(out, rune(b))
	}
	return string(out)
}

// isASCII reports whether s may be a command argument or a path of an agent
// call. Anything else cuts the agent's JSON short, and the agent stays deaf
// until it or the machine is restarted (PVE/QMPClient.pm counts characters
// where it sends bytes; measured on 8.4 and 9.2). NUL ends a C string.
func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r == 0 || r > 0x7f })
}
