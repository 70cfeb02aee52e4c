package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How often memory is looked at from outside: the less is left, the more
// often, as if a machine could fill guardRate bytes a nanosecond.
const (
	guardShort = 50 * time.Millisecond
	guardLong  = 500 * time.Millisecond
	guardRate  = 4
)

// nextLook returns when to look again at a machine that may take left bytes more.
func nextLook(left int64) time.Duration {
	return min(max(time.Duration(left/guardRate), guardShort), guardLong)
}

// Guard implements [provisioner.Guarder]. Where there are no cgroups it stands
// in for them: agentlab-guest guards the memory that gVisor tells it of, but
// gVisor itself has some for each file, pipe and socket inside, and root inside
// can stop agentlab-guest.
func (p *Provisioner) Guard(ctx context.Context) {
	watched := map[string]*watch{}
	for ctx.Err() == nil {
		pause := guardLong
		// Until Dir can be opened there is no machine that we know of.
		if st, err := p.state(); err == nil {
			if st.cgroups {
				return
			}
			pause = p.look(ctx, st, watched)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// look ends the machines that are over their wall, and returns when to look
// again. watched is what it remembers from one look to the next.
func (p *Provisioner) look(ctx context.Context, st *state, watched map[string]*watch) time.Duration {
	entries, err := os.ReadDir(st.machinesDir())
	if err != nil {
		st.log.WarnContext(ctx, "guard memory", "err", err)
		return guardLong
	}
	pause, there := guardLong, make(map[string]bool, len(entries))
	for _, e := range entries {
		id := e.Name()
		there[id] = true
		w := watched[id]
		if w == nil || !w.serves(st, id) {
			if w = p.watch(st, id); w == nil {
				continue // being made or removed, dead, or not ours
			}
			watched[id] = w
		}
		left := w.wall - w.used()
		if left < 0 {
			st.log.WarnContext(ctx, "machine ended: it used more memory than it may", "id", id, "limit_bytes", w.wall)
			if err := st.kill(ctx, id, w.pid); err != nil {
				st.log.ErrorContext(ctx, "end machine that uses too much memory", "id", id, "err", err)
			}
		}
		pause = min(pause, nextLook(left))
	}
	for id := range watched {
		if !there[id] {
			delete(watched, id)
		}
	}
	return pause
}

// watch is a machine whose memory is looked at.
type watch struct {
	pid    int    // of its sandbox
	memory string // path of the file that the guest's memory is in
	wall   int64  // bytes
}

// watch returns what to look at for machine id; nil if it does not run or has
// no limit.
func (p *Provisioner) watch(st *state, id string) *watch {
	b, err := p.bundle(st, id)
	if err != nil || b.papers.MemoryMB <= 0 {
		return nil
	}
	pid, err := st.sandbox(id)
	if err != nil || pid == 0 {
		return nil
	}
	w := &watch{pid: pid, wall: memoryWall(b.papers.MemoryMB)}
	fds := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(fds)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		path := filepath.Join(fds, e.Name())
		if to, err := os.Readlink(path); err == nil && strings.HasPrefix(to, "/memfd:runsc-memory") {
			w.memory = path
			return w
		}
	}
	return nil // it is only just starting
}

// serves says whether what is watched is still the sandbox of machine id.
func (w *watch) serves(st *state, id string) bool {
	got, proc, err := st.process(w.pid)
	return err == nil && got == id && proc.sentry
}

// used returns how many bytes the machine takes of the host: the guest's, which
// are in a file in memory, and gVisor's own. 0 if it is gone.
func (w *watch) used() int64 {
	var file unix.Stat_t
	if err := unix.Stat(w.memory, &file); err != nil {
		return 0
	}
	const block = 512 // the unit of st_blocks
	return file.Blocks*block + ownMemory(w.pid)
}

// ownMemory returns how many bytes pid has in memory that are of no file.
func ownMemory(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(text)) // in pages: size, resident, of these shared or of files
	if len(f) < 3 {
		return 0
	}
	resident, err1 := strconv.ParseInt(f[1], 10, 64)
	shared, err2 := strconv.ParseInt(f[2], 10, 64)
	if err1 != nil || err2 != nil {
		return 0
	}
	return (resident - shared) * int64(os.Getpagesize())
}
