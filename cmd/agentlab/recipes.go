package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/config"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// followEvery is how often the profiles are looked at when nobody asks for them:
// pools follow them, and clients are told.
const followEvery = 2 * time.Second

// recipes are the profiles of an installation, as their files say them now.
type recipes struct {
	watch *config.Watch
	use   func([]sessions.Profile) // is called with those that are new
	log   *slog.Logger

	mu    sync.Mutex
	known map[string]config.Profile // as each was last when it could be used
	told  map[string]string         // what is wrong with those that can't be, by name
}

// newRecipes are the profiles of a configuration that was read from file.
func newRecipes(c config.Config, file string, log *slog.Logger) *recipes {
	r := &recipes{watch: c.Watch(file), log: log, known: map[string]config.Profile{}}
	r.learn(c.Profiles)
	return r
}

// follow keeps the profiles up to date until ctx ends.
func (r *recipes) follow(ctx context.Context) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.refresh(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// refresh takes over what has changed.
func (r *recipes) refresh(ctx context.Context) {
	r.watch.Update(ctx, func(list []config.Profile) {
		r.learn(list)
		r.use(config.Config{Profiles: list}.Recipes())
	})
}

// learn notes what the backends want to know of profiles.
func (r *recipes) learn(list []config.Profile) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.told
	r.told = map[string]string{}
	for _, p := range list {
		if p.Problem == "" {
			r.known[p.Name] = p
			continue
		}
		r.told[p.Name] = p.Problem
		if before[p.Name] != p.Problem {
			r.log.Error("a profile can't be used", "profile", p.Name, "problem", p.Problem)
		}
	}
}

func (r *recipes) of(name string) config.Profile {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known[name]
}

// user is whom we are on new machines of a profile.
func (r *recipes) user(profile string) string { return r.of(profile).User }

// channel is how guests of a profile are reached.
func (r *recipes) channel(profile string) string { return r.of(profile).Channel }
