package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/agentlab-mcp/agentlab/internal/config"
)

// TestDocs does what the documents say: it runs the commands of their blocks of the
// kind console, those of a document one after the other, and compares what they print.
func TestDocs(t *testing.T) {
	bin := programs(t)
	dir := t.TempDir()
	var files []string
	for _, name := range consoleDocs() {
		d, err := readDoc(name)
		if err != nil {
			t.Fatal(err)
		}
		script := docScript(d)
		if strings.Count(script, "exec sh") < 3 {
			t.Fatalf("%s: found no commands", name)
		}
		files = append(files, filepath.Join(dir, filepath.Base(name)+".txtar"))
		if err := os.WriteFile(files[len(files)-1], []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := params(func(env *testscript.Env) error { return setup(env, bin) })
	p.Files = files
	testscript.Run(t, p)
}

// consoleDocs are the documents that TestDocs does as a whole.
func consoleDocs() []string { return []string{"docs/quickstart.md", "docs/operations.md"} }

var (
	// what differs each time: ids, times, durations, versions, paths.
	varies = regexp.MustCompile(`sb-\w{20}|\d\d\d\d-\d\d-\d\dT[\d:]+Z|\d+h\d+m|\d+m\d+s|\d+\.\d+\.\d+|/\S+`)
)

// docScript returns a script that runs the commands of a document. Each must
// succeed and print the lines that follow it there, in this order; "..." is any.
func docScript(doc document) string {
	var script strings.Builder
	var files strings.Builder
	n := 0
	for _, block := range doc.blocks {
		if block.lang != "console" {
			continue
		}
		for line := range strings.Lines(block.text) {
			line = strings.TrimSuffix(line, "\n")
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				if strings.HasPrefix(command, "pkill ") { // not those of whoever runs the test
					script.WriteString("daemon TERM\n")
					continue
				}
				n++
				fmt.Fprintf(&script, "exec sh step%d\n", n)
				fmt.Fprintf(&files, "-- step%d --\n%s\n", n, command)
			} else if line != "..." {
				fmt.Fprintf(&script, "stdout '^%s$'\n", pattern(line))
			}
		}
	}
	script.WriteString("exec sh end\ngone\ndaemon TERM\n" + files.String() +
		"-- end --\nagentlab sandbox list | tail -n +2 | cut -d' ' -f1 | xargs -r agentlab sandbox destroy\n")
	return script.String()
}

// pattern is a line of a document as what is printed must match it.
func pattern(line string) string {
	var b strings.Builder
	for i, part := range varies.Split(line, -1) {
		if i > 0 {
			b.WriteString(`\S+`)
		}
		b.WriteString(regexp.MustCompile(`( |\\s)+`).ReplaceAllString(regexp.QuoteMeta(part), " +"))
	}
	return strings.ReplaceAll(b.String(), "'", "''")
}

// TestTroubleshooting sees to it that the messages which are explained are ours.
func TestTroubleshooting(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "troubleshooting.md"))
	if err != nil {
		t.Fatal(err)
	}
	code := sources(t)
	rows := 0
	for _, row := range regexp.MustCompile("(?m)^\\| (`.*?) \\|").FindAllStringSubmatch(string(doc), -1) {
		for _, message := range regexp.MustCompile("`[^`]+`").FindAllString(row[1], -1) {
			rows++
			longest := ""
			for _, piece := range regexp.MustCompile(`\.\.\.|N of N|"`).Split(strings.Trim(message, "`"), -1) {
				if len(piece) > len(longest) {
					longest = piece
				}
			}
			if !strings.Contains(code, strings.TrimSpace(longest)) {
				t.Errorf("docs/troubleshooting.md explains %s, which nothing says: there is no %q", message, longest)
			}
		}
	}
	if rows < 10 {
		t.Errorf("found %d messages", rows)
	}
}

// sources are our programs, without tests.
func sources(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		all.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// TestDocConfigurations reads the configurations and profiles in the documents as the
// daemon would.
func TestDocConfigurations(t *testing.T) {
	read := 0
	for _, d := range documents(t) {
		for _, b := range d.blocks {
			if b.lang != "yaml" || strings.HasPrefix(b.text, "# prometheus.yml\n") {
				continue
			}
			file := "config.yaml"
			if strings.HasPrefix(b.text, "backend:") {
				file = "profiles/vm.yaml"
			} else if named := regexp.MustCompile(`^# (\S+\.yaml)\n`).FindStringSubmatch(b.text); named != nil {
				file = named[1]
			}
			dir := t.TempDir()
			text := strings.ReplaceAll(b.text, "AB:CD:...", strings.TrimSuffix(strings.Repeat("AB:", 32), ":"))
			if err := errors.Join(os.Mkdir(filepath.Join(dir, "profiles"), 0o700), os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
			if _, err := config.Load(filepath.Join(dir, "config.yaml")); err != nil {
				t.Errorf("%s: %v in\n%s", d.name, err, b.text)
			}
			read++
		}
	}
	if read < 6 {
		t.Errorf("read %d configurations", read)
	}
}
