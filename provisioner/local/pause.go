package local

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// What runsc says of a container in its state (gVisor's runsc/container/status.go).
const (
	statusRunning = "running"
	statusPaused  = "paused"
)

// holdLimit is far more than it takes to hold a machine still: only a runsc that
// hangs is ended by it.
const holdLimit = 5 * time.Minute

// runscSays is what we read of the state that runsc keeps of a machine.
type runscSays struct {
	Status  string
	Sandbox struct{ Pid int }
}

// says returns what runsc says of machine id; nothing if it says nothing yet.
// Errors: ErrUnavailable.
func (st *state) says(id string) (s runscSays, err error) {
	data, err := os.ReadFile(st.runscState(id, "state"))
	if err != nil {
		return s, unread(id, ignoreGone(err))
	}
	if json.Unmarshal(data, &s) != nil {
		return runscSays{}, nil //nolint:nilerr // runsc is about to write it
	}
	return s, nil
}

// Pause implements [provisioner.Suspender]. The sentry goes on to live and stops
// all that runs in the machine.
func (p *Provisioner) Pause(ctx context.Context, ref provisioner.Ref) error {
	return p.hold(ctx, "pause", ref, statusPaused)
}

// Resume implements [provisioner.Suspender].
func (p *Provisioner) Resume(ctx context.Context, ref provisioner.Ref) error {
	return p.hold(ctx, "resume", ref, statusRunning)
}

// hold has runsc do something to a machine, unless it is as it is to be.
func (p *Provisioner) hold(ctx context.Context, command string, ref provisioner.Ref, want string) error {
	if err := p.holdNow(ctx, command, ref, want); err != nil {
		return fmt.Errorf("%s %s: %w", command, ref.Sandbox, err)
	}
	return nil
}

func (p *Provisioner) holdNow(ctx context.Context, command string, ref provisioner.Ref, want string) error {
	st, err := p.state()
	if err != nil {
		return err
	}
	unlock, err := p.machine.Lock(ctx, ref.Sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := p.find(st, ref); err != nil {
		return err
	}
	running, err := st.running(ref.Sandbox)
	if err != nil {
		return err
	}
	if !running {
		return fmt.Errorf("it is dead: %w", provisioner.ErrUnavailable)
	}
	is, err := st.says(ref.Sandbox)
	if err != nil || is.Status == want {
		return err
	}
	t, err := p.tools()
	if err != nil {
		return err
	}
	// Killed in the middle, it would leave a machine still that it says runs.
	alone, cancel := context.WithTimeout(context.WithoutCancel(ctx), holdLimit)
	defer cancel()
	cmd := exec.CommandContext(alone, t.runsc, append(st.runscFlags(t, st.machineDir(ref.Sandbox), 0), command, ref.Sandbox)...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + guestPath, "TMPDIR=" + st.runscDir()}
	return st.step("local "+command, func() error {
		if said, err := cmd.CombinedOutput(); err != nil {
			st.log.ErrorContext(ctx, "runsc failed", "command", command, "sandbox", ref.Sandbox, "err", err, "said", strings.TrimSpace(string(said)))
			return fmt.Errorf("runsc: %w: %w", err, provisioner.ErrUnavailable)
		}
		return nil
	})
}
