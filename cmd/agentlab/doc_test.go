package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/term"
	"mvdan.cc/sh/v3/syntax"
)

// docMain is the command doc of the scripts: "doc FILE WORDS..." runs the command of
// a document that begins with these words, as a reader would, and fails if there is
// none. "doc -block FILE WORD..." prints the block that begins so. What
// stands in a document for something else, such as the name of a server, is in the
// script's file stands: lines of WHAT = THAT, with variables in THAT.
func docMain() {
	args := os.Args[1:]
	asBlock := args[0] == "-block"
	if asBlock {
		args = args[1:]
	}
	doc, err := readDoc(args[0])
	exitOn(err)
	begins := strings.Join(args[1:], " ")
	if asBlock {
		for _, b := range doc.blocks {
			if strings.HasPrefix(b.text, begins) {
				text, err := stands(b.text)
				exitOn(err)
				fmt.Print(text)
				return
			}
		}
		exitOn(fmt.Errorf("%s: no block begins with %q", args[0], begins))
	}
	command, err := doc.find(begins)
	exitOn(err)
	command, err = stands(command)
	exitOn(err)
	if !term.IsTerminal(int(os.Stderr.Fd())) {
		fmt.Fprintln(os.Stderr, "$", command)
	}
	exitOn(syscall.Exec("/bin/bash", []string{"bash", "-c", command}, os.Environ())) // a signal is for it
}

// stands puts what is meant in the place of what stands for it.
func stands(text string) (string, error) {
	table, err := os.ReadFile(filepath.Join(os.Getenv("WORK"), "stands"))
	if errors.Is(err, os.ErrNotExist) {
		return text, nil
	}
	for line := range strings.Lines(string(table)) {
		if what, that, ok := strings.Cut(strings.TrimSpace(line), " = "); ok {
			text = strings.ReplaceAll(text, what, os.ExpandEnv(that))
		}
	}
	return text, err
}

// document is one, as a reader takes it who does what it says.
type document struct {
	name   string
	blocks []docBlock
	spans  []string // of code, within the text, that are commands of ours
}

// docBlock is a block of code.
type docBlock struct{ lang, text string }

// readDoc reads a document of this repository.
func readDoc(name string) (document, error) {
	const fence = "```"
	text, err := os.ReadFile(filepath.Join(cmp.Or(os.Getenv("DOCS"), "../.."), name))
	if err != nil {
		return document{}, err
	}
	d := document{name: name}
	fenced := regexp.MustCompile(`(?ms)^( *)` + fence + `(\w*)\n(.*?)^ *` + fence + `$`)
	for _, m := range fenced.FindAllStringSubmatch(string(text), -1) {
		d.blocks = append(d.blocks, docBlock{m[2], regexp.MustCompile(`(?m)^`+m[1]).ReplaceAllString(m[3], "")})
	}
	rest := oneLine(fenced.ReplaceAllString(string(text), ""))
	for _, span := range regexp.MustCompile("`((?:agentlab|agentlab-service|make) [^`:]*)`").FindAllStringSubmatch(rest, -1) {
		d.spans = append(d.spans, span[1])
	}
	return d, nil
}

func oneLine(text string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(text, "\\\n", " ")), " ")
}

// commands returns what a block has a reader type.
func (b docBlock) commands() ([]string, error) {
	text := b.text
	switch b.lang {
	case "sh":
	case "console":
		text = strings.Join(regexp.MustCompile(`(?m)^\$ .*$`).FindAllString(text, -1), "\n")
		text = regexp.MustCompile(`(?m)^\$ `).ReplaceAllString(text, "")
	default:
		return nil, nil
	}
	file, err := syntax.NewParser().Parse(strings.NewReader(text), "")
	if err != nil {
		return nil, err
	}
	var all []string
	for _, s := range file.Stmts {
		all = append(all, text[s.Pos().Offset():s.End().Offset()])
	}
	return all, nil
}

// commands returns those of all blocks.
func (d document) commands() ([]string, error) {
	var all []string
	for _, b := range d.blocks {
		some, err := b.commands()
		if err != nil {
			return nil, fmt.Errorf("%s: %w in\n%s", d.name, err, b.text)
		}
		all = append(all, some...)
	}
	return all, nil
}

// find returns the command that begins so: of blocks or else within the text.
func (d document) find(begins string) (string, error) {
	commands, err := d.commands()
	if err != nil {
		return "", err
	}
	for _, list := range [][]string{commands, d.spans} {
		if i := slices.IndexFunc(list, func(c string) bool { return oneLine(c) == begins }); i >= 0 {
			return list[i], nil
		}
		if i := slices.IndexFunc(list, func(c string) bool { return strings.HasPrefix(oneLine(c), begins+" ") }); i >= 0 {
			return list[i], nil
		}
	}
	return "", fmt.Errorf("%s: no command begins with %q", d.name, begins)
}

// documents are all that a user or a contributor reads.
func documents(t *testing.T) []document {
	t.Helper()
	names, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(names) < 10 {
		t.Fatalf("found %q, %v", names, err)
	}
	var all []document
	for _, name := range append([]string{"../../README.md", "../../CONTRIBUTING.md", "../../SECURITY.md"}, names...) {
		d, err := readDoc(strings.TrimPrefix(name, "../../"))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	return all
}

// TestDocCommandsExist holds each command of ours in the documents, run or not,
// against the program and the Makefile: there is such a command, and it takes these
// flags and arguments.
func TestDocCommandsExist(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, d := range documents(t) {
		commands, err := d.commands()
		if err != nil {
			t.Fatal(err)
		}
		for i, text := range append(commands, d.spans...) {
			file, err := syntax.NewParser().Parse(strings.NewReader(text), "")
			if err != nil {
				t.Fatalf("%s: %s: %v", d.name, text, err)
			}
			syntax.Walk(file, func(n syntax.Node) bool {
				if call, ok := n.(*syntax.CallExpr); ok {
					if err := checkCall(call, string(makefile), i < len(commands)); err != nil {
						t.Errorf("%s: %s: %v", d.name, text, err)
					}
					seen++
				}
				return true
			})
		}
	}
	if seen < 100 {
		t.Errorf("found %d commands", seen)
	}
}

// checkCall says what of a command there is not. One that is only mentioned need
// not be whole.
func checkCall(call *syntax.CallExpr, makefile string, whole bool) error {
	var words []string
	for _, w := range call.Args {
		words = append(words, wordText(w))
	}
	placeholder := regexp.MustCompile(`^[A-Z]+$|^\.\.\.$`)
	for i := len(words) - 1; i > 0 && !whole; i-- {
		if placeholder.MatchString(words[i]) && !strings.HasPrefix(words[i-1], "-") { // else it is a flag's value
			words = slices.Delete(words, i, i+1)
		}
	}
	switch cmp.Or(append(words, "")[0], "-") {
	case "agentlab", "agentlab-service":
		return checkOurs(words[1:], whole)
	case "make":
		for _, w := range words[1:] {
			name, _, set := strings.Cut(w, "=")
			if set && !strings.Contains(makefile, "$("+name+")") || !set && !strings.Contains(makefile, "\n"+name+":") {
				return fmt.Errorf("the Makefile has no %s", name)
			}
		}
	}
	return nil
}

func checkOurs(words []string, whole bool) error {
	root := newRootCommand()
	root.InitDefaultHelpCmd()
	cmd, rest, err := root.Find(words)
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		if strings.Contains(err.Error(), "help requested") {
			return nil
		}
		return err
	}
	if !whole {
		return nil
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

// wordText is a word of a shell without its quotes, with x for what it expands to.
func wordText(w *syntax.Word) string {
	var b strings.Builder
	syntax.Walk(w, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.Lit:
			b.WriteString(n.Value)
		case *syntax.SglQuoted:
			b.WriteString(n.Value)
		case *syntax.CmdSubst, *syntax.ParamExp, *syntax.ProcSubst:
			b.WriteString("x")
			return false
		}
		return true
	})
	return b.String()
}

// notRun are the commands of blocks that no test types, and why not. They are held
// against the program all the same, as all are.
func notRun() map[string]map[string]string {
	ci := "a suite of .ci/run is just this"
	long := "it takes too long for a test; its parts are tested"
	return map[string]map[string]string{
		"README.md": {
			"make demo": ci, "make test": ci, "make install": ci,
		},
		"CONTRIBUTING.md": {
			"make demo": ci, "make test": ci, "make crashes": "make test runs it", "make load": long, "make e2e": ci, "make vm": ci, "make soak": long,
			"make lint": ci, "make packages": "who changes packages runs it, as root", "make bench": ci, ".ci/run": "it runs the tests",
			"AGENTLAB_PVE_URL=https://pve:8006":          "it wants a Proxmox VE; the same suite runs on the simulated one",
			"make build && go test":                      "a test of internal/crashtest",
			"go test -run Reference":                     "tests of internal/reference and internal/obs",
			"CGO_ENABLED=0 go test ./internal/histories": "tests of internal/histories",
		},
		"docs/upgrade.md": {
			"pkill": "it would end daemons of whoever runs the test; the script ends its own",
		},
		"docs/service.md": {
			"apt install": "it changes this system; make packages installs the package on a copy of it",
		},
	}
}

// TestDocsAreRun sees to it that each command in a block of a document is typed by a
// test, or is named in notRun with the reason why not.
func TestDocsAreRun(t *testing.T) {
	typed := typedByScripts(t)
	for _, d := range documents(t) {
		commands, err := d.commands()
		if err != nil {
			t.Fatal(err)
		}
		used := map[string]bool{}
		for _, c := range commands {
			if slices.Contains(consoleDocs(), d.name) {
				continue
			}
			known := slices.ContainsFunc(typed[d.name], func(begins string) bool {
				found, err := d.find(begins)
				return err == nil && found == c
			})
			for begins := range notRun()[d.name] {
				if strings.HasPrefix(oneLine(c), begins) {
					used[begins], known = true, true
				}
			}
			if !known {
				t.Errorf("%s: no test types %q", d.name, c)
			}
		}
		for begins := range notRun()[d.name] {
			if !used[begins] {
				t.Errorf("%s has no %q any more: remove it from notRun", d.name, begins)
			}
		}
	}
}

// typedByScripts returns, by document, with what words the scripts name its commands.
func typedByScripts(t *testing.T) map[string][]string {
	t.Helper()
	typed := map[string][]string{}
	for _, pattern := range []string{"testdata/docs/*.txtar", "testdata/day/*.txtar"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: %q, %v", pattern, names, err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`(?m)^[^#\n]*\bdoc (\S+\.md) (.+?)(?: &\w*&?)?$`).FindAllStringSubmatch(string(text), -1) {
				typed[m[1]] = append(typed[m[1]], unquoted(m[2]))
			}
		}
	}
	return typed
}

// unquoted is the rest of a line of a script without its quotes.
func unquoted(line string) string {
	return strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(line, "''", "\x00"), "'", ""), "\x00", "'")
}
