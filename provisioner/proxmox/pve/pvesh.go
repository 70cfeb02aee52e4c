package pve

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Shell runs scripts on a Proxmox VE node.
type Shell interface {
	// Run gives the script to sh and returns what came of it. The error is for
	// scripts that could not be run, or whose end is unknown: an *Error, or one
	// that wraps ctx's, after which the script may still run.
	Run(ctx context.Context, script string) (Output, error)
}

// Output is what a script wrote and how it ended.
type Output struct {
	Stdout, Stderr []byte
	Exit           int
}

// How many pvesh may run at once: each is a second of CPU time of the node,
// those that change something run as long as the task, and together they stay
// below the ten sessions that sshd allows on a connection.
const (
	maxReading = 4
	maxWriting = 6
)

// maxArg is how long one argument of a program may be (MAX_ARG_STRLEN of Linux).
const maxArg = 131071

// Pvesh is the Transport that runs pvesh on a node, as root, in place of the
// HTTPS API. There is no token; parameters are arguments of a process, which
// the users of that node can see.
//
// pvesh waits for the task that a call starts. So that a lost connection does
// not leave a half-made machine that is locked for good (measured, for hang-up
// and kill), calls that change something run detached from their caller: the
// task goes on when ctx ends, as it does over HTTPS.
type Pvesh struct {
	shell            Shell
	reading, writing chan struct{}
}

// NewPvesh returns a transport that runs pvesh in shell.
func NewPvesh(shell Shell) *Pvesh {
	return &Pvesh{shell, make(chan struct{}, maxReading), make(chan struct{}, maxWriting)}
}

var verbs = map[string]string{
	http.MethodGet: "get", http.MethodPost: "create", http.MethodPut: "set", http.MethodDelete: "delete",
}

// Do implements Transport.
func (p *Pvesh) Do(ctx context.Context, r Request) (json.RawMessage, error) {
	argv, err := pveshArgs(r)
	if err != nil {
		return nil, err
	}
	slots, script := p.reading, readScript
	if r.Method != http.MethodGet {
		slots, script = p.writing, writeScript
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w", r, ctx.Err())
	}
	argv = append(argv, "--output-format", "json")
	out, err := p.shell.Run(ctx, "set -- "+quote(argv)+script)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	return pveshAnswer(r, out)
}

// A short session without a locale would store text that is not ASCII as
// garbage (measured).
const locale = "\nLC_ALL=C.UTF-8; export LC_ALL\n"

const readScript = locale + `exec "$@" </dev/null
`

// The program runs in a session of its own and writes to files, so that the
// end of this shell, of the connection or of a reader does not concern it.
// Whoever is last removes the files.
const writeScript = locale + `umask 077
dir=$(mktemp -d "${TMPDIR:-/tmp}/agentlab.XXXXXXXXXX") || exit 125
setsid -w sh -c '
	dir=$1 waiter=$2
	shift 2
	"$@"
	echo $? >"$dir/exit"
	kill -0 "$waiter" 2>/dev/null || rm -rf "$dir"
' sh "$dir" $$ "$@" >"$dir/out" 2>"$dir/err" &
wait $!
cat "$dir/out"
cat "$dir/err" >&2
code=$(cat "$dir/exit" 2>/dev/null)
rm -rf "$dir"
exit "${code:-137}"
`

// quote writes words for sh.
func quote(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}

// Command returns the call as a command line for a shell on a node.
func (r Request) Command() string {
	argv, err := pveshArgs(r)
	if err != nil {
		return "# " + err.Error()
	}
	for i, w := range argv {
		if w == "" || strings.ContainsFunc(w, func(c rune) bool { return !strings.ContainsRune(plain, c) }) {
			argv[i] = quote(argv[i : i+1])
		}
	}
	return strings.Join(argv, " ")
}

// plain are the characters that mean nothing to a shell.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%_+=:,./-"

// pveshArgs is the command line of a call. Values are separate arguments,
// which may begin with a dash; arrays repeat the option (both measured).
func pveshArgs(r Request) ([]string, error) {
	if r.File != nil {
		return nil, &Error{Kind: NotImplemented, Call: r.String(), Message: "pvesh can't upload files; make the call over HTTPS"}
	}
	argv := []string{"pvesh", verbs[r.Method], "/" + strings.Join(r.Path, "/")}
	for _, name := range slices.Sorted(maps.Keys(r.Params)) {
		for _, value := range r.Params[name] {
			if strings.ContainsRune(value, 0) {
				return nil, &Error{Kind: Parameter, Call: r.String(), Message: name + " has a NUL, which pvesh can't be given"}
			}
			if len(value) > maxArg {
				return nil, &Error{Kind: TooLarge, Call: r.String(), Message: fmt.Sprintf("%s has %d bytes, at most %d can be given to pvesh", name, len(value), maxArg)}
			}
			argv = append(argv, "--"+name, value)
		}
	}
	return argv, nil
}

// pveshAnswer takes the output of pvesh apart. Its exit code says no more than
// whether the call failed, and nothing of the task that it started (measured:
// 0 for a failed task; 1, 2, 11, 25, 29, 255 for one and the same failure).
func pveshAnswer(r Request, out Output) (json.RawMessage, error) {
	if out.Exit == 126 || out.Exit == 127 {
		return nil, &Error{Kind: BadAnswer, Call: r.String(), Message: fmt.Sprintf(
			"no pvesh here; is this a Proxmox VE node? (%s)", strings.TrimSpace(string(out.Stderr)))}
	}
	if out.Exit > 128 && out.Exit <= 128+64 { // by a signal
		return nil, &Error{Kind: Interrupted, Call: r.String(), Message: fmt.Sprintf("pvesh was killed by signal %d", out.Exit-128)}
	}
	if out.Exit != 0 {
		return nil, pveshError(r, string(out.Stderr))
	}
	// What the call itself prints comes before the result: the log of a task,
	// "update VM 100: ..."; a call without a result prints nothing more.
	lines := strings.Split(strings.TrimSpace(string(out.Stdout)), "\n")
	last := json.RawMessage(lines[len(lines)-1])
	if !json.Valid(last) {
		return nil, nil
	}
	return last, nil
}

var (
	// pveshNoise is printed beside a message: the usage, and a complaint about
	// the message's own characters.
	pveshNoise = regexp.MustCompile(`(?m)^(?:pvesh (?:get|set|create|delete) <api_path>.*|Wide character in (?:die|warn|print) at .*)\n?`)
	pveshParam = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9-]*): (.*)`)
	pveshEmpty = regexp.MustCompile(`(?m)^Unknown option: (\S+)\n`)
)

// pveshError reads a failure from what pvesh wrote to stderr: a message, for
// parameters with "400 " before it and a line for each after it.
func pveshError(r Request, stderr string) error {
	e := &Error{Call: r.String()}
	text := pveshNoise.ReplaceAllString(stderr, "")
	for _, m := range pveshEmpty.FindAllStringSubmatch(text, -1) {
		e.param(m[1], "unknown option")
	}
	text = strings.TrimSpace(pveshEmpty.ReplaceAllString(text, ""))
	if m := statusPrefix.FindStringSubmatch(text); m != nil {
		e.Status, _ = strconv.Atoi(m[1])
		text = text[len(m[0]):]
	}
	e.Message = text
	if e.Status == http.StatusBadRequest {
		first, rest, _ := strings.Cut(text, "\n")
		e.Message = first
		name := ""
		for line := range strings.Lines(rest) {
			line = strings.TrimRight(line, "\n")
			if m := pveshParam.FindStringSubmatch(line); m != nil {
				name = m[1]
				e.param(name, m[2])
			} else if name != "" && line != "" { // a message of several lines
				e.param(name, e.Params[name]+"\n"+line)
			}
		}
	}
	return classify(e)
}

func (e *Error) param(name, text string) {
	if e.Params == nil {
		e.Params = map[string]string{}
	}
	e.Params[name] = short(text)
}
