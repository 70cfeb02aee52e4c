package reference_test

import (
	"cmp"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/internal/reference"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/tools"
)

const root = "../.."

func read(t *testing.T, dir string) *reference.Source {
	t.Helper()
	s, err := reference.Read(filepath.Join(root, dir))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func keys(t *testing.T, s *reference.Source, v any, inline ...string) []reference.Key {
	t.Helper()
	all, err := s.Keys(reflect.ValueOf(v), "", inline...)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// table is a table of keys for configuration.md.
func table(keys []reference.Key) string {
	var b strings.Builder
	b.WriteString(reference.Head("key", "default", "meaning"))
	for _, k := range keys {
		b.WriteString(reference.Row("`"+k.Name+"`", k.Default, reference.Linked(k.Meaning, "configuration.md")))
	}
	return b.String()
}

func TestReferenceOfTheConfiguration(t *testing.T) {
	s, c := read(t, "internal/config"), config.Default()
	for block, list := range map[string][]reference.Key{
		"config.yaml":         keys(t, s, c, "Traces"),
		"config.yaml oauth":   keys(t, s, c.OAuth),
		"config.yaml http":    keys(t, s, c.HTTP),
		"config.yaml proxmox": keys(t, s, c.Proxmox),
	} {
		reference.Keep(t, root, "configuration.md", block, table(list))
	}
}

// Each key of a profile is in one of two tables: the second has those that only
// machines of a Proxmox have.
func TestReferenceOfProfiles(t *testing.T) {
	of := keys(t, read(t, "sessions"), sessions.Profile{}.WithDefaults())
	name, rest := of[:1], of[1:]
	own := keys(t, read(t, "internal/config"), onProxmox(t))
	all := slices.Concat(name, own, rest)
	var both, proxmox []reference.Key
	for _, k := range all {
		switch config.BackendOf(k.Name) {
		case "proxmox":
			proxmox = append(proxmox, k)
			continue
		case "local":
			k.Meaning = "of `local`: " + k.Meaning
		}
		both = append(both, k)
	}
	reference.Keep(t, root, "configuration.md", "profile", table(both))
	reference.Keep(t, root, "configuration.md", "profile proxmox", table(proxmox))
}

// onProxmox is a profile that says nothing but its backend.
func onProxmox(t *testing.T) config.Profile {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "profiles"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "profiles", "p.yaml"), []byte("backend: proxmox\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.LoadAll(filepath.Join(dir, "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return c.Profiles[slices.IndexFunc(c.Profiles, func(p config.Profile) bool { return p.Name == "p" })]
}

func TestReferenceOfTools(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for block, list := range map[string][]tools.Tool{"tools": tools.All(nil, nil, log), "tools of operators": tools.Admin(nil, nil, log)} {
		var b strings.Builder
		for _, tool := range list {
			fmt.Fprintf(&b, "### `%s`\n\n%s Needs the scope `%s`.\n", tool.Name, strings.Join(strings.Fields(tool.Description), " "), tool.Scope)
			if len(tool.Input.Properties) > 0 {
				b.WriteString("\n" + reference.Head("argument", "type", "default", "meaning"))
			}
			for _, p := range tool.Input.Properties {
				b.WriteString(reference.Row("`"+p.Name+"`", p.Type, preset(p), meaning(p)))
			}
			b.WriteString("\n")
		}
		reference.Keep(t, root, "reference.md", block, b.String())
	}
}

func preset(p tools.Property) string {
	switch {
	case p.Required:
		return "required"
	case p.Default == nil:
		return ""
	}
	return fmt.Sprintf("`%v`", p.Default)
}

// meaning is what is allowed and said of an argument.
func meaning(p tools.Property) string {
	var allowed string
	switch {
	case len(p.Enum) > 0:
		allowed = "`" + strings.Join(p.Enum, "`, `") + "`"
	case p.Min != nil && p.Max != nil:
		allowed = fmt.Sprintf("%d to %d", *p.Min, *p.Max)
	case p.Min != nil:
		allowed = fmt.Sprintf("%d or more", *p.Min)
	case p.Max != nil:
		allowed = fmt.Sprintf("at most %d", *p.Max)
	}
	return strings.Join(slices.DeleteFunc([]string{p.Description, allowed}, func(s string) bool { return s == "" }), "; ")
}

func TestReferenceOfEvents(t *testing.T) {
	kinds := read(t, "sessions").Consts["What"]
	text := reference.Head("what", "meaning")
	for _, c := range kinds {
		if c.Comment == "" {
			t.Errorf("%s has no comment", c.Name)
		}
		text += reference.Row("`"+c.Value+"`", c.Comment)
	}
	reference.Keep(t, root, "reference.md", "events", text)
	states := reference.Head("state", "meaning")
	for _, c := range read(t, "sessions").Consts["State"] {
		states += reference.Row("`"+c.Value+"`", c.Comment)
	}
	reference.Keep(t, root, "reference.md", "states", states)
}

func TestReferenceOfErrors(t *testing.T) {
	text := reference.Head("kind", "meaning", "exit code")
	kinds, codes := read(t, "sessions").Consts["Kind"], codesOf(t)
	for i, c := range kinds {
		kind := sessions.Kind(i).String()
		text += reference.Row("`"+kind+"`", c.Comment, cmp.Or(codes[kind], "1"))
	}
	if len(kinds) < 6 || strings.HasPrefix(sessions.Kind(len(kinds)-1).String(), "kind(") {
		t.Errorf("kinds are %+v", kinds)
	}
	reference.Keep(t, root, "reference.md", "errors", text)
	reference.Keep(t, root, "reference.md", "exit codes", exitCodes(t))
}

// codesOf returns the exit codes that commands have for kinds of errors.
func codesOf(t *testing.T) map[string]string {
	t.Helper()
	dir := "cmd/agentlab/internal/cli"
	text, err := os.ReadFile(filepath.Join(root, dir, "client.go"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "codes := map[string]int{")
	table, _, _ = strings.Cut(table, "}")
	codes := map[string]string{}
	for _, m := range regexp.MustCompile(`"(\w+)": (\w+)`).FindAllStringSubmatch(table, -1) {
		for _, c := range read(t, dir).Consts[""] {
			if c.Name == m[2] {
				codes[m[1]] = c.Value
			}
		}
	}
	if len(codes) < 4 {
		t.Errorf("exit codes of kinds are %v", codes)
	}
	return codes
}

// exitCodes are those of all commands, as their help has them.
func exitCodes(t *testing.T) string {
	t.Helper()
	codes := map[string]string{}
	for _, dir := range []string{"cmd/agentlab", "cmd/agentlab/internal/cli"} { // the second one says more of those that both have
		help := read(t, dir).Texts["exitCodes"]
		for _, m := range regexp.MustCompile(`(?m)^  (\d+) +(.+)$`).FindAllStringSubmatch(help, -1) {
			codes[m[1]] = m[2]
		}
	}
	text := reference.Head("exit code", "meaning")
	list := slices.SortedFunc(maps.Keys(codes), func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b)) })
	for _, code := range list {
		text += reference.Row(code, codes[code])
	}
	if len(list) < 9 {
		t.Errorf("exit codes are %v", list)
	}
	return text
}

// Nothing is recorded that the reference has not.
func TestReferenceHasEveryEvent(t *testing.T) {
	literal := regexp.MustCompile(`\bEvent\{[^}]*\bWhat: +"`)
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		files++
		if literal.Match(text) {
			t.Errorf("%s records an event by a text of its own; want one of the constants of sessions.What", path)
		}
		return err
	})
	if err != nil || files < 100 {
		t.Errorf("%d files, %v", files, err)
	}
}
