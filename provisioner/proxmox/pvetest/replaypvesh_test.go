package pvetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// commandDiff runs a recorded pvesh.
func (r *replay) commandDiff(e recorded) string {
	argv, env := e.Argv, []string{"LANG=C.UTF-8"}
	if argv[0] == "env" {
		argv, env = argv[2:], argv[1:2]
	}
	var file string
	var ok bool
	r.srv.Edit(func(c *Cluster) { file, ok = firewallFiles(c, argv) })
	if ok {
		return filesDiff(e.Stdout, file)
	}
	if argv[0] != "pvesh" {
		return "no pvesh: " + argv[0]
	}
	args := slices.Clone(argv[1:])
	for i, a := range args {
		args[i] = r.oursInArgs(args, a)
		if m := tooLong.FindStringSubmatch(a); m != nil {
			n, _ := strconv.Atoi(m[1])
			args[i] = strings.Repeat(m[2], n/4) + m[2][:n%4]
		}
	}
	var out, errs bytes.Buffer
	code := r.srv.Pvesh(r.t.Context(), "pve", args, env, &out, &errs)
	for code == 0 && strings.Contains(out.String(), `{"exited":0}`) && strings.Contains(e.Stdout, `"exited":1`) {
		out.Reset()
		code = r.srv.Pvesh(r.t.Context(), "pve", args, env, &out, &errs)
	}
	r.learnOutput(e.Stdout, out.String())
	var diffs []string
	if code != e.Exit {
		diffs = append(diffs, fmt.Sprintf("exit code %d, want %d", code, e.Exit))
	}
	if masked(errs.String()) != masked(e.Stderr) {
		diffs = append(diffs, fmt.Sprintf("stderr:\n-%q\n+%q", e.Stderr, errs.String()))
	}
	if d := outputDiff(e.Stdout, out.String()); d != "" {
		diffs = append(diffs, d)
	}
	return strings.Join(diffs, "\n")
}

// tooLong is what the recording has in the place of a long argument.
var tooLong = regexp.MustCompile(`^\((\d+) chars\) (.{4})`)

// outputDiff compares line by line, what is JSON as JSON; lines of progress and
// what the recording cut off are left out.
func outputDiff(want, got string) string {
	if strings.HasPrefix(want, "(") {
		return ""
	}
	a, b := outputLines(want), outputLines(got)
	var diffs []string
	for i := range a {
		if i == len(b) {
			break
		}
		var x, y any
		if json.Unmarshal([]byte(a[i]), &x) == nil && json.Unmarshal([]byte(b[i]), &y) == nil {
			diffs = append(diffs, compare("", x, y)...)
		} else if masked(a[i]) != masked(b[i]) {
			diffs = append(diffs, "-"+a[i]+"\n+"+b[i])
		}
	}
	if len(a) != len(b) {
		diffs = append(diffs, fmt.Sprintf("%d lines of output, want %d", len(b), len(a)))
	}
	return strings.Join(diffs, "\n")
}

func outputLines(text string) []string {
	return slices.DeleteFunc(strings.Split(text, "\n"), func(l string) bool { return strings.HasPrefix(l, "transferred ") })
}

func (r *replay) oursInArgs(args []string, a string) string {
	a = r.ours(a)
	if i := slices.Index(args, "--pid"); i >= 0 && args[i+1] == a && r.pids[a] != "" {
		return r.pids[a]
	}
	return a
}

// learnOutput takes ids out of the last line that a pvesh printed.
func (r *replay) learnOutput(theirs, mine string) {
	a, b := strings.TrimSpace(theirs), strings.TrimSpace(mine)
	a, b = a[strings.LastIndex(a, "\n")+1:], b[strings.LastIndex(b, "\n")+1:]
	var x, y any
	if json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil {
		r.learn(map[string]any{"data": x}, map[string]any{"data": y})
	}
}

// rawBodies are those the recording left out.
var rawBodies = map[string]string{
	"JSON body: bad JSON":      `{"description":`,
	"unsupported content-type": "x",
	"DELETE with a body":       "purge=1",
}

// tooLarge are the forms that were too large to be recorded.
var tooLarge = map[string]func() url.Values{
	"description > 8 KiB":           func() url.Values { return url.Values{"description": {strings.Repeat("x", 9000)}} },
	"exec: input-data 64 KiB":       func() url.Values { return wc(65536) },
	"exec: input-data 64 KiB + 1":   func() url.Values { return wc(65537) },
	"exec: one argument of 100 KiB": func() url.Values { return url.Values{"command": {"/usr/bin/wc", "-c", strings.Repeat("x", 100<<10)}} },
	"exec: 2000 arguments": func() url.Values {
		args := []string{"/bin/echo"}
		for i := range 2000 {
			args = append(args, fmt.Sprint("arg", i))
		}
		return url.Values{"command": args}
	},
	"file-write content of 40000 chars (encode=1)": func() url.Values { return file(strings.Repeat("y", 40000)) },
	"file-write content of 61440 chars (encode=1)": func() url.Values { return file(strings.Repeat("y", 61440)) },
	"file-write content of 61441 chars (encode=1)": func() url.Values { return file(strings.Repeat("y", 61441)) },
	"file-write encode=0 with 61440 base64 chars = 46080 bytes": func() url.Values {
		v := file(strings.Repeat("enp6", 15360))
		v.Set("encode", "0")
		return v
	},
	"500 tags": func() url.Values {
		var tags []string
		for i := range 500 {
			tags = append(tags, fmt.Sprint("t", i))
		}
		return url.Values{"tags": {strings.Join(tags, ";")}}
	},
	"description: 8192 ASCII":                                                     func() url.Values { return url.Values{"description": {strings.Repeat("x", 8192)}} },
	"description: 8193 ASCII":                                                     func() url.Values { return url.Values{"description": {strings.Repeat("x", 8193)}} },
	"description: 8192 umlauts (16 KiB UTF-8)":                                    func() url.Values { return url.Values{"description": {strings.Repeat("ä", 8192)}} },
	"description: 4096 umlauts":                                                   func() url.Values { return url.Values{"description": {strings.Repeat("ä", 4096)}} },
	"description: one long line with percent":                                     func() url.Values { return url.Values{"description": {strings.Repeat("%", 4000)}} },
	"file-write 60 KiB content where every byte is escaped (%0A): form is 184 KB": func() url.Values { return file(strings.Repeat("\n", 61440)) },
}

func wc(n int) url.Values {
	return url.Values{"command": {"/usr/bin/wc", "-c"}, "input-data": {strings.Repeat("x", n)}}
}

func file(content string) url.Values { return url.Values{"file": {"/tmp/w"}, "content": {content}} }
