package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
)

// Many sandboxes: those of one owner, and as many of a hundred.
const (
	many   = 10_000
	owners = 100
	page   = 100 // sandboxes in an answer of list_sandboxes
)

// records measures looks at the records of 20,000 sandboxes that live, in a real
// store: a page of a list, and what the reaper reads while none has ended.
func (b *bench) records(ctx context.Context) (_ []figure, err error) {
	dir, err := os.MkdirTemp("", "agentlab-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	db, err := store.Open(ctx, filepath.Join(dir, "db"), slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	now := time.Now().UTC()
	for i := range 2 * many {
		owner := "one"
		if i%2 == 0 {
			owner = fmt.Sprintf("owner-%d", i/2%owners)
		}
		sb := sessions.Sandbox{
			ID: fmt.Sprintf("sb-%05d", i), Owner: owner, Profile: "p", Backend: "b", State: sessions.Ready, Handle: fmt.Sprintf("%d", i),
			Created: now.Add(time.Duration(i)), End: now.Add(time.Hour + time.Duration(i)), MaxEnd: now.Add(2 * time.Hour), MemoryMB: 100,
		}
		if _, _, err := db.Add(ctx, sb, sessions.Quota{}, sessions.Change{At: now}); err != nil {
			return nil, err
		}
	}
	m := &sessions.Manager{Store: db}
	one, err := pages(ctx, m, []string{"one"}, 2)
	if err != nil {
		return nil, err
	}
	names := make([]string, owners)
	for i := range names {
		names[i] = fmt.Sprintf("owner-%d", i)
	}
	each, err := pages(ctx, m, names, 2)
	if err != nil {
		return nil, err
	}
	const sweeps = 100
	before, err := cpuTime()
	if err != nil {
		return nil, err
	}
	for range sweeps {
		m.Sweep(ctx)
	}
	after, err := cpuTime()
	return []figure{
		slowest("list_one", "page of a list, one owner of 10,000 sandboxes: p99", one, 10),
		slowest("list_each", "page of a list, 100 owners of 100 each: p99", each, 10),
		size("sweep", "CPU of a look of the reaper, 20,000 sandboxes", "ms", ms((after-before)/sweeps), 50, sweeps),
	}, err
}

// pages lists all that each owner has, page by page, some times.
func pages(ctx context.Context, m *sessions.Manager, owners []string, times int) (s sample, err error) {
	for range times {
		for _, owner := range owners {
			ctx := sessions.WithPrincipal(ctx, sessions.Principal{Name: owner})
			for after, more := "", true; more; more = after != "" {
				start := time.Now()
				var list []sessions.Sandbox
				if list, after, err = m.Page(ctx, after, page); err != nil {
					return nil, err
				}
				s = append(s, time.Since(start))
				if len(list) != page {
					return nil, fmt.Errorf("a page of %s has %d sandboxes", owner, len(list))
				}
			}
		}
	}
	return s, nil
}

// cpuTime is what this process has used.
func cpuTime() (time.Duration, error) {
	var u syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
}
