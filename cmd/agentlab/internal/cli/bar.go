package cli

import (
	"io"
	"os"
	"sync"

	"github.com/schollz/progressbar/v3"

	"github.com/agentlab-mcp/agentlab/tools"
)

// bar shows a person who waits how much has been copied. Nothing is left of it.
type bar struct {
	mu    sync.Mutex
	out   *os.File                 // nil if nobody looks, or it is over
	shown *progressbar.ProgressBar // nil as long as nothing has moved
}

func newBar(stderr io.Writer) *bar {
	b := &bar{}
	if out, ok := stderr.(*os.File); ok && isTerminal(stderr) {
		b.out = out
	}
	return b
}

// moved shows how much it is. What it can't write it leaves.
func (b *bar) moved(m tools.Moved) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.out == nil {
		return
	}
	if b.shown != nil {
		_ = b.shown.Set64(m.Done)
		return
	}
	most := m.Total
	if most == 0 {
		most = -1 // as the library says that it is not known
	}
	b.shown = progressbar.NewOptions64(most,
		progressbar.OptionSetWriter(b.out), progressbar.OptionSetDescription("copying"), progressbar.OptionFullWidth(),
		progressbar.OptionShowBytes(true), progressbar.OptionShowCount(), progressbar.OptionSetRenderBlankState(true),
		progressbar.OptionSpinnerType(spinner), progressbar.OptionSetSpinnerChangeInterval(0))
}

// spinner turns where it is not known how much there is. It is of ASCII.
const spinner = 9

// clear takes it away; nothing is shown any more.
func (b *bar) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shown != nil {
		_ = b.shown.Clear()
	}
	b.out = nil
}
