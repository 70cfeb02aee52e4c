// Package keep is the guest's table of processes: they run on without the
// host, and their output and exit codes can be read until the machine dies.
// Whatever the programs of the guest do, it takes bounded memory.
package keep

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/proc"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

var _ guest.Processes = (*Table)(nil)

// maxRunning is how many processes of the table may run at once.
const maxRunning = 1024

// idBlock is how many ids are taken from Table.IDs at once.
const idBlock = 100

// maxCommand cuts Process.Command, in bytes.
const maxCommand = 200

// Table implements guest.Processes for the machine it runs on.
type Table struct {
	Host *proc.Host
	Dir  string // of the log files; made when needed

	// IDs is a file that remembers which ids were given away, for a table that
	// is not the first of its machine; empty if it is.
	IDs string

	mu      sync.Mutex
	next    int
	spare   int // up to which ids may be given away
	running int
	byID    map[string]*process
	order   []*process // the oldest first
	ended   []*process // those that have ended, in that order
}

// Start starts cmd; see guest.Processes.
func (t *Table) Start(ctx context.Context, cmd guest.Cmd, opt guest.StartOptions) (guest.Process, guest.Output, error) {
	if len(opt.Stdin) > guest.MaxStdin {
		return guest.Process{}, guest.Output{}, fmt.Errorf("standard input of %d bytes: the limit is %d", len(opt.Stdin), guest.MaxStdin)
	}
	p, err := t.start(cmd, opt)
	if err != nil {
		return guest.Process{}, guest.Output{}, err
	}
	if opt.Wait > 0 {
		timer := time.NewTimer(opt.Wait)
		defer timer.Stop()
		select {
		case <-p.ended:
		case <-timer.C:
		case <-ctx.Done():
			p.proc.Kill()
			return guest.Process{}, guest.Output{}, ctx.Err()
		}
	}
	info, out := p.answer()
	return info, out, nil
}

func (t *Table) start(cmd guest.Cmd, opt guest.StartOptions) (*process, error) {
	if err := t.reserve(); err != nil {
		return nil, err
	}
	pr, err := t.Host.Start(proc.Cmd{Cmd: cmd, Stdin: opt.KeepStdin || len(opt.Stdin) > 0})
	if err != nil {
		t.release()
		return nil, err
	}
	text := cmd.Args[len(cmd.Args)-1]
	maximum := wire.Clamp(min(opt.Max, wire.MaxAnswer/2)) // of each of two streams
	p := &process{
		proc:  pr,
		ended: make(chan struct{}),
		clips: &[2]clip{{max: maximum}, {max: maximum}},
		info: guest.Process{
			Command: text[:min(len(text), maxCommand)], Running: true, Started: time.Now(),
		},
	}
	if pr.Stdin != nil {
		p.stdin = newStdin(opt.Stdin, opt.KeepStdin)
		go p.stdin.feed(pr.Stdin, pr.Done())
	}
	t.enter(p)
	go func() {
		p.follow(opt.Timeout)
		t.leave(p)
	}()
	return p, nil
}

// reserve takes one of maxRunning places.
func (t *Table) reserve() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running >= maxRunning {
		return fmt.Errorf("%w: %d are running", guest.ErrBusy, t.running)
	}
	t.running++
	return nil
}

// release gives the place back.
func (t *Table) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running--
}

// enter gives p its id.
func (t *Table) enter(p *process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID == nil {
		t.byID = map[string]*process{}
		_ = os.MkdirAll(t.Dir, 0o755) // without it logs stay in memory
	}
	if t.next == t.spare && t.IDs != "" {
		t.takeIDs()
	}
	t.next++
	p.info.ID = "p_" + strconv.Itoa(t.next)
	p.log.path = filepath.Join(t.Dir, p.info.ID+".log")
	t.byID[p.info.ID] = p
	t.order = append(t.order, p)
}

// takeIDs takes the next idBlock of the machine's ids.
func (t *Table) takeIDs() {
	text, _ := os.ReadFile(t.IDs) // there is none at first
	taken, _ := strconv.Atoi(string(text))
	t.next = max(t.next, taken)
	t.spare = t.next + idBlock
	_ = os.WriteFile(t.IDs, []byte(strconv.Itoa(t.spare)), 0o600) // a full disk costs that, not a process
}

// leave notes that p has ended, and forgets the one that ended first if there
// are too many.
func (t *Table) leave(p *process) {
	t.release()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[p.info.ID] != p {
		return // it was forgotten meanwhile
	}
	t.ended = append(t.ended, p)
	if len(t.ended) <= guest.MaxEnded {
		return
	}
	old := t.ended[0]
	t.ended = slices.Delete(t.ended, 0, 1)
	t.order = slices.DeleteFunc(t.order, func(p *process) bool { return p == old })
	delete(t.byID, old.info.ID)
	old.discard()
}

// Forget makes the table one in which nothing was ever started. It is refused
// while a process runs.
func (t *Table) Forget() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.order {
		if running, _, _ := p.state(); running {
			return fmt.Errorf("%s still runs", p.info.ID)
		}
	}
	for _, p := range t.order {
		p.discard()
	}
	if t.IDs != "" {
		if err := os.RemoveAll(t.IDs); err != nil {
			return err
		}
	}
	t.next, t.spare = 0, 0
	t.byID, t.order, t.ended = nil, nil, nil
	return nil
}

func (t *Table) find(id string) (*process, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.byID[id]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%w: %q", guest.ErrNoProcess, id)
}

// Read returns output; see guest.Processes.
func (t *Table) Read(ctx context.Context, id string, req guest.ReadRequest) (guest.Process, guest.Output, error) {
	p, err := t.find(id)
	if err != nil {
		return guest.Process{}, guest.Output{}, err
	}
	off := p.from(req)
	s := search{pos: off}
	if req.Until != "" {
		if s.re, err = regexp.Compile(req.Until); err != nil {
			return guest.Process{}, guest.Output{}, fmt.Errorf("until: %w", err)
		}
	}
	timer := time.NewTimer(req.Wait)
	defer timer.Stop()
	for late := req.Wait <= 0; ; {
		running, size, changed := p.state()
		matched := s.next(p)
		if late || matched || !running || s.re == nil && size > off {
			info, out := p.read(off, req.Max, req.Peek)
			out.Matched = matched
			return info, out, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			late = true
		case <-ctx.Done():
			return guest.Process{}, guest.Output{}, ctx.Err()
		}
	}
}

// Control gives a process input or a signal; see guest.Processes.
func (t *Table) Control(_ context.Context, id string, in guest.Input) (guest.Process, error) {
	p, err := t.find(id)
	if err != nil {
		return guest.Process{}, err
	}
	select {
	case <-p.proc.Done():
		return guest.Process{}, fmt.Errorf("%s: %w", id, guest.ErrExited)
	default:
	}
	if len(in.Stdin) > 0 || in.CloseStdin {
		err = p.stdin.Add(in.Stdin, in.CloseStdin)
	}
	if err == nil && in.Signal != "" {
		err = p.signal(in.Signal)
	}
	if err != nil && !errors.Is(err, guest.ErrExited) {
		return guest.Process{}, fmt.Errorf("control %s: %w", id, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.snapshot(), err
}

// List returns the known processes; see guest.Processes.
func (t *Table) List(context.Context) ([]guest.Process, error) {
	t.mu.Lock()
	order := append([]*process(nil), t.order...)
	t.mu.Unlock()
	out := make([]guest.Process, len(order))
	for i, p := range order {
		p.mu.Lock()
		out[i] = p.snapshot()
		p.mu.Unlock()
	}
	return out, nil
}
