package sessions_test

import (
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
)

func TestResize(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		ctx := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{})
		bigger := sessions.Size{Cores: 4, MemoryMB: 300}
		if k, msg := kind(t, second(l.Resize(ctx, sb.ID, bigger))); k != sessions.Conflict || !strings.Contains(msg, "is READY; stop it with stop_sandbox first") {
			t.Errorf("Resize of one that runs: %v %s", k, msg)
		}
		if _, err := l.Stop(ctx, sb.ID, time.Minute); err != nil {
			t.Fatal(err)
		}
		for want, size := range map[string]sessions.Size{
			"nothing is to be changed": {}, "cpu is 9, allowed: 1 to 8": {Cores: 9},
			"disk_gb is 3, allowed: 4 or more":     {DiskMB: 3 << 10},
			"memory_mb is 401, allowed: 64 to 400": {MemoryMB: 401},
		} {
			if k, msg := kind(t, second(l.Resize(ctx, sb.ID, size))); k != sessions.Invalid || !strings.Contains(msg, want) {
				t.Errorf("Resize to %+v: %v %s", size, k, msg)
			}
		}
		if k, _ := kind(t, second(l.Resize(as(t, "bob"), sb.ID, bigger))); k != sessions.NotFound {
			t.Errorf("Resize of another's: %v", k)
		}
		if got := l.recorded(t, sb.ID); got.Cores != sb.Cores || l.world.count("resize") > 0 {
			t.Errorf("it has %d cores after what was refused", got.Cores)
		}
		for range 2 {
			got, err := l.Resize(ctx, sb.ID, bigger)
			if err != nil || got.Cores != 4 || got.MemoryMB != 300 || got.DiskMB != sb.DiskMB || got != l.recorded(t, sb.ID) {
				t.Fatalf("Resize: %+v, %v", got, err)
			}
		}
		mach, _ := l.world.machine(sb.ID)
		if mach.Papers.MemoryMB != 300 || !mach.Papers.Stopped || mach.OS != "{Cores:4 MemoryMB:300 DiskMB:0}" {
			t.Errorf("its machine is %+v", mach)
		}
		if got, err := l.Resize(ctx, sb.ID, sessions.Size{MemoryMB: 64}); err != nil || got.MemoryMB != 64 || got.Cores != 4 {
			t.Errorf("Resize to less memory: %+v, %v", got, err)
		}
		if _, err := l.Start(ctx, sb.ID, time.Minute); err != nil {
			t.Error(err)
		}
		if events := l.events(t, sb.ID); !strings.Contains(events, "resize alice  cpu 4, memory_mb 300, disk_mb 4096 0s\n") {
			t.Errorf("events:\n%s", events)
		}
	})
}

// A sandbox that can't be resized is recorded as it was, and one that would be
// over the quota is refused before anybody is asked.
func TestResizeFails(t *testing.T) {
	inPowerLab(t, func(t *testing.T, l *powerLab) {
		l.stop()
		*l.lab = *newLab(l.t, l.world, l.path)
		l.Backends["mem"] = switchable{l.world}
		l.Quota = sessions.Quota{Sandboxes: 2, MemoryMB: 250}
		l.run()
		ctx := as(t, "alice")
		sb := l.create(t, sessions.CreateRequest{})
		l.create(t, sessions.CreateRequest{})
		if _, err := l.Stop(ctx, sb.ID, time.Minute); err != nil {
			t.Fatal(err)
		}
		if k, msg := kind(t, second(l.Resize(ctx, sb.ID, sessions.Size{MemoryMB: 151}))); k != sessions.Exhausted || !strings.Contains(msg, "200 of 250 MB of memory in use, 51 MB more asked for") {
			t.Errorf("Resize beyond the quota: %v %s", k, msg)
		}
		if n := l.world.count("resize"); n > 0 {
			t.Errorf("its backend was asked %d times", n)
		}
		l.world.fail("resize", provisioner.ErrExhausted)
		if k, msg := kind(t, second(l.Resize(ctx, sb.ID, sessions.Size{MemoryMB: 150}))); k != sessions.Unavailable || !strings.Contains(msg, "could not be resized: the server has no room") {
			t.Errorf("Resize without room: %v %s", k, msg)
		}
		if got := l.recorded(t, sb.ID); got.MemoryMB != 100 {
			t.Errorf("it is recorded with %d MB", got.MemoryMB)
		}
		l.world.onStep(nil)
		if got, err := l.Resize(ctx, sb.ID, sessions.Size{MemoryMB: 150}); err != nil || got.MemoryMB != 150 {
			t.Errorf("Resize: %+v, %v", got, err)
		}
	})
}

func second(_ sessions.Sandbox, err error) error { return err }
