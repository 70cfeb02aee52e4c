package tools

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

type readProcessIn struct {
	target
	ProcessID string `arg:"process_id,required" bytes:"100"`
	Offset    *int   `arg:"offset" doc:"Byte in its output (stdout and stderr as they came); negative from the end; default where you last read it"`
	Wait      int    `arg:"wait_seconds" default:"30" min:"0" max:"55" doc:"Wait for new output, its end or until"`
	Until     string `arg:"until" bytes:"1000" doc:"RE2: wait for a match"`
	Max       int    `arg:"max_output_chars" default:"30000" min:"1000" max:"45000"`
}

func (s *service) readProcess() Tool {
	return define(s, Tool{
		Name: "read_process", Title: "Read process output",
		Scope:       sessions.ScopeRead,
		Description: "State and output of a process that exec left running or that has ended. Blocks instead of polling.",
		Annotations: Annotations{ReadOnly: true, Idempotent: true},
		Meta:        hint("output, logs and exit code of a background process; wait for it"),
		Doing:       "waiting for the process",
	}, func(ctx context.Context, m *sessions.Manager, in readProcessIn) (Result, error) {
		if _, err := regexp.Compile(in.Until); err != nil {
			return Result{}, invalid("until: not a regular expression of RE2: %v", err)
		}
		req := guest.ReadRequest{Max: in.Max - markerRoom, Wait: seconds(in.Wait), Until: in.Until, FromLast: in.Offset == nil}
		if in.Offset != nil {
			req.Offset = int64(*in.Offset)
		}
		var res Result
		err := m.Use(ctx, in.SandboxID, bootWait(in.Wait), func(ctx context.Context, _ sessions.Sandbox, conn guest.Conn) error {
			var err error
			if res, err = read(ctx, conn.Processes(), in, req); err != nil {
				return s.processError(ctx, conn, in.ProcessID, err)
			}
			return nil
		})
		return res, err
	})
}

// read answers in the form that the caller wants.
func read(ctx context.Context, ps guest.Processes, in readProcessIn, req guest.ReadRequest) (Result, error) {
	if wantsBytes(ctx) {
		req.Peek = true // a model's own reading goes on where it was
		p, out, err := ps.Read(ctx, in.ProcessID, req)
		return bytesResult(p, out), err
	}
	p, out, err := readWholeRunes(ctx, ps, in.ProcessID, req)
	return readResult(p, out, in), err
}

// readWholeRunes reads output that does not begin or end inside a rune, as long
// as more may come. The guest counts bytes, so where it has stopped inside a
// rune the next read from there begins a little earlier.
func readWholeRunes(ctx context.Context, ps guest.Processes, id string, req guest.ReadRequest) (guest.Process, guest.Output, error) {
	p, out, err := ps.Read(ctx, id, req)
	const most = utf8.UTFMax - 1
	if err == nil && req.FromLast && out.Offset >= most && firstRune(out.Both) > 0 {
		again := guest.ReadRequest{Offset: out.Offset - most, Max: req.Max}
		if p, out, err = ps.Read(ctx, id, again); err == nil && len(out.Both) >= most {
			begin := runeStart(out.Both[:most], most)
			out.Both, out.Offset = out.Both[begin:], out.Offset+int64(begin)
		}
	}
	if p.Running || p.Stdout+p.Stderr > out.Next {
		whole := runeStart(out.Both, len(out.Both))
		out.Next -= int64(len(out.Both) - whole)
		out.Both = out.Both[:whole]
	}
	return p, out, err
}

// readResult is what read_process answers. The bytes asked for are fewer than
// the characters allowed, so that nothing need be cut.
func readResult(p guest.Process, out guest.Output, in readProcessIn) Result {
	total := p.Stdout + p.Stderr
	head := status(p)
	if in.Until != "" {
		if out.Matched {
			head += " · until matched"
		} else {
			head += " · until did not match"
		}
	}
	head += fmt.Sprintf(" · next_offset: %d", out.Next)
	if rest := total - out.Next; rest > 0 {
		head += fmt.Sprintf(" (%s bytes more)", thousands(int(rest)))
	}
	switch {
	case in.Offset == nil && total > 0 && len(out.Both) == 0:
		head += " · nothing new; offset=0 reads from the start"
	case in.Offset != nil && int64(*in.Offset) > total:
		head += fmt.Sprintf(" · offset=%d is past the end", *in.Offset)
	case in.Offset != nil && *in.Offset >= 0 && int64(*in.Offset) < out.First:
		head += fmt.Sprintf(" · bytes before %d are no longer kept", out.First)
	}
	meta := metaOf(p)
	meta.NextOffset, meta.Truncated = &out.Next, total > out.Next
	if in.Until != "" {
		meta.Matched = &out.Matched
	}
	return plain(head+"\n"+clean(out.Both), meta)
}

type controlProcessIn struct {
	target
	ProcessID  string `arg:"process_id,required" bytes:"100"`
	Stdin      string `arg:"stdin" bytes:"1048576" nul:"ok" doc:"Written as it is; end lines with \\n"`
	CloseStdin bool   `arg:"close_stdin"`
	Signal     string `arg:"signal" enum:"INT|TERM|KILL|HUP" doc:"To its process group"`
}

func (s *service) controlProcess() Tool {
	return define(s, Tool{
		Name: "control_process", Title: "Control process",
		Scope:       sessions.ScopeWrite,
		Description: "Write to the stdin of a background process, close it, or send a signal, in this order.",
		Annotations: Annotations{Destructive: true},
		Meta:        hint("send input to, interrupt or kill a background process"),
		Doing:       "controlling the process",
	}, func(ctx context.Context, m *sessions.Manager, in controlProcessIn) (Result, error) {
		if in.Stdin == "" && !in.CloseStdin && in.Signal == "" {
			return Result{}, invalid("nothing to do: give stdin, close_stdin or signal")
		}
		var err error
		if in.Stdin, err = stdinOf(ctx, in.Stdin); err != nil {
			return Result{}, err
		}
		var res Result
		err = m.Use(ctx, in.SandboxID, bootWait(0), func(ctx context.Context, _ sessions.Sandbox, conn guest.Conn) error {
			p, err := conn.Processes().Control(ctx, in.ProcessID, guest.Input{
				Stdin: []byte(in.Stdin), CloseStdin: in.CloseStdin, Signal: in.Signal,
			})
			if err != nil {
				return s.processError(ctx, conn, in.ProcessID, err)
			}
			res = plain(controlled(in)+" · "+status(p), metaOf(p))
			return nil
		})
		return res, err
	})
}

// controlled says what was done.
func controlled(in controlProcessIn) string {
	var done []string
	if in.Stdin != "" {
		done = append(done, count(len(in.Stdin), "byte", "bytes")+" written to stdin")
	}
	if in.CloseStdin {
		done = append(done, "stdin closed")
	}
	if in.Signal != "" {
		done = append(done, in.Signal+" sent")
	}
	return strings.Join(done, ", ")
}

// processError adds to an error about a process what the guest knows of it.
func (s *service) processError(ctx context.Context, conn guest.Conn, id string, cause error) error {
	unknown, exited := errors.Is(cause, guest.ErrNoProcess), errors.Is(cause, guest.ErrExited)
	if !unknown && !exited {
		return cause
	}
	list, err := conn.Processes().List(ctx)
	if err != nil {
		return cause
	}
	var known []string
	for _, p := range list {
		if exited && p.ID == id {
			return sessions.Errorf(sessions.Conflict, "process %s has ended (exit_code: %d); read_process gives its output", id, p.Exit.Code)
		}
	}
	for _, p := range latest(list) {
		known = append(known, p.ID+" ("+state(p)+")")
	}
	if len(known) == 0 {
		return sessions.Errorf(sessions.NotFound, "no process %q; this sandbox has none yet, exec starts one", brief(id))
	}
	return sessions.Errorf(sessions.NotFound, "no process %q; the latest of this sandbox: %s", brief(id), strings.Join(known, ", "))
}

// latest returns the processes worth telling of: those that ended last, and of
// those that run the latest, which may be older than any of them.
func latest(list []guest.Process) []guest.Process {
	const mostEnded, mostRunning = 10, 30
	ended, running := 0, 0
	var some []guest.Process
	for _, p := range slices.Backward(list) {
		n, most := &ended, mostEnded
		if p.Running {
			n, most = &running, mostRunning
		}
		if *n++; *n <= most {
			some = append(some, p)
		}
	}
	slices.Reverse(some)
	return some
}
