package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

const execHelp = `Run a command in a sandbox, and end with its exit code. Its arguments reach it as
they are; a line for a shell needs one: -- sh -c 'ls | wc -l'.

What it writes comes as it writes it. It is given standard input unless that is a
terminal, or --no-stdin is set. Ctrl-C interrupts the command, a second one kills
it.

    agentlab sandbox exec sb-... -- make test
    tar -c . | agentlab sandbox exec sb-... -- tar -x

Exit codes:
  ...  that of the command; 128 and the number of the signal that ended it
  2    the command line is wrong
  125  AgentLab could not run it, or does not know its end; stderr says why
`

// order is what exec is asked for.
type order struct {
	workdir, user string
	env           []string
	timeout       time.Duration
	noStdin       bool
}

func newExecCommand(host Host) *cobra.Command {
	const day = 24 * time.Hour
	var o order
	cmd := &cobra.Command{
		Use:               "exec [flags] ID|NAME -- COMMAND [ARGUMENT]...",
		Short:             "Run a command in a sandbox",
		Long:              execHelp,
		ValidArgsFunction: completeSandboxes(host, 1),
		Args:              cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, given []string) error {
			id, words := given[0], given[1:]
			if words[0] == "--" {
				words = words[1:]
			}
			if len(words) == 0 {
				return errors.New("no command is given: agentlab sandbox exec ID -- COMMAND")
			}
			a, err := o.arguments(id, words)
			if err != nil {
				return err
			}
			return o.run(cmd, host, a)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // the flags after the id are the command's
	f.StringVarP(&o.workdir, "workdir", "w", "", "where it runs (default home)")
	f.StringArrayVarP(&o.env, "env", "e", nil, "NAME=value to add to its environment; may be repeated")
	f.StringVarP(&o.user, "user", "u", "", "who runs it (default the sandbox's user)")
	f.DurationVar(&o.timeout, "timeout", day, "it is killed then, also if this program is gone")
	f.BoolVarP(&o.noStdin, "no-stdin", "n", false, "give it no standard input")
	return cmd
}

// arguments are those of the tool exec.
func (o order) arguments(id string, words []string) (args, error) {
	timeout, err := seconds("timeout", o.timeout)
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	for _, pair := range o.env {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, fmt.Errorf("--env: got %q, want NAME=value", pair)
		}
		env[name] = value
	}
	a := args{"sandbox_id": id, "command": quote(words), "timeout_seconds": timeout, "wait_seconds": 0, "env": env}
	if o.workdir != "" {
		a["workdir"] = o.workdir
	}
	if o.user != "" {
		a["user"] = o.user
	}
	return a, nil
}

// quote makes a line that a shell takes apart into words again.
func quote(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}

// run runs the command to its end.
func (o order) run(cmd *cobra.Command, host Host, a args) error {
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	signal.Ignore(syscall.SIGPIPE) // to end the command when nobody reads it any more

	silent := o.noStdin || isTerminal(cmd.InOrStdin())
	if silent {
		a["command"] = a["command"].(string) + " </dev/null"
	}
	begun := cancelUpon(signals, cancel)
	r, err := begin(ctx, host, a, cmd.ErrOrStderr())
	begun()
	switch {
	case err != nil && errors.Is(context.Cause(ctx), errInterrupted):
		return Failure{ExitInterrupted, errInterrupted}
	case err != nil:
		return notRun(err)
	}
	defer r.client.Close()
	if !silent {
		go r.feed(ctx, cmd.InOrStdin())
	}
	go r.pass(ctx, signals)
	p, err := r.copy(ctx, 0, true, cmd.OutOrStdout(), cmd.ErrOrStderr())
	switch {
	case errors.Is(err, syscall.EPIPE):
		_ = r.signal(ctx, "KILL") // nobody reads what it writes
		return Failure{exitSignal + int(syscall.SIGPIPE), nil}
	case err != nil && r.signalled.Load() > 0:
		return Failure{ExitInterrupted, fmt.Errorf("interrupted; %w", err)}
	case err != nil:
		return notRun(fmt.Errorf("%w; the command goes on if it can, and agentlab sandbox logs -f %s %s shows it", err, r.sandbox, r.process))
	case p.TimedOut:
		err = fmt.Errorf("the command was killed: --timeout of %v was over", o.timeout)
	case p.OOM:
		err = errors.New("the command was killed: the sandbox was out of memory")
	}
	if *p.ExitCode == 0 {
		return nil
	}
	return Failure{*p.ExitCode, err}
}

// errInterrupted is that somebody interrupted us before the command had begun.
var errInterrupted = errors.New("interrupted before the command had begun")

// cancelUpon cancels upon the next signal, until what it returns is called.
func cancelUpon(signals <-chan os.Signal, cancel context.CancelCauseFunc) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-signals:
			cancel(errInterrupted)
		case <-end:
		}
	}()
	return func() { close(end); <-ended }
}

// begin starts the command that the arguments of exec name. The caller closes the
// client.
func begin(ctx context.Context, host Host, a args, stderr io.Writer) (*remote, error) {
	c, err := openFor(ctx, host, a, stderr)
	if err != nil {
		return nil, err
	}
	var p processMeta
	if err := c.Call(ctx, "exec", a, &p); err != nil {
		c.Close()
		return nil, err
	}
	return &remote{client: c, sandbox: a["sandbox_id"].(string), process: p.ID, stderr: stderr}, nil
}

// openFor joins the daemon, and puts the id in the place of a sandbox's name.
func openFor(ctx context.Context, host Host, a args, warn io.Writer) (*Client, error) {
	c, err := open(ctx, host, Want{}, warn)
	if err != nil {
		return nil, err
	}
	ids, err := c.Resolve(ctx, a["sandbox_id"].(string))
	if err != nil {
		c.Close()
		return nil, err
	}
	a["sandbox_id"] = ids[0]
	return c, nil
}

// notRun is the error of a command that was not run, or whose end is not known.
func notRun(err error) error {
	return Failure{exitNotRun, errors.New(words().Replace(err.Error()))}
}

// remote is a process in a sandbox.
type remote struct {
	client           *Client
	sandbox, process string
	stderr           io.Writer
	signalled        atomic.Int32
}

// processMeta is what the tools tell programs of a process.
type processMeta struct {
	ID       string  `json:"process_id"`
	Running  bool    `json:"running"`
	ExitCode *int    `json:"exit_code"`
	TimedOut bool    `json:"timed_out"`
	OOM      bool    `json:"out_of_memory"`
	More     bool    `json:"truncated"`
	Offset   int64   `json:"offset"`
	Next     int64   `json:"next_offset"`
	Pieces   []piece `json:"pieces"`
}

type piece struct {
	Stream int    `json:"stream"` // 2 is standard error
	Data   []byte `json:"data"`
}

// copy writes what the process has written from offset on, with follow until
// it has ended.
func (r *remote) copy(ctx context.Context, offset int64, follow bool, stdout, stderr io.Writer) (processMeta, error) {
	const most = 45_000
	wait := 0
	if follow {
		wait = longestWait
	}
	for {
		var p processMeta
		err := r.client.Call(ctx, "read_process", args{
			"sandbox_id": r.sandbox, "process_id": r.process, "offset": offset, "wait_seconds": wait, "max_output_chars": most,
		}, &p)
		if err != nil {
			return p, err
		}
		if p.Offset > offset {
			_, _ = fmt.Fprintf(r.stderr, "agentlab: %d bytes of the output are no longer kept\n", p.Offset-offset)
		}
		offset = p.Next
		for _, piece := range p.Pieces {
			to := stdout
			if piece.Stream == 2 {
				to = stderr
			}
			if _, err := to.Write(piece.Data); err != nil {
				return p, err
			}
		}
		if !p.More && (!p.Running || !follow) {
			if !p.Running && p.ExitCode == nil {
				return p, errors.New("read_process: its answer has no exit code")
			}
			return p, nil
		}
	}
}

// control calls control_process.
func (r *remote) control(ctx context.Context, a args) error {
	a["sandbox_id"], a["process_id"] = r.sandbox, r.process
	var p processMeta
	return r.client.Call(ctx, "control_process", a, &p)
}

func (r *remote) signal(ctx context.Context, name string) error {
	return r.control(ctx, args{"signal": name})
}

// pass passes on signals: the first interrupt as one, a second kills.
func (r *remote) pass(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-signals:
			name := map[os.Signal]string{os.Interrupt: "INT", syscall.SIGTERM: "TERM", syscall.SIGHUP: "HUP"}[s]
			if r.signalled.Add(1) > 1 {
				name = "KILL"
			}
			_ = r.signal(ctx, name) // it fails if the process has ended just now
		}
	}
}

// Limits of how input is passed on, in bytes: the guest keeps no more than
// this unread.
const inputPart = 256 << 10

// feed gives the process standard input, and closes it.
func (r *remote) feed(ctx context.Context, in io.Reader) {
	part := make([]byte, inputPart)
	for {
		n, err := in.Read(part)
		if n > 0 && !r.give(ctx, part[:n]) {
			return
		}
		if err != nil {
			_ = r.control(ctx, args{"close_stdin": true}) // a process that has ended needs it no more
			return
		}
	}
}

// give writes to the process, and waits as long as it has not read what it was
// given before. False is that it takes no more.
func (r *remote) give(ctx context.Context, data []byte) bool {
	for wait := time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		err := r.control(ctx, args{"stdin": data})
		if full, ok := errors.AsType[refused](err); !ok || full.kind != "exhausted" { // else it has not read what it was given
			return err == nil
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
	}
}
