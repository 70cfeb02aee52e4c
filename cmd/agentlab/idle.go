package main

import (
	"context"
	"net"
	"sync"
	"time"
)

// door is a listener that can be shut for good at a moment when nobody is
// inside. Who comes after that finds no greeting, and starts another daemon.
type door struct {
	net.Listener

	mu      sync.Mutex
	waiting bool // the server is in Accept, so it has counted all who came in
	shut    bool
}

// Accept implements [net.Listener].
func (d *door) Accept() (net.Conn, error) {
	for {
		d.wait(true)
		conn, err := d.Listener.Accept()
		shut := d.wait(false)
		if err != nil || !shut {
			return conn, err
		}
		_ = conn.Close()
	}
}

func (d *door) wait(waiting bool) (shut bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting = waiting
	return d.shut
}

// shutIf shuts the door if unused says so, and nobody comes in meanwhile.
func (d *door) shutIf(unused func() bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = d.waiting && unused()
	return d.shut
}

// untilIdle returns when there was neither sandbox nor client for the time
// limit, with the door shut, or when ctx ends.
func untilIdle(ctx context.Context, limit time.Duration, in *installation, d *door, clients func() int) error {
	unused := func() bool {
		if clients() > 0 {
			return false
		}
		n, err := in.sandboxes(ctx)
		return n == 0 && err == nil
	}
	for since := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(limit / 10):
		}
		if !unused() {
			since = time.Now()
			continue
		}
		if time.Since(since) >= limit && d.shutIf(unused) {
			in.log.Info("idle", "for", limit)
			return nil
		}
	}
}
