package pvetest

import (
	"context"
	"errors"
	"time"
)

// lockWait is how long most calls wait for the lock of a VM, cloneLockWait how
// long a clone does (AbstractConfig.pm:311, API2/Qemu.pm:4607).
const (
	lockWait      = 10 * time.Second
	cloneLockWait = time.Second
)

// flock is the lock file of a VMID, which need not have a VM: exclusive, or
// shared by many. It is guarded by Server.mu.
type flock struct {
	exclusive bool
	shared    int
	changed   chan struct{} // closed when it is released
}

func (l *flock) take(shared bool) bool {
	if l.exclusive || !shared && l.shared > 0 {
		return false
	}
	if shared {
		l.shared++
	} else {
		l.exclusive = true
	}
	return true
}

func (l *flock) release(shared bool) {
	if shared {
		l.shared--
	} else {
		l.exclusive = false
	}
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// lockVM takes the lock file of a VMID and returns what releases it. log gets
// the lines that PVE::Tools::lock_file prints when it has to wait.
func (s *Server) lockVM(ctx context.Context, log func(string), vmid int, shared bool, wait time.Duration) (func(), error) {
	l := s.c.locks[vmid]
	if l == nil {
		l = &flock{}
		s.c.locks[vmid] = l
	}
	free := func() { l.release(shared) }
	if l.take(shared) {
		return free, nil
	}
	log("trying to acquire lock...")
	ctx, cancel := context.WithTimeout(ctx, max(s.scaled(wait), s.lockPatience))
	defer cancel()
	for {
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		s.unlocked(func() {
			select {
			case <-changed:
			case <-ctx.Done():
			}
		})
		if l.take(shared) {
			log(" OK")
			return free, nil
		}
		if err := ctx.Err(); err != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				return nil, err
			}
			return nil, die("can't lock file '/var/lock/qemu-server/lock-%d.conf' - got timeout", vmid)
		}
	}
}

// locked runs f with the exclusive lock of a VM.
func (j *job) locked(vmid int, f func() error) error {
	free, err := j.c.s.lockVM(j.ctx, j.print, vmid, false, lockWait)
	if err != nil {
		return err
	}
	defer free()
	return f()
}

// checkLock is AbstractConfig.pm:334.
func (vm *VM) checkLock() error {
	if l := vm.Config["lock"]; l != "" {
		return die("VM is locked (%s)", l)
	}
	return nil
}
