package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// late is a backend that need not be usable when the daemon starts: its
// program is missing, its server is down, its token is wrong. Until it has
// passed its check once it follows its settings S, so that nothing needs to be
// restarted when they are mended; from then on it is what it is.
type late[S comparable] struct {
	read  func() (S, error) // the settings as they are now
	build func(S) (provisioner.Provisioner, error)

	mu       sync.Mutex
	settings S                       // of backend
	backend  provisioner.Provisioner // nil until one could be built
	sound    bool
}

// get returns the backend, or why there is none.
func (l *late[S]) get() (provisioner.Provisioner, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sound {
		return l.backend, nil
	}
	s, err := l.read()
	if err == nil && (l.backend == nil || s != l.settings) {
		l.backend = nil
		var p provisioner.Provisioner
		if p, err = l.build(s); err == nil { // a failed build's p may be a nil pointer that is not nil
			l.settings, l.backend = s, p
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, provisioner.ErrUnavailable)
	}
	return l.backend, nil
}

// Check implements [provisioner.Checker].
func (l *late[S]) Check(ctx context.Context) error {
	p, err := l.get()
	if err != nil {
		return err
	}
	if c, ok := provisioner.As[provisioner.Checker](p); ok {
		if err := c.Check(ctx); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sound = l.backend == p
	return nil
}

// Unwrap lets the backend's other abilities be found.
func (l *late[S]) Unwrap() provisioner.Provisioner {
	p, err := l.get()
	if err != nil {
		return nil
	}
	return p
}

// Create implements [provisioner.Provisioner].
func (l *late[S]) Create(ctx context.Context, spec provisioner.Spec) (provisioner.Machine, error) {
	p, err := l.get()
	if err != nil {
		return provisioner.Machine{}, err
	}
	return p.Create(ctx, spec)
}

// Destroy implements [provisioner.Provisioner].
func (l *late[S]) Destroy(ctx context.Context, ref provisioner.Ref) error {
	p, err := l.get()
	if err != nil {
		return err
	}
	return p.Destroy(ctx, ref)
}

// List implements [provisioner.Provisioner].
func (l *late[S]) List(ctx context.Context) ([]provisioner.Machine, error) {
	p, err := l.get()
	if err != nil {
		return nil, err
	}
	return p.List(ctx)
}

// Dial implements [provisioner.Provisioner].
func (l *late[S]) Dial(ctx context.Context, ref provisioner.Ref) (guest.Conn, error) {
	p, err := l.get()
	if err != nil {
		return nil, err
	}
	return p.Dial(ctx, ref)
}

// Relabel implements [provisioner.Relabeler], which every backend does.
func (l *late[S]) Relabel(ctx context.Context, ref provisioner.Ref, papers provisioner.Papers) error {
	p, err := l.get()
	if err != nil {
		return err
	}
	r, ok := provisioner.As[provisioner.Relabeler](p)
	if !ok {
		return fmt.Errorf("%T can't change papers", p)
	}
	return r.Relabel(ctx, ref, papers)
}
