package template

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// resultFile is where the script of the first boot leaves what came of it.
const resultFile = "/run/agentlab-template/result"

func (b *Builder) pauseTime() time.Duration { return cmp.Or(b.pause, defaultPause) }
func (b *Builder) undoTime() time.Duration  { return cmp.Or(b.undo, defaultUndo) }

// boot starts the machine and waits until its first boot has installed all.
func (r *build) boot(ctx context.Context) (string, error) {
	if r.phase != draft {
		return "", nil
	}
	status, err := r.Client.Status(ctx, r.vm)
	if err != nil {
		return "", err
	}
	if !status.Running() {
		id, err := r.insist(ctx, func(ctx context.Context) (pve.UPID, error) { return r.Client.Start(ctx, r.vm) }, r.started)
		if err != nil {
			return "", fmt.Errorf("start machine %s: %w%s", r.vm, err, r.tail(ctx, id))
		}
	}
	for {
		ready, err := r.ready(ctx)
		if ready || err != nil {
			return strings.Join(append([]string{"qemu-guest-agent"}, r.spec.Packages...), " "), err
		}
		if !pve.Sleep(ctx, r.pauseTime()) {
			return "", fmt.Errorf("gave up waiting for the guest agent of machine %s: %w; %s", r.vm, ctx.Err(), r.hint())
		}
	}
}

func (r *build) started(ctx context.Context) (bool, error) {
	s, err := r.settle(ctx, r.vm)
	return s.Running(), err
}

// hint is what to look at when the guest can't say what is wrong.
func (r *build) hint() string {
	return fmt.Sprintf("usual causes are no DHCP on %s, or no way from there to the package mirrors; "+
		"to see it, build with --keep and look at the console: qm terminal %d", r.spec.Bridge, r.vm.ID)
}

// ready asks once whether the first boot is done.
func (r *build) ready(ctx context.Context) (bool, error) {
	status, err := r.Client.Status(ctx, r.vm)
	switch {
	case passing(err), ctx.Err() != nil:
		return false, nil //nolint:nilerr // it is asked again, if there is time
	case err != nil:
		return false, err
	case !status.Running():
		return false, fmt.Errorf("machine %s switched itself off before it had a guest agent: packages could not be installed; %s", r.vm, r.hint())
	}
	f, err := r.Client.AgentReadFile(ctx, r.vm, resultFile)
	result := strings.TrimSpace(string(f.Data))
	switch {
	case passing(err), ctx.Err() != nil, errors.Is(err, pve.NotFound) && !pve.Gone(err, r.vm):
		return false, nil //nolint:nilerr // it is asked again, if there is time
	case err != nil:
		return false, fmt.Errorf("ask the guest agent: %w", err)
	case result != "ok":
		return false, fmt.Errorf("the first boot %s", end(result))
	}
	return true, nil
}

// maxSaid is how many bytes of what a guest says are told.
const maxSaid = 2000

// end returns the end of what a guest says: what is wrong stands there.
func end(text string) string {
	text = strings.TrimSpace(strings.ToValidUTF8(text, "?"))
	if len(text) <= maxSaid {
		return text
	}
	return "... " + strings.ToValidUTF8(text[len(text)-maxSaid:], "")
}

// passing reports whether a call that failed so may succeed later.
func passing(err error) bool {
	for _, k := range []pve.Kind{
		pve.AgentNotRunning, pve.AgentTimeout, pve.Interrupted, pve.ConnectionLost, pve.Unreachable, pve.NodeUnreachable,
	} {
		if errors.Is(err, k) {
			return true
		}
	}
	return false
}

// clean removes from the disk what clones must not share.
func (r *build) clean(ctx context.Context) (string, error) {
	if r.phase != draft {
		return "", nil
	}
	for {
		again, err := r.cleanOnce(ctx)
		if err != nil {
			return "", err
		}
		if !again {
			return "what identifies it is gone from its disk", r.reach(ctx, clean, pve.Change{})
		}
		if !pve.Sleep(ctx, r.pauseTime()) {
			return "", ctx.Err()
		}
	}
}

// cleanOnce runs the script, which may run again when it is not known how it
// ended: its end is told once, and the answer may be lost.
func (r *build) cleanOnce(ctx context.Context) (again bool, err error) {
	pid, err := r.Client.AgentExec(ctx, r.vm, []string{"/bin/sh", "-c", cleanUp}, nil)
	if passing(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("run a command in the guest: %w", err)
	}
	for {
		s, err := r.Client.AgentExecStatus(ctx, r.vm, pid)
		switch {
		case errors.Is(err, pve.NotFound) && !pve.Gone(err, r.vm):
			return true, nil
		case err != nil && !passing(err):
			return false, fmt.Errorf("ask how a command in the guest ended: %w", err)
		case err == nil && bool(s.Exited) && s.ExitCode == 0 && s.Signal == 0:
			return false, nil
		case err == nil && bool(s.Exited):
			return false, fmt.Errorf("the guest could not be cleaned (exit code %d, signal %d): %s", s.ExitCode, s.Signal, end(string(s.Out)+"\n"+string(s.Err)))
		}
		if !pve.Sleep(ctx, r.pauseTime()) {
			return false, ctx.Err()
		}
	}
}
