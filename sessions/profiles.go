package sessions

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// profileSet is the profiles at one time. It does not change: there is another one.
type profileSet struct {
	list     []Profile         // the first is the default; defaults are filled in
	known    map[string]*known // by name: as last usable in this run, also of one that is gone or broken
	pools    map[string]*pool  // by name
	replaced chan struct{}     // closed when there is another set
}

// known is a profile that could be used.
type known struct {
	Profile
	idleSince time.Time   // when its IdleTimeout became what it is; zero is before the Manager began
	sound     atomic.Bool // its backend can make machines of it: it was asked
	asking    singleflight.Group
}

// newSet returns the set of these profiles that follows old, which has none at
// the beginning. What has not changed in between stays the same object.
func (m *Manager) newSet(list []Profile, old *profileSet) *profileSet {
	set := &profileSet{known: map[string]*known{}, pools: map[string]*pool{}, replaced: make(chan struct{})}
	maps.Copy(set.known, old.known)
	var now time.Time
	if old.replaced != nil {
		now = m.now()
	}
	for _, p := range list {
		if p.Problem == "" {
			p = p.WithDefaults()
			set.know(p, old.known[p.Name], now)
		}
		set.list = append(set.list, p)
		if pool := m.newPool(p, old.pools[p.Name]); pool != nil {
			set.pools[p.Name] = pool
		}
	}
	return set
}

// know notes a profile that was another one before now, or none if that is nil.
func (set *profileSet) know(p Profile, before *known, now time.Time) {
	if before != nil && reflect.DeepEqual(before.Profile, p) {
		return
	}
	k := &known{Profile: p}
	if k.idleSince = now; before != nil && before.IdleTimeout == p.IdleTimeout {
		k.idleSince = before.idleSince
	}
	set.known[p.Name] = k
}

// newPool returns the pool of a profile, nil if it has none. What is broken keeps
// what it has, until it is known what it is to be.
func (m *Manager) newPool(p Profile, old *pool) *pool {
	switch {
	case p.Problem != "", old != nil && reflect.DeepEqual(old.profile, p):
		return old
	case p.Pool.Size == 0 || m.Backends[p.Backend] == nil:
		return nil
	}
	if !m.keeping {
		old = nil
	}
	return newPool(m.ctx, p, old)
}

// broken says that there is a profile of that name and nobody can say what it is.
func (set *profileSet) broken(name string) bool {
	return slices.ContainsFunc(set.list, func(p Profile) bool { return p.Name == name && p.Problem != "" })
}

// SetProfiles replaces the profiles. The next create goes by the new ones, and
// so do pools; sandboxes keep what was recorded of them. What is recorded
// nowhere, such as the shell, they have from the profile of that name as it is
// now or, if it can't be used or is gone, as it was last.
func (m *Manager) SetProfiles(list []Profile) {
	m.init()
	m.setting.Lock()
	defer m.setting.Unlock()
	old := m.profiles.Load()
	set := m.newSet(list, old)
	if reflect.DeepEqual(set.list, old.list) {
		return
	}
	m.profiles.Store(set)
	close(old.replaced)
	for name, p := range old.pools {
		if set.pools[name] != p {
			p.retire()
			if m.keeping && set.pools[name] == nil {
				m.spawn(func(ctx context.Context) { m.dissolve(ctx, p) })
			}
		}
	}
	if m.keeping {
		m.keepPools(set, old)
	}
}

// keepPools begins to keep the pools that are not in old.
func (m *Manager) keepPools(set, old *profileSet) {
	for name, p := range set.pools {
		if old == nil || old.pools[name] != p {
			m.spawn(func(context.Context) { m.keepPool(p) })
		}
	}
}

// beginPools begins to keep the pools there are, and those that come.
func (m *Manager) beginPools() {
	m.setting.Lock()
	defer m.setting.Unlock()
	m.keeping = true
	m.keepPools(m.profiles.Load(), nil)
}

// Offered returns the profiles as they are now: the first is the default, and
// one that can't be used has a Problem. The list must not be changed; it stays the
// same one until the profiles change.
func (m *Manager) Offered(ctx context.Context) []Profile {
	m.init()
	if m.Refresh != nil {
		m.Refresh(ctx)
	}
	return m.profiles.Load().list
}

// Profile returns the profile of that name, its defaults filled in; the first
// if name is empty.
//
// Errors: Invalid of one that is unknown, with those that are known; Unavailable
// of one that can't be used, with what is wrong with it.
func (m *Manager) Profile(name string) (Profile, error) {
	m.init()
	var names []string
	for _, p := range m.profiles.Load().list {
		if p.Name == name || name == "" {
			return p, p.problem()
		}
		names = append(names, p.Name)
	}
	return Profile{}, Errorf(Invalid, "profile is %q, allowed: %s", clip(name, 64), strings.Join(names, ", "))
}

// problem is what whoever asks for it is told.
func (p Profile) problem() error {
	if p.Problem == "" {
		return nil
	}
	return unusable(p.Name, p.Problem, nil)
}

// homeless is why it can't be used if there is no such backend: backends are those
// of the start.
func (p Profile) homeless() string {
	return fmt.Sprintf("its backend %q is not configured on the server, whose daemon must be started again when it is", p.Backend)
}

// unusable is the error of a profile that can't be used until somebody mends
// something.
func unusable(name, why string, err error) error {
	return &Error{Unavailable, fmt.Sprintf("profile %s can't be used now: %s\nonce this is mended, call again; nothing needs to be restarted", name, quoted(why, 1000)), err}
}

// ProfileOf returns the profile that a sandbox has what is not recorded from, and
// whether there is any: it is unknown in this run if it was gone before.
func (m *Manager) ProfileOf(sb Sandbox) (Profile, bool) {
	m.init()
	k := m.profiles.Load().known[sb.Profile]
	if k == nil {
		return Profile{}, false
	}
	return k.Profile, true
}

// vet asks the backend of a sandbox that is wanted whether it can be made as its
// profile says, until it has said yes once to what the profile says now: what is
// missing is told before anything is recorded.
func (m *Manager) vet(ctx context.Context, want Sandbox) error {
	k := m.profiles.Load().known[want.Profile]
	v, ok := provisioner.As[provisioner.Vetter](m.Backends[want.Backend])
	if !ok || k == nil || k.Backend != want.Backend {
		return nil
	}
	own := k.makes(want)
	if own && k.sound.Load() {
		return nil
	}
	err := m.ask(ctx, k, v, want)
	if err == nil {
		if own {
			k.sound.Store(true)
		}
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	m.Log.Warn("profile can't be used", "profile", want.Profile, "err", err)
	if !own && errors.Is(err, provisioner.ErrInvalid) {
		plain := m.ask(ctx, k, v, k.sandbox())
		if plain == nil { // so it is what was asked for
			return &Error{Invalid, fmt.Sprintf("profile %s makes no such sandbox: %s", want.Profile, quoted(unavailable(err), 1000)), err}
		}
		err = plain
	}
	return unusable(want.Profile, unavailable(err), err)
}

// ask asks a backend whether it can make that sandbox, once for all who want the
// same meanwhile.
func (m *Manager) ask(ctx context.Context, k *known, v provisioner.Vetter, want Sandbox) error {
	what := fmt.Sprint(want.Cores, want.MemoryMB, want.DiskMB, want.Network)
	select {
	case result := <-k.asking.DoChan(what, func() (any, error) {
		return nil, m.question(func(ctx context.Context) error { return v.Vet(ctx, m.specOf(k.Profile, want)) })
	}):
		return result.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sandbox is what the profile says of a sandbox that asks for nothing.
func (p Profile) sandbox() Sandbox {
	return Sandbox{Profile: p.Name, Backend: p.Backend, Cores: p.Cores, MemoryMB: p.MemoryMB, DiskMB: p.DiskMB, Network: p.Network}
}

// makes says that what is wanted has the sizes and the network of the profile.
func (p Profile) makes(want Sandbox) bool {
	return want.Cores == p.Cores && want.MemoryMB == p.MemoryMB && want.DiskMB == p.DiskMB && want.Network == p.Network
}
