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
	if cut := want != "" && !strings.HasSuffix(want, "\n"); cut && len(b) >= len(a) {
		a = a[:len(a)-1]
		b = b[:len(a)]
	}
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

// completed adds a command that was left out of the recording because it
// follows from the one before it.
func (r *replay) completed(e recorded) recorded {
	if strings.HasSuffix(e.Title, " -> exec-status") && e.Stdout != "" && e.Argv == nil {
		e.Argv = []string{"pvesh", "get", "/nodes/pve/qemu/170/agent/exec-status", "--pid", r.pid, "--output-format", "json"}
	}
	return e
}

// cutPath is what the recording has in the place of a long path.
var cutPath = regexp.MustCompile(`^(.*?)(.)\.\.\.\((\d+) chars\)$`)

// whole is a path of which only the beginning and the length were recorded: it
// goes on as it began.
func whole(path string) string {
	m := cutPath.FindStringSubmatch(path)
	if m == nil {
		return path
	}
	n, _ := strconv.Atoi(m[3])
	return m[1] + strings.Repeat(m[2], n-len(m[1]))
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

func transcript70() *transcript {
	const deaf, event, qm = "how long the agent stays deaf is up to the order of keys in Perl", "TestPveshEndedInTheMiddle", "qm is not simulated"
	return &transcript{guests: true, prepare: func(_ *replay, c *Cluster) {
		minis(c)
		delete(c.VMs[9001].Config, "tags")
	}, before: map[string]func(*replay){
		"start":            booting,
		"agent ping":       both(wake(170), answers(170)),
		"file-write ASCII": both(wake(170), answers(170)),
		"file-read of 3072000 bytes with all byte values": func(r *replay) { r.guestFile(170, "tmp/big", bytes.Repeat(allBytes(), 12000)) },
		"LANG=C: non-ASCII description": func(r *replay) {
			r.srv.Edit(func(c *Cluster) { linked(c, 174, "Copy-of-VM-tmpl-mini"); delete(c.VMs[174].Config, "tags") })
		},
		"left over of the killed pvesh: status of 177": both(halfCloned(177), halfCloned(178)),
		"left over: DELETE after qm unlock":            func(r *replay) { r.srv.Edit(func(c *Cluster) { delete(c.VMs[178].Config, "lock") }) },
	}, after: map[string]func(*replay){
		"full clone: progress lines on stdout before the UPID": func(r *replay) { // which was cut off
			r.srv.Edit(func(c *Cluster) {
				r.upids["UPID:pve:0000031E:0009C1C8:6B0476E8:qmclone:9001:root@pam:"] = c.tasks[len(c.tasks)-1].upid
			})
		},
	}, omit: map[string]string{
		"ping again": deaf, "ping 3": deaf,
		"version yaml": "YAML output is not simulated", "usage: parameters of a path": "pvesh usage is not simulated", "ls": "pvesh ls is not simulated",

		"decode of it: content -> one byte per code point":                                    note,
		"argv: one argument of 140000 bytes cannot be passed (kernel: MAX_ARG_STRLEN 131072)": note, "8 parallel pvesh get /version on 2 cores": note,
		"pvesh clone: SIGTERM to the pvesh process in the middle (like a dropped ssh session)": event, "task of the killed pvesh (does the worker survive?)": event,
		"permission: pvesh as a non-root unix user": "the command was setpriv", "3 parallel pvesh clones to the same newid: exit codes, last stdout line, stderr": note,
		"pvesh clone: the reader closes the stdout pipe in the middle (dropped ssh session)": event,
		"qm alternative: qm config / qm status exit codes for a missing VM":                  qm, "qm start of a running/locked/missing VM": qm,
		"qm start of the template (exit code of a failing task with qm)": qm, "qm guest exec on a stopped VM": qm, "left over: qm unlock": qm,
		"pvesh full clone: SIGHUP to the pvesh process (pid of 1 processes) in the middle":  event,
		"pvesh full clone: SIGKILL to the pvesh process (pid of 1 processes) in the middle": event,
		"pvesh full clone: SIGINT to the pvesh process (pid of 1 processes) in the middle":  note,
		"volumes left": "the command was find",
	}}
}

func allBytes() []byte {
	out := make([]byte, 256)
	for i := range out {
		out[i] = byte(i)
	}
	return out
}

// halfCloned is what a pvesh leaves that is killed in a clone.
func halfCloned(id int) func(*replay) {
	return func(r *replay) {
		r.srv.Edit(func(c *Cluster) {
			vm := c.AddVM("pve", id, "Copy-of-VM-tmpl-mini")
			vm.Config["lock"], vm.Config["description"] = "clone", "template"
			delete(vm.Config, "scsi0")
		})
	}
}
