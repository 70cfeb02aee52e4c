// Package reference keeps what the documents say of the code as the code has it.
//
// A document has blocks that are not written by hand, each between
//
//	<!-- generated: NAME -->
//	<!-- end -->
//
// Tests make them of structs with their comments, of tools, metrics, events and
// errors, and fail where a document has another one. This writes them anew:
//
//	go test -run Reference ./internal/reference ./internal/obs -update
package reference

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the blocks of the documents anew")

// Keep holds a block of a document in docs against text, or writes it. root is
// the directory of the module.
func Keep(t *testing.T, root, doc, block, text string) {
	t.Helper()
	path := filepath.Join(root, "docs", doc)
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := fmt.Sprintf("<!-- generated: %s -->\n", block), "<!-- end -->"
	before, rest, ok := strings.Cut(string(old), begin)
	was, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("docs/%s has no block %q", doc, block)
	}
	text = "\n" + strings.TrimSpace(text) + "\n\n"
	switch {
	case was == text:
	case *update:
		if err := os.WriteFile(path, []byte(before+begin+text+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("docs/%s, %s is not what the code says; go test -run Reference ./internal/reference ./internal/obs -update writes it (-document +code):\n%s",
			doc, block, cmp.Diff(was, text))
	}
}

// Row is a row of a table in a document.
func Row(cells ...string) string {
	var b strings.Builder
	for _, c := range cells {
		b.WriteString("| ")
		if c != "" {
			b.WriteString(strings.ReplaceAll(strings.Join(strings.Fields(c), " "), "|", `\|`) + " ")
		}
	}
	return b.String() + "|\n"
}

// Head is the head of a table.
func Head(titles ...string) string {
	return Row(titles...) + strings.Repeat("|---", len(titles)) + "|\n"
}

var toDoc = regexp.MustCompile(`\bdocs/([a-z-]+)\.md(#[a-z-]+)?`)

// Linked makes links of the names of documents in a comment, for one of them.
func Linked(text, doc string) string {
	return toDoc.ReplaceAllStringFunc(text, func(name string) string {
		m := toDoc.FindStringSubmatch(name)
		if m[1]+".md" == doc {
			return "[below](" + m[2] + ")"
		}
		return fmt.Sprintf("[%s.md](%[1]s.md%s)", m[1], m[2])
	})
}
