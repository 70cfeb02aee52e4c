package pvetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// ErrTerminated as the cause of a cancelled context is a SIGTERM to pvesh: the
// worker cleans up. Any other end of the context kills pvesh and its worker,
// as a lost terminal does.
var ErrTerminated = errors.New("terminated")

// Pvesh runs "pvesh args..." on a node as root, which is root@pam itself: no
// token, no daemon, the worker in the foreground. It returns the exit code.
// What env says of LC_ALL, LC_CTYPE or LANG decides how arguments are read.
func (s *Server) Pvesh(ctx context.Context, node string, args, env []string, stdout, stderr io.Writer) int {
	s.start()
	sh := &shell{ctx: ctx, out: stdout, err: stderr, ascii: asciiLocale(env)}
	return sh.run(s, node, args)
}

// shell is a pvesh that is running.
type shell struct {
	ctx      context.Context
	out, err io.Writer
	ascii    bool
	task     *Task
	format   map[string]string // output-format, quiet, ...
}

func asciiLocale(env []string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		for _, kv := range env {
			if k, v, _ := strings.Cut(kv, "="); k == name && v != "" {
				return !strings.Contains(strings.ToLower(v), "utf")
			}
		}
	}
	return false
}

// say writes a line; a reader that has gone away stops the worker.
func (sh *shell) say(line string) {
	if _, err := io.WriteString(sh.out, line+"\n"); err != nil && sh.task != nil {
		sh.task.stop(errPipe)
	}
}

func (sh *shell) warn(line string) { _, _ = io.WriteString(sh.err, line+"\n") }

// running ties the worker to the life of pvesh.
func (sh *shell) running(t *Task) {
	sh.task = t
	context.AfterFunc(sh.ctx, func() {
		if errors.Is(context.Cause(sh.ctx), ErrTerminated) {
			t.stop(errStopped)
			return
		}
		t.stop(errKilled)
	})
}

const shellUsage = `USAGE: pvesh <COMMAND> [ARGS] [OPTIONS]

       pvesh create <api_path> [OPTIONS] [FORMAT_OPTIONS]
       pvesh delete <api_path> [OPTIONS] [FORMAT_OPTIONS]
       pvesh get <api_path> [OPTIONS] [FORMAT_OPTIONS]
       pvesh ls <api_path> [OPTIONS] [FORMAT_OPTIONS]
       pvesh set <api_path> [OPTIONS] [FORMAT_OPTIONS]
       pvesh usage <api_path> [OPTIONS]

       pvesh help [<extra-args>] [OPTIONS]`

var shellVerbs = map[string]string{"get": "GET", "create": "POST", "set": "PUT", "delete": "DELETE"}

func (sh *shell) run(s *Server, node string, args []string) int {
	if len(args) == 0 {
		sh.warn("ERROR: no command specified\n" + shellUsage)
		return 255
	}
	verb := args[0]
	method, ok := shellVerbs[verb]
	if !ok || len(args) < 2 {
		sh.warn("ERROR: unknown command 'pvesh " + verb + "'\n" + shellUsage)
		return 255
	}
	segs, _ := splitPath(strings.Trim(args[1], "/"))
	c := &call{s: s, entry: node, who: identity{"root@pam"}, method: method, segs: segs, in: map[string]any{}, shell: sh}
	if !s.match(c) {
		sh.warn(fmt.Sprintf("No '%s' handler defined for '%s'", verb, args[1]))
		return 1
	}
	if msg := sh.parse(c, args[2:]); msg != "" {
		sh.warn(msg + "\n" + usage(verb, c.route))
		return 255
	}
	data, err := s.call(c)
	if sh.ctx.Err() != nil && !errors.Is(context.Cause(sh.ctx), ErrTerminated) {
		return 255
	}
	if err != nil {
		return sh.failed(verb, c.route, err)
	}
	if sh.task != nil && errors.Is(context.Cause(sh.ctx), errPipe) {
		return 1
	}
	return sh.show(data, strings.Fields(c.route.shows))
}

// failed prints an error. The exit codes are what Perl's $! had in it: nothing
// but "not zero" can be read from them (measured).
func (sh *shell) failed(verb string, r *route, e *apiError) int {
	if e.errors == nil {
		if !isLatin1(e.message) {
			sh.warn("Wide character in die at /usr/share/perl5/PVE/RESTHandler.pm line 1008.")
		}
		sh.warn(e.message)
		switch {
		case strings.Contains(e.message, "Agent error"):
			return 29
		case strings.Contains(e.message, "is running"):
			return 25
		case strings.Contains(e.message, "does not exist"), strings.Contains(e.message, "already exists"), strings.Contains(e.message, "unable to find"):
			return 2
		case strings.Contains(e.message, "hostname lookup"):
			return 11
		}
		return 255
	}
	var msg strings.Builder
	msg.WriteString("400 " + e.message)
	for _, k := range slices.Backward(slices.Sorted(maps.Keys(e.errors))) {
		msg.WriteString("\n" + k + ": " + e.errors[k])
	}
	sh.warn(msg.String() + "\n" + usage(verb, r))
	if e.errors["upid"] == "no such task" {
		return 2
	}
	return 255
}

func usage(verb string, r *route) string {
	var out strings.Builder
	out.WriteString("pvesh " + verb + " <api_path>")
	for _, k := range slices.Sorted(maps.Keys(r.specs)) {
		if r.specs[k].required && !strings.Contains(r.path, "{"+k+"}") {
			out.WriteString(" --" + k + " <" + r.specs[k].kind + ">")
		}
	}
	return out.String() + " [OPTIONS] [FORMAT_OPTIONS]"
}

var formatOptions = map[string]*param{
	"output-format": parseParam("string"), "quiet": parseParam("bool"), "noborder": parseParam("bool"), "noheader": parseParam("bool"),
	"human-readable": parseParam("bool"),
}

// parse reads options as Getopt::Long does: --key value, --key=value, -key
// value, unique abbreviations, booleans without a value, arrays of all that
// follows.
func (sh *shell) parse(c *call, args []string) string {
	sh.format = map[string]string{"output-format": "text"}
	for i := 0; i < len(args); i++ {
		if !strings.HasPrefix(args[i], "-") || args[i] == "-" {
			return "400 too many arguments"
		}
		name, value, glued := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		key, spec := resolve(c.route, name)
		if spec == nil {
			return "Unknown option: " + name + "\n400 unable to parse option"
		}
		values := []string{value}
		if !glued {
			values = takeValues(spec, args[i+1:])
			i += len(values)
			if len(values) == 0 && spec.kind == "boolean" {
				values = []string{"1"}
			} else if len(values) == 0 {
				return "Option " + name + " requires an argument\n400 unable to parse option"
			}
		}
		sh.add(c, key, spec, values)
	}
	return ""
}

func (sh *shell) add(c *call, key string, spec *param, values []string) {
	for j, v := range values {
		if sh.ascii {
			values[j] = replaced(v)
		}
	}
	switch {
	case formatOptions[key] != nil:
		sh.format[key] = values[0]
	case spec.kind == "array":
		old, _ := c.in[key].([]string)
		c.in[key] = append(old, values...)
	case spec.kind == "boolean" && isTrue(values[0]):
		c.in[key] = "1"
	case spec.kind == "boolean" && isFalse(values[0]):
		c.in[key] = "0"
	default:
		c.in[key] = values[0]
	}
}

// replaced is what becomes of an argument in a locale without UTF-8: a
// replacement character for every byte beyond ASCII (measured).
func replaced(v string) string {
	out := make([]rune, len(v))
	for i := range len(v) {
		if out[i] = rune(v[i]); v[i] >= 0x80 {
			out[i] = '\uFFFD'
		}
	}
	return string(out)
}

// takeValues are the arguments that belong to an option: one, whatever it
// looks like; none or one of a boolean; an array also takes what follows and
// is no option.
func takeValues(spec *param, rest []string) []string {
	if len(rest) == 0 {
		return nil
	}
	isOption := func(a string) bool { return strings.HasPrefix(a, "-") && len(a) > 1 }
	if spec.kind == "boolean" {
		if isOption(rest[0]) || !isTrue(rest[0]) && !isFalse(rest[0]) {
			return nil
		}
		return rest[:1:1]
	}
	n := 1
	for spec.kind == "array" && n < len(rest) && !isOption(rest[n]) {
		n++
	}
	return slices.Clone(rest[:n])
}

// resolve finds an option by its name or the beginning of one.
func resolve(r *route, name string) (string, *param) {
	if p := formatOptions[name]; p != nil {
		return name, p
	}
	if p := specOf(r.specs, name); p != nil {
		return name, p
	}
	var found []string
	for _, specs := range []map[string]*param{formatOptions, r.specs} {
		for k := range specs {
			if strings.HasPrefix(k, name) && !strings.Contains(k, "[") {
				found = append(found, k)
			}
		}
	}
	if len(found) != 1 {
		return "", nil
	}
	if p := formatOptions[found[0]]; p != nil {
		return found[0], p
	}
	return found[0], r.specs[found[0]]
}

// say prints what a call prints: into the log of its task, else to pvesh; of a
// synchronous call over HTTP nobody hears it.
func (c *call) say(line string) {
	switch {
	case c.job != nil:
		c.job.print(line) //nolint:forbidigo // a method, not the builtin
	case c.shell != nil:
		c.shell.say(line)
	}
}

// sayUpdate is the line a change of the configuration prints: with all values
// (Qemu.pm:2160).
func (c *call) sayUpdate() {
	var line strings.Builder
	fmt.Fprintf(&line, "update VM %d:", c.vmid())
	wide := false
	for _, k := range slices.Sorted(maps.Keys(c.p)) {
		if k != "vmid" && k != "node" && k != "digest" && k != "skiplock" && k != "background_delay" {
			line.WriteString(" -" + k + " " + c.p.str(k))
			wide = wide || !isLatin1(c.p.str(k))
		}
	}
	c.say(line.String())
	if wide && c.shell != nil {
		c.shell.warn("Wide character in print at /usr/share/perl5/PVE/API2/Qemu.pm line 2160.")
	}
}
