package tools

import (
	"bytes"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

func TestClean(t *testing.T) {
	for _, tt := range []struct{ name, raw, want string }{
		{"plain", "a\tb\nc\n", "a\tb\nc\n"},
		{"colour", "\x1b[1;31mred\x1b[0m\n", "red\n"},
		{"title", "\x1b]0;title\x07x\x1b]8;;http://h\x1b\\link", "xlink"},
		{"unfinished-escape", "a\x1b[12", "a"},
		{"progress-bar", "10%\r50%\r100%\ndone\n", "100%\ndone\n"},
		{"crlf", "a\r\nb\r\n", "a\nb\n"},
		{"controls", "a\x00b\x07c\x7fd", "abcd"},
		{"invalid-utf8", "a\xff\xfeb", "a\uFFFD\uFFFDb"},
		{"unicode", "größe 日本", "größe 日本"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, clean([]byte(tt.raw))); diff != "" {
				t.Errorf("clean (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFitCutsAtLinesAndNamesTrueOffsets(t *testing.T) {
	lines := strings.Repeat("0123456789abcde\n", 1000) // 16 bytes each
	for _, tt := range []struct {
		name     string
		clip     guest.Clip
		budget   int
		head     string
		from, to int64
	}{
		{"fits", guest.Clip{Head: []byte("a\n"), Total: 2}, 100, "a\n", 0, 0},
		{"cut-by-us", guest.Clip{Head: []byte(lines), Total: 16000}, 100, lines[:48], 48, 16000 - 48},
		{"cut-by-guest", guest.Clip{Head: []byte(lines[:1000]), Tail: []byte(lines[:1001]), Total: 1e6}, 3000, lines[:992], 992, 1e6 - 1001 + 16},
		{"cut-by-both", guest.Clip{Head: []byte(lines[:1000]), Tail: []byte(lines[:1000]), Total: 1e6}, 100, lines[:48], 48, 1e6 - 40},
		{"one-long-line", guest.Clip{Head: bytes.Repeat([]byte("é"), 1000), Total: 2000}, 100, strings.Repeat("é", 50), 100, 1900},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := fit(tt.clip, tt.budget)
			if got.head != tt.head || got.from != tt.from || got.to != tt.to {
				t.Errorf("head %q, left out %d to %d; want %q, %d to %d", got.head, got.from, got.to, tt.head, tt.from, tt.to)
			}
			if n := utf8.RuneCountInString(got.head + got.tail); n > tt.budget {
				t.Errorf("%d characters, budget %d", n, tt.budget)
			}
		})
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("thousands(%d) = %s, want %s", n, got, want)
		}
	}
}

// FuzzClean holds the promises of the text functions for any bytes: what comes
// out is valid, printable, within its budget, and what the offsets of the
// marker name is exactly what is missing.
func FuzzClean(f *testing.F) {
	f.Add([]byte("a\r\x1b[31mb\n\xff\xe6\x97"), 3)
	f.Add([]byte("1\n2\n3\n4\n日本語日本語\n"), 5)
	f.Add([]byte("\x1b]0;x\x1b\\\r\r\n\x80\x80\x80\x80\x80"), 1)
	f.Fuzz(func(t *testing.T, raw []byte, budget int) {
		if budget < 0 || budget > 1<<20 {
			return
		}
		text := clean(raw)
		if !utf8.ValidString(text) {
			t.Fatalf("clean(%q) = %q is not valid UTF-8", raw, text)
		}
		if i := strings.IndexFunc(text, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }); i >= 0 {
			t.Fatalf("clean(%q) = %q has a control character", raw, text)
		}
		if n := utf8.RuneCountInString(text); n > len(raw) {
			t.Fatalf("clean(%q) has %d characters", raw, n)
		}
		c := fit(guest.Clip{Head: raw, Total: int64(len(raw))}, budget)
		if n := utf8.RuneCountInString(c.head + c.tail); n > budget {
			t.Fatalf("fit(%q, %d) has %d characters", raw, budget, n)
		}
		if !c.cut() {
			if c.head != text {
				t.Fatalf("fit(%q, %d) = %q, want all: %q", raw, budget, c.head, text)
			}
			return
		}
		if got := clean(raw[:c.from]); got != c.head {
			t.Fatalf("fit(%q, %d): head %q, bytes up to %d give %q", raw, budget, c.head, c.from, got)
		}
		if got := clean(raw[c.to:]); got != c.tail {
			t.Fatalf("fit(%q, %d): tail %q, bytes from %d give %q", raw, budget, c.tail, c.to, got)
		}
		if utf8.Valid(raw) && (!utf8.Valid(raw[:c.from]) || !utf8.Valid(raw[c.to:])) {
			t.Fatalf("fit(%q, %d) parts a rune at %d or %d", raw, budget, c.from, c.to)
		}
	})
}
