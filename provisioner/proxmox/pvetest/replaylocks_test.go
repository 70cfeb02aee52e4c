package pvetest

import (
	"slices"
	"time"
)

// keepLock takes the lock of a VMID, so that all tasks of the requests that
// follow wait for it, as long as it takes.
func keepLock(id int) (keep, free func(*replay)) {
	release := func() {}
	keep = func(r *replay) {
		r.hot = true
		r.srv.Edit(func(*Cluster) {
			r.srv.lockPatience = time.Minute
			release, _ = r.srv.lockVM(r.t.Context(), func(string) {}, id, false, lockWait)
		})
	}
	free = func(r *replay) {
		r.hot = false
		r.srv.Edit(func(*Cluster) {
			release()
			r.srv.lockPatience = 0
		})
	}
	return keep, free
}

// contend makes the task of one request wait for the lock of a VMID.
func contend(id int) (keep, free func(*replay)) {
	keep, free = keepLock(id)
	return keep, both(waits, free)
}

// waits is when the newest task waits for a lock.
func waits(r *replay) {
	eventually(r.t, r.srv, "the task waits for a lock", func(c *Cluster) bool {
		return slices.Contains(c.tasks[len(c.tasks)-1].log, "trying to acquire lock...")
	})
}

// holds is when a task has the lock of a VMID.
func holds(id int) func(*replay) {
	return func(r *replay) {
		eventually(r.t, r.srv, "the lock is taken", func(c *Cluster) bool { return c.locks[id] != nil && c.locks[id].exclusive })
	}
}

// patient makes tasks wait for locks as long as it takes.
func patient(r *replay) { r.srv.Edit(func(*Cluster) { r.srv.lockPatience = time.Minute }) }

// impatient undoes patient.
func impatient(r *replay) { r.srv.Edit(func(*Cluster) { r.srv.lockPatience = 0 }) }

// first makes a change look at an option before all others.
func first(option string) func(*replay) {
	return func(r *replay) { r.srv.Edit(func(*Cluster) { r.srv.firstOption = option }) }
}
