// Package failpoint lets a test kill the daemon at a place of its choosing, or
// have what it does there hang: before or after any change of the store and any
// call to the outside. What is promised after a crash, and of operations that hang,
// is tried that way, by internal/crashtest.
//
// The places are where a dependency is wrapped: the store, a backend, the
// channel to a guest, the calls to a Proxmox VE. So whatever an operation does
// through one of these has its fail-points without being told. What a package
// does to this host by itself it does in steps that it hands to
// [Points.Around]. A process that is not told of a [Dir] has no points: nothing
// of it is wrapped.
package failpoint

import (
	"cmp"
	"fmt"
	"os"
	"sync"
	"syscall"
)

// Env names the environment variable with the [Dir] of a process.
const Env = "AGENTLAB_FAILPOINTS"

// Points are the fail-points of a process. Nil, as of everybody but a test, has
// none.
type Points struct {
	dir   Dir
	watch func(point string) error // asked instead of dir, unless it is nil

	mu    sync.Mutex
	order string         // what was to be done when a point was passed last
	count map[string]int // how often each was passed since then
}

// New returns the points that the directory is asked about, nil if it is empty.
func New(dir Dir) *Points {
	if dir == "" {
		return nil
	}
	return &Points{dir: dir}
}

// Watched returns points of which f is told, for a test that plays the daemon in
// its own process. What f returns of a point before a step is returned in place of
// the step, which is not done; of a point after it, in place of the step's error.
func Watched(f func(point string) error) *Points { return &Points{watch: f} }

// Around does a step, and passes a point before and another one after it.
func (p *Points) Around(name string, step func() error) error {
	if p == nil {
		return step()
	}
	if err := p.pass(name + " before"); err != nil {
		return err
	}
	err := step()
	return cmp.Or(p.pass(name+" after"), err)
}

// around is Around for a step that has a result.
func around[T any](p *Points, name string, step func() (T, error)) (result T, err error) {
	err = p.Around(name, func() (err error) {
		result, err = step()
		return err
	})
	return result, err
}

// pass tells the test of a point, or stops or dies there if it says so.
func (p *Points) pass(name string) error {
	if p.watch != nil {
		return p.watch(name)
	}
	if !p.held(name) {
		return nil
	}
	if err := p.dir.wait(); err != nil {
		panic(fmt.Sprintf("wait at fail-point %q: %v", name, err))
	}
	return nil
}

// held notes that a point is passed, or dies, and says whether to stop. The
// points that two goroutines pass at once are passed one after the other.
func (p *Points) held(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	order := p.dir.order()
	if order == "" {
		return false
	}
	if order != p.order {
		p.order, p.count = order, map[string]int{}
	}
	p.count[name]++
	point := fmt.Sprintf("%s #%d", name, p.count[name])
	if err := p.dir.note(point); err != nil {
		panic(fmt.Sprintf("note fail-point %q: %v", point, err)) // a test that would be blind
	}
	if order != point {
		return order == holdOrder+point
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // until the kernel has come to it
}
