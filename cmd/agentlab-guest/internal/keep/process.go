package keep

import (
	"fmt"
	"os"
	"regexp"
	"sort"
	"sync"
	"syscall"
	"time"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/proc"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// maxSpan bounds how long a match of ReadRequest.Until may be, so that output
// is looked at once and not again with every byte that comes.
const maxSpan = 64 << 10

// process is one entry of the table.
type process struct {
	proc  *proc.Proc
	stdin *stdin
	ended chan struct{} // closed when info has its end

	mu      sync.Mutex
	info    guest.Process
	log     outputLog
	turns   []int64       // where in the log the other stream goes on; the first is standard output
	clips   *[2]clip      // of the streams apart, until Start has answered
	last    int64         // where the last Read or Start ended
	changed chan struct{} // closed at the next change; nil if nobody waits
}

// stream is one of the two output streams as a writer.
type stream struct {
	p *process
	n int // 0 or 1
}

// Write keeps b.
func (s stream) Write(b []byte) (int, error) {
	p := s.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.n == 0 {
		p.info.Stdout += int64(len(b))
	} else {
		p.info.Stderr += int64(len(b))
	}
	if p.clips != nil {
		p.clips[s.n].Write(b)
	}
	p.turn(s.n)
	p.log.Write(b)
	p.wake()
	return len(b), nil
}

// maxTurns is how often a process may write to the other stream before the
// oldest of it counts as one. It is even: an odd number of them would swap the
// streams.
const maxTurns = 4096

// turn notes that what comes is of stream n. The caller has the lock.
func (p *process) turn(n int) {
	if len(p.turns)%2 == n {
		return
	}
	if len(p.turns) >= maxTurns {
		p.turns = append(p.turns[:0], p.turns[maxTurns/2:]...)
	}
	p.turns = append(p.turns, p.log.size)
}

// runs says of which stream the output from off to next is; see guest.Output.
func (p *process) runs(off, next int64) []int {
	i := sort.Search(len(p.turns), func(i int) bool { return p.turns[i] > off })
	runs := make([]int, 0, 2)
	if i%2 == 1 {
		runs = append(runs, 0)
	}
	for ; i < len(p.turns) && p.turns[i] < next; i++ {
		runs = append(runs, int(p.turns[i]-off))
		off = p.turns[i]
	}
	return append(runs, int(next-off))
}

// discard drops the output.
func (p *process) discard() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log.discard()
}

// wake tells those who wait. The caller has the lock.
func (p *process) wake() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// follow reads the output and waits for the end.
func (p *process) follow(timeout time.Duration) {
	if timeout > 0 {
		timer := time.AfterFunc(timeout, p.expire)
		defer timer.Stop()
	}
	var pending sync.WaitGroup
	for n, r := range []*os.File{p.proc.Stdout, p.proc.Stderr} {
		pending.Add(1)
		go func() {
			defer r.Close()
			held, err := p.proc.Copy(stream{p, n}, r)
			pending.Done()
			for held && err == nil { // a daemon it left behind goes on
				held, err = p.proc.Copy(stream{p, n}, r)
			}
		}()
	}
	<-p.proc.Done()
	pending.Wait()
	p.mu.Lock()
	p.info.Running = false
	p.info.Exit = p.proc.Exit()
	p.info.Duration = time.Since(p.info.Started)
	p.wake()
	p.mu.Unlock()
	close(p.ended)
}

// expire kills a process whose time is up.
func (p *process) expire() {
	select {
	case <-p.proc.Done():
		return
	default:
	}
	p.mu.Lock()
	p.info.TimedOut = true
	p.mu.Unlock()
	p.proc.Kill()
}

// snapshot returns what is known now. The caller has the lock.
func (p *process) snapshot() guest.Process {
	info := p.info
	if info.Running {
		info.Duration = time.Since(info.Started)
	}
	info.LogPath = p.log.Path()
	return info
}

// answer returns the streams apart and forgets them.
func (p *process) answer() (guest.Process, guest.Output) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.info.Running {
		p.log.spill()
	}
	p.last = p.log.size
	out := guest.Output{
		Stdout: p.clips[0].Clip(), Stderr: p.clips[1].Clip(),
		Next: p.log.size, First: p.log.first,
	}
	p.clips = nil
	return p.snapshot(), out
}

// from returns where a read begins.
func (p *process) from(req guest.ReadRequest) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	off := req.Offset
	switch {
	case req.FromLast:
		off = p.last
	case off < 0:
		off = max(0, p.log.size+off)
	}
	return min(max(off, p.log.first), p.log.size)
}

// state says whether p runs, how much it wrote, and what is closed when either
// changes.
func (p *process) state() (running bool, size int64, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	return p.info.Running, p.log.size, p.changed
}

// read returns up to maximum bytes from off on. With peek, nobody's next read
// begins elsewhere for it.
func (p *process) read(off int64, maximum int, peek bool) (guest.Process, guest.Output) {
	p.mu.Lock()
	defer p.mu.Unlock()
	off = max(off, p.log.first)
	buf := make([]byte, min(int64(wire.Clamp(maximum)), p.log.size-off))
	n := p.log.ReadAt(buf, off)
	off = max(off, p.log.first) // the file may have been lost just now
	next := off + int64(n)
	if !peek {
		p.last = next
	}
	return p.snapshot(), guest.Output{Both: buf[:n], Runs: p.runs(off, next), Offset: off, Next: next, First: p.log.first}
}

// signal sends the named signal to the process group; KILL takes all it started.
func (p *process) signal(name string) error {
	switch name {
	case "KILL":
		p.proc.Kill()
		return nil
	case "INT":
		return p.proc.Signal(syscall.SIGINT)
	case "TERM":
		return p.proc.Signal(syscall.SIGTERM)
	case "HUP":
		return p.proc.Signal(syscall.SIGHUP)
	}
	return fmt.Errorf("unknown signal %q: use INT, TERM, KILL or HUP", name)
}

// search looks for an expression in output as it grows.
type search struct {
	re  *regexp.Regexp
	pos int64  // what is before has been looked at
	buf []byte // the last of it
}

// next looks at what is new and reports whether the expression matches.
func (s *search) next(p *process) bool {
	if s.re == nil {
		return false
	}
	piece := make([]byte, maxSpan)
	for {
		p.mu.Lock()
		if s.pos < p.log.first {
			s.pos, s.buf = p.log.first, nil
		}
		n := p.log.ReadAt(piece, s.pos)
		p.mu.Unlock()
		if n == 0 {
			return false
		}
		s.pos += int64(n)
		s.buf = append(s.buf, piece[:n]...)
		if s.re.Match(s.buf) {
			return true
		}
		if over := len(s.buf) - maxSpan; over > 0 {
			s.buf = append(s.buf[:0], s.buf[over:]...)
		}
	}
}
