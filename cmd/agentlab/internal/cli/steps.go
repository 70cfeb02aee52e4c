package cli

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// steps shows the steps of a call and when they began, to a person who waits.
type steps struct {
	out   io.Writer // nil if nobody looks
	start time.Time

	mu   sync.Mutex
	last string
}

func newSteps(stderr io.Writer) *steps {
	s := &steps{start: time.Now()}
	if isTerminal(stderr) {
		s.out = stderr
	}
	return s
}

// step is told the step that the call is at; it may be told one twice.
func (s *steps) step(step string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out == nil || step == s.last {
		return
	}
	s.last = step
	_, _ = fmt.Fprintf(s.out, "%-12s %6.1f s\n", upper(step), time.Since(s.start).Seconds())
}

// isTerminal says whether a stream is one that a person sits at.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
