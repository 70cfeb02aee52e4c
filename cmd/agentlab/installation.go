package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sync/errgroup"

	"github.com/agentlab-mcp/agentlab/internal/auth"
	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/internal/failpoint"
	"github.com/agentlab-mcp/agentlab/internal/obs"
	"github.com/agentlab-mcp/agentlab/mcpserver"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
)

var _ mcpserver.Authenticator = (*installation)(nil)

// installation is what a daemon keeps: a configuration, a key, a store,
// backends. Any of them may be broken when the daemon starts. It serves all the
// same, so that a client is told what is wrong in an answer, where somebody
// reads it, and opening is tried again at each call until it succeeds. A
// backend that is broken concerns only its profiles: see late.
type installation struct {
	paths config.Paths
	log   *slog.Logger
	level *slog.LevelVar

	revoked func(principal string) // is told whose token no longer counts
	watch   *obs.Watch             // nil is nobody
	points  *failpoint.Points

	define func([]sessions.Profile) // is told of profiles that are new; nil is nobody

	database string // path of one that is made anew; empty is that of the state directory

	turn   chan struct{} // holds one token while somebody opens
	lock   *flock.Flock  // of the state directory
	state  *os.File
	told   string // the last error, so as to log it once
	opened atomic.Pointer[opened]
}

// opened is what there is once nothing is broken.
type opened struct {
	store    *store.DB
	manager  *sessions.Manager
	bearer   auth.Bearer
	profiles *recipes
}

// Manager implements [tools.Source].
func (in *installation) Manager(ctx context.Context) (*sessions.Manager, error) {
	o, err := in.use(ctx)
	if err != nil {
		return nil, err
	}
	return o.manager, nil
}

// Tokens implements [tools.TokenSource].
func (in *installation) Tokens(ctx context.Context) (*auth.Tokens, error) {
	o, err := in.use(ctx)
	if err != nil {
		return nil, err
	}
	return o.bearer.Tokens, nil
}

// Authenticate implements [mcpserver.Authenticator].
func (in *installation) Authenticate(ctx context.Context, token string) (sessions.Principal, error) {
	o, err := in.use(ctx)
	if err != nil {
		return sessions.Principal{}, err
	}
	return o.bearer.Authenticate(ctx, token)
}

// use opens the installation if that has not been done yet.
func (in *installation) use(ctx context.Context) (*opened, error) {
	if o := in.opened.Load(); o != nil {
		return o, nil
	}
	select {
	case in.turn <- struct{}{}:
		defer func() { <-in.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if o := in.opened.Load(); o != nil {
		return o, nil
	}
	// Opening is for all, so it does not end with the call that began it.
	o, err := in.open(context.WithoutCancel(ctx))
	if err != nil {
		if in.told != err.Error() {
			in.told = err.Error()
			in.log.Error("cannot open the installation", "error", err)
		}
		return nil, fmt.Errorf("%w\nonce this is mended, call again; nothing needs to be restarted", err)
	}
	in.opened.Store(o)
	return o, nil
}

// records returns the store once all is open.
func (in *installation) records(ctx context.Context) (sessions.Store, error) {
	m, err := in.Manager(ctx)
	if err != nil {
		return nil, err
	}
	return m.Store, nil
}

// record keeps an event.
func (in *installation) record(ctx context.Context, e sessions.Event) error {
	db, err := in.records(ctx)
	if err != nil {
		return err
	}
	return db.Log(ctx, e)
}

// open opens all. What it may leave open when it fails is the lock.
func (in *installation) open(ctx context.Context) (*opened, error) {
	cfg, err := config.Load(in.paths.Config)
	if err != nil {
		return nil, err
	}
	issuer, err := in.issuer(cfg.OAuth)
	if err != nil {
		return nil, err
	}
	if err := in.lockState(ctx, 0); err != nil {
		return nil, err
	}
	key, id, db, err := in.openState(ctx)
	if err != nil {
		return nil, err
	}
	in.level.Set(cfg.Level())
	tokens := &auth.Tokens{Store: in.points.Tokens(db), Log: in.log, Revoked: in.revoked}
	profiles := newRecipes(cfg, in.paths.Config, in.log)
	o := &opened{store: db, bearer: auth.Bearer{Tokens: tokens, Issuer: issuer}, profiles: profiles, manager: &sessions.Manager{
		Store:    in.points.Store(db),
		Backends: in.backends(cfg, profiles, key, id),
		Profiles: cfg.Recipes(),
		Refresh:  profiles.refresh,
		Instance: id,
		Quota:    sessions.Quota{Sandboxes: cfg.QuotaSandboxes, MemoryMB: cfg.QuotaMemoryMB},
		Log:      in.log,
		Watch:    in.watcher(),

		ReconcileEvery: cfg.ReconcileEvery,
		MaxUses:        cfg.SandboxMaxCalls,
		Parallel:       parallel(cfg),
	}}
	in.describe(cfg.Recipes())
	profiles.use = func(list []sessions.Profile) {
		o.manager.SetProfiles(list)
		in.describe(list)
	}
	return o, nil
}

// describe has the tools described by profiles that are new.
func (in *installation) describe(list []sessions.Profile) {
	if in.define != nil {
		in.define(list)
	}
}

// openState opens what is kept in the state directory, and makes it at the very
// first start.
func (in *installation) openState(ctx context.Context) (key provisioner.Key, id string, db *store.DB, err error) {
	err = in.points.Around("open key", func() (err error) {
		key, err = config.InstanceKey(in.state)
		return err
	})
	if err != nil {
		return key, "", nil, err
	}
	if id, err = config.InstanceID(key); err != nil {
		return key, "", nil, err
	}
	err = in.points.Around("open store", func() (err error) {
		db, err = in.openStore(ctx, id, key)
		return err
	})
	return key, id, db, err
}

// openStore opens the database, if it is about the machines of our key.
func (in *installation) openStore(ctx context.Context, id string, key provisioner.Key) (*store.DB, error) {
	path := cmp.Or(in.database, filepath.Join(in.paths.State, config.DatabaseFile))
	left, err := store.Tidy(path)
	if err != nil {
		return nil, fmt.Errorf("tidy up beside %s: %w", path, err)
	}
	if len(left) > 0 {
		in.log.Warn("a rebuild of the database was cut short; what it left is removed, and the database is as it was before", "path", path, "removed", left)
	}
	db, err := store.Open(ctx, path, in.log)
	if err != nil {
		return nil, err
	}
	if err := db.Belong(ctx, id, key); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", path, err), db.Close())
	}
	return db, nil
}

// watcher returns who is told what becomes of machines; nil is nobody, which a
// nil watch would not be.
func (in *installation) watcher() sessions.Watcher {
	if in.watch == nil {
		return nil
	}
	return in.watch
}

// issuer returns the identity provider whose tokens count; nil is none.
func (in *installation) issuer(cfg config.OAuth) (*auth.Issuer, error) {
	if cfg.Issuer == "" {
		return nil, nil
	}
	client, err := cfg.Client()
	if err != nil {
		return nil, err
	}
	return &auth.Issuer{URL: cfg.Issuer, Audience: cfg.Audience, Scopes: cfg.ScopeMap(), Client: client, Log: in.log}, nil
}

// lockState makes sure that nobody else keeps this state directory, waiting at
// most wait for whoever does.
//
// Errors: errHeld, and those of the directory.
func (in *installation) lockState(ctx context.Context, wait time.Duration) error {
	if in.lock != nil {
		return nil
	}
	if in.state == nil {
		dir, err := config.OpenDir(in.paths.State, config.StateMode())
		if err != nil {
			return err
		}
		in.state = dir
	}
	lock, err := hold(ctx, in.state, config.LockFile, in.note(), wait)
	in.lock = lock
	return err
}

// note is what a lock file of ours says.
func (in *installation) note() string {
	return fmt.Sprintf("process %d, listening on %s", os.Getpid(), filepath.Join(in.paths.Runtime, in.paths.Socket))
}

// run opens the installation, also when no client asks, since there may be
// sandboxes that are to end, and keeps them until ctx ends.
func (in *installation) run(ctx context.Context) error {
	const retry = 10 * time.Second
	for {
		o, err := in.use(ctx)
		if err == nil {
			var group errgroup.Group
			group.Go(func() error { o.profiles.follow(ctx); return nil })
			group.Go(func() error { return o.manager.Run(ctx) })
			return group.Wait()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retry):
		}
	}
}

// sandboxes counts those of all users. A broken installation has none: nobody
// can use them.
func (in *installation) sandboxes(ctx context.Context) (int, error) {
	o := in.opened.Load()
	if o == nil {
		return 0, nil
	}
	return o.manager.Active(ctx)
}

// stuck returns what can't be removed. A broken installation removes nothing.
func (in *installation) stuck() []sessions.Stuck {
	o := in.opened.Load()
	if o == nil {
		return nil
	}
	return o.manager.AllStuck()
}

// load returns how busy the backends are. A broken installation has none.
func (in *installation) load() []sessions.Load {
	o := in.opened.Load()
	if o == nil {
		return nil
	}
	return o.manager.Load()
}

// close lets go of all. Sandboxes go on.
func (in *installation) close() error {
	var errs []error
	if o := in.opened.Load(); o != nil {
		errs = append(errs, o.store.Close())
	}
	if in.lock != nil {
		errs = append(errs, in.lock.Close())
	}
	if in.state != nil {
		errs = append(errs, in.state.Close())
	}
	return errors.Join(errs...)
}
