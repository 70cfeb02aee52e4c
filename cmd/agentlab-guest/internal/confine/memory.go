package confine

import (
	"context"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/proc"
)

// How often memory is looked at while a process runs: the less is left, the
// more often, as if a program could fill fillRate bytes a second.
const (
	shortLook = 50 * time.Millisecond
	longLook  = 500 * time.Millisecond
	fillRate  = 2 << 30

	// room is what may be used beyond the limit before the host ends the machine
	// (memoryWall of provisioner/local has more): so much later a look may be. In
	// a small machine looks would else be most of what it does.
	room = 128 << 20

	// deathLook is between looks whether what was killed has given back its
	// memory, and deathTime what it may take: it is dead before that is done,
	// and to kill the next biggest meanwhile is to kill an innocent one.
	deathLook = 5 * time.Millisecond
	deathTime = 200 * time.Millisecond

	// patience is for how long memory may stay over the limit, whatever is
	// killed. What then holds it are files in memory, or programs that start
	// faster than they are killed, and only the end of the machine frees it.
	patience = 3 * time.Second
)

// guardMemory kills the biggest process whenever all together use more than
// limit bytes, and ends the machine when that does not help. While no process
// runs it sleeps.
func guardMemory(ctx context.Context, host *proc.Host, limit int64) {
	for {
		select {
		case <-host.Started:
		case <-ctx.Done():
			return
		}
		within := time.Now()
		for !proc.Idle() {
			left := limit - used()
			pause := min(max(time.Duration(left+room)*time.Second/fillRate, shortLook), longLook)
			switch now := time.Now(); {
			case left > 0:
				within = now
			case now.Sub(within) > patience:
				_ = syscall.Kill(os.Getpid(), syscall.SIGTERM) // with us the machine ends
				return
			default:
				host.KillBiggest()
				awaitRoom(limit, limit-left)
				pause = 0
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
		}
	}
}

// awaitRoom waits a moment for less than limit bytes to be used, unless they
// grow from n on: then there is more than one to be killed.
func awaitRoom(limit, n int64) {
	for end := time.Now().Add(deathTime); time.Now().Before(end); time.Sleep(deathLook) {
		if u := used(); u < limit || u > n+limit/8 {
			return
		}
	}
}

// used returns how many bytes of memory the machine uses, files in memory too;
// 0 if it can't be read. It is one system call, since it is made all the time.
func used() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return int64(info.Totalram-info.Freeram) * int64(info.Unit) //nolint:gosec // of a machine's memory
}
