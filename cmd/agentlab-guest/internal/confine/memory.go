package confine

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"time"

	"github.com/agentlab-mcp/agentlab/cmd/agentlab-guest/internal/proc"
)

// How often memory is looked at while a command runs: the less is left, the
// more often, as if a program could fill fillRate bytes a second.
const (
	shortLook = 50 * time.Millisecond
	longLook  = 500 * time.Millisecond
	fillRate  = 2 << 30
)

// guardMemory kills the biggest process whenever all together use more than
// limit bytes. While no command runs it sleeps.
func guardMemory(ctx context.Context, host *proc.Host, limit int64) {
	for {
		select {
		case <-host.Started:
		case <-ctx.Done():
			return
		}
		for host.Busy() {
			pause := shortLook
			if left := limit - used(); left > 0 {
				pause = min(max(time.Duration(left)*time.Second/fillRate, shortLook), longLook)
			} else {
				host.KillBiggest()
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
		}
	}
}

// used returns how many bytes of memory the machine uses, files in memory too;
// 0 if it can't be read.
func used() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	return field(text, "MemTotal:") - field(text, "MemFree:")
}

// field returns a number of /proc/meminfo, which is in kB, in bytes.
func field(text []byte, name string) int64 {
	for line := range bytes.Lines(text) {
		if f := bytes.Fields(line); len(f) > 1 && string(f[0]) == name {
			kb, _ := strconv.ParseInt(string(f[1]), 10, 64)
			return kb << 10
		}
	}
	return 0
}
