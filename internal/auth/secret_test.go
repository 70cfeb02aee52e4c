package auth

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/redact"
)

// The form that the documentation gives to secret scanners.
var documented = regexp.MustCompile(`^agentlab_[a-z2-7]{10}_[a-z2-7]{59}$`)

func TestNewSecrets(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		text, id := newSecret()
		if !documented.MatchString(text.Reveal()) {
			t.Fatalf("token %q has another form", text.Reveal())
		}
		if got, err := parse(text); err != nil || got != id || nameForm.MatchString(id) && !strings.HasPrefix(id, idPrefix) {
			t.Fatalf("parse: %q, %v; want %q", got, err, id)
		}
		if seen[text.Reveal()] || seen[id] {
			t.Fatalf("%s came twice", id)
		}
		seen[text.Reveal()], seen[id] = true, true
	}
}

// A token that was mistyped or cut is told from one that is unknown.
func TestDamagedTokens(t *testing.T) {
	text, _ := newSecret()
	whole := text.Reveal()
	for i := range len(whole) {
		other := "a"
		if whole[i] == 'a' {
			other = "b"
		}
		for _, damaged := range []string{whole[:i], whole[:i] + other + whole[i+1:], whole[:i] + whole[i+1:]} {
			if _, err := parse(redact.String(damaged)); !errors.Is(err, ErrUnauthenticated) {
				t.Fatalf("%q of %q: %v", damaged, whole, err)
			}
		}
	}
	for _, s := range []string{"", "agentlab_", whole + "\n", " " + whole, whole + whole, strings.ToUpper(whole)} {
		if _, err := parse(redact.String(s)); !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// FuzzParse: what parse takes is a token with a checksum that is right, and its
// errors never repeat what may be a secret.
func FuzzParse(f *testing.F) {
	text, _ := newSecret()
	f.Add(text.Reveal())
	f.Add("agentlab_aaaaaaaaaa_" + strings.Repeat("a", 59))
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := parse(redact.String(s))
		switch {
		case err == nil && (!documented.MatchString(s) || checksum(s[:len(s)-sumLen]) != s[len(s)-sumLen:] || s[9:19] != id[4:]):
			t.Fatalf("%q is taken as %q", s, id)
		case err != nil && !errors.Is(err, ErrUnauthenticated):
			t.Fatalf("%q: %v", s, err)
		case err != nil && len(s) > 20 && strings.Contains(err.Error(), s):
			t.Fatalf("the error repeats %q", s)
		}
	})
}
