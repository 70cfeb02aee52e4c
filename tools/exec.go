package tools

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// bootWait is how long a call waits for its sandbox to be ready when it then
// waits for something else too: both together stay under the 60 s after which
// clients give up.
func bootWait(then int) time.Duration { return seconds(max(5, 55-then)) }

// The command is one argument of the shell, and Linux takes none of more than
// 131,071 bytes.
type execIn struct {
	target
	Command string            `arg:"command,required" bytes:"100000" record:"text" doc:"Shell command line, run by bash -lc; each call is a new shell"`
	Workdir string            `arg:"workdir" bytes:"4095" doc:"Default home"`
	Env     map[string]string `arg:"env" bytes:"100000" doc:"Variables to add"`
	Stdin   string            `arg:"stdin" bytes:"1048576" nul:"ok" doc:"Given to the command, then closed"`
	User    string            `arg:"user" bytes:"100" doc:"Default the sandbox's"`
	Timeout int               `arg:"timeout_seconds" default:"600" min:"1" max:"86400" doc:"Then the command and all it started is killed"`
	Wait    int               `arg:"wait_seconds" default:"45" min:"0" max:"55" doc:"How long to wait for its end; 0: background, stdin stays open if none is given"`
	Max     int               `arg:"max_output_chars" default:"30000" min:"1000" max:"45000"`
}

// execMeta is what programs are told of an exec or of a process.
type execMeta struct {
	ProcessID   string `json:"process_id"`
	Running     bool   `json:"running"`
	ExitCode    *int   `json:"exit_code,omitempty"`
	Signal      string `json:"signal,omitempty"`
	TimedOut    bool   `json:"timed_out"`
	OOM         bool   `json:"out_of_memory"`
	DurationMS  int64  `json:"duration_ms"`
	StdoutBytes int64  `json:"stdout_bytes"`
	StderrBytes int64  `json:"stderr_bytes"`
	Truncated   bool   `json:"truncated"`
	LogURI      string `json:"log_uri,omitempty"`     // of exec that is truncated: the resource with more of it
	NextOffset  *int64 `json:"next_offset,omitempty"` // of read_process
	Matched     *bool  `json:"matched,omitempty"`     // of read_process with until
}

func metaOf(p guest.Process) execMeta {
	meta := execMeta{
		ProcessID: p.ID, Running: p.Running, Signal: p.Exit.Signal, TimedOut: p.TimedOut, OOM: p.Exit.OOM,
		DurationMS: p.Duration.Milliseconds(), StdoutBytes: p.Stdout, StderrBytes: p.Stderr,
	}
	if !p.Running {
		meta.ExitCode = &p.Exit.Code
	}
	return meta
}

func (s *service) exec() Tool {
	return define(s, Tool{
		Name: "exec", Title: "Run command",
		Scope:       sessions.ScopeWrite,
		Description: "Run a shell command in a sandbox. Line 1 of the result has the exit code; stdout and then stderr follow. Still running after wait_seconds: it goes on and read_process gets the rest by process_id.",
		Annotations: Annotations{Destructive: true, OpenWorld: true},
		Meta:        map[string]any{"anthropic/alwaysLoad": true},
		Doing:       "running the command",
	}, func(ctx context.Context, m *sessions.Manager, in execIn) (Result, error) {
		env, err := environment(in.Env)
		if err != nil {
			return Result{}, err
		}
		var res Result
		err = m.Use(ctx, in.SandboxID, bootWait(in.Wait), func(ctx context.Context, sb sessions.Sandbox, conn guest.Conn) error {
			p, out, err := conn.Processes().Start(ctx, guest.Cmd{
				Args: append(shell(m, sb), in.Command), Env: env, Dir: absolute(sb, in.Workdir), User: in.User,
			}, guest.StartOptions{
				Stdin: []byte(in.Stdin), KeepStdin: in.Wait == 0 && in.Stdin == "",
				Timeout: seconds(in.Timeout), Wait: seconds(in.Wait), Max: in.Max,
			})
			switch {
			case errors.Is(err, guest.ErrNoDir):
				return invalid("workdir: %s does not exist or is not a directory; make it first (mkdir -p) or leave workdir out", quoted(absolute(sb, in.Workdir)))
			case errors.Is(err, guest.ErrNoUser):
				return noUser(in.User, user(m, sb))
			case err == nil:
				res = execResult(p, out, in)
			}
			return err
		})
		return res, err
	})
}

// noUser is the error of a command for a user that the sandbox does not have.
func noUser(asked, own string) error {
	return invalid("user: the sandbox has no user %q; leave user out for %s", brief(asked), own)
}

// execResult is what exec answers: at most in.Max characters.
func execResult(p guest.Process, out guest.Output, in execIn) Result {
	head := status(p)
	if p.Running {
		after := "running in the background"
		if in.Wait > 0 {
			after = fmt.Sprintf("still running after %d s", in.Wait)
		}
		head = fmt.Sprintf("%s · process_id: %s · use read_process; killed %d s after its start", after, p.ID, in.Timeout)
	}
	const separator = "--- stderr ---\n"
	most := in.Max - utf8.RuneCountInString(head) - len(separator) - 2*markerRoom
	a, b := share(most, need(out.Stdout), need(out.Stderr))
	stdout, stderr := fit(out.Stdout, a), fit(out.Stderr, b)

	var text strings.Builder
	text.WriteString(head + "\n" + stdout.text(whole(p, stdout.from)))
	if s := stderr.text(whole(p, stderr.from)); s != "" {
		if !strings.HasSuffix(text.String(), "\n") {
			text.WriteByte('\n')
		}
		text.WriteString(separator + s)
	}
	meta := metaOf(p)
	// A link in the content would cost every model, and clients before 2025-06-18 don't know it.
	if meta.Truncated = stdout.cut() || stderr.cut(); meta.Truncated {
		meta.LogURI = fmt.Sprintf("sandbox://%s/processes/%s/log", in.SandboxID, p.ID)
	}
	return plain(text.String(), meta)
}

// markerRoom is more than the marker of a cut has characters.
const markerRoom = 180

// need is how many characters a stream has; of one that the guest has cut, more
// than fit.
func need(c guest.Clip) int {
	if len(c.Tail) > 0 {
		return int(min(c.Total, 1<<20))
	}
	return chars(c.Head)
}

// whole says where the left out middle of a stream is to be had. from counts in
// one stream and the offset in both together, where it is not before that
// place: reading from there misses nothing.
func whole(p guest.Process, from int64) string {
	text := fmt.Sprintf("Full output: read_process(process_id=%q, offset=%d)", p.ID, from)
	if p.LogPath != "" {
		text += fmt.Sprintf(" or file %s in the sandbox", quoted(p.LogPath))
	}
	return text
}

// status says in one line how a process stands.
func status(p guest.Process) string {
	took := fmt.Sprintf("%.1f s", p.Duration.Seconds())
	switch {
	case p.Running:
		return fmt.Sprintf("running · %s · process_id: %s", took, p.ID)
	case p.TimedOut:
		return fmt.Sprintf("exit_code: %d · killed: timeout_seconds was over · %s", p.Exit.Code, took)
	case p.Exit.OOM:
		return fmt.Sprintf("exit_code: %d · killed: the sandbox was out of memory · %s", p.Exit.Code, took)
	case p.Exit.Signal != "":
		return fmt.Sprintf("exit_code: %d · killed by signal %s · %s", p.Exit.Code, p.Exit.Signal, took)
	}
	return fmt.Sprintf("exit_code: %d · %s", p.Exit.Code, took)
}

// state is status in a few words, for lists.
func state(p guest.Process) string {
	if p.Running {
		return "running"
	}
	return fmt.Sprintf("exited %d", p.Exit.Code)
}

// shell is what the sandbox's profile gives a command line to.
func shell(m *sessions.Manager, sb sessions.Sandbox) []string {
	if p, ok := m.ProfileOf(sb); ok && len(p.Shell) > 0 {
		return slices.Clone(p.Shell)
	}
	return []string{"bash", "-lc"}
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// environment returns NAME=value, sorted.
func environment(vars map[string]string) ([]string, error) {
	var env []string
	for name, value := range vars {
		if !envName.MatchString(name) {
			return nil, invalid("env: %q is not a name for an environment variable (letters, digits and _, no digit first)", brief(name))
		}
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env, nil
}

// absolute resolves a path as a shell in the sandbox's home would. It does not
// clean an absolute path: with symbolic links, a/../b is not b.
func absolute(sb sessions.Sandbox, name string) string {
	switch {
	case name == "" || name == "~":
		return sb.Home
	case strings.HasPrefix(name, "~/"):
		return path.Join(sb.Home, name[2:])
	case strings.HasPrefix(name, "/"):
		return name
	}
	return strings.TrimSuffix(sb.Home, "/") + "/" + name
}
