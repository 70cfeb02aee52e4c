package sessions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/agentlab-mcp/agentlab/internal/keylock"
	"github.com/agentlab-mcp/agentlab/internal/turns"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
)

// Manager keeps sandboxes. Its exported fields may be changed until the first
// method call. What is running between two calls, such as the making of a
// machine, belongs to [Manager.Run] and ends with it.
type Manager struct {
	Store    Store
	Backends map[string]provisioner.Provisioner
	Profiles []Profile // the first is the default; replaced by SetProfiles
	Instance string    // id of this installation, on the papers of its machines
	Quota    Quota     // of each principal
	Log      *slog.Logger
	Now      func() time.Time // nil is time.Now
	Watch    Watcher          // nil is nobody
	// Refresh calls SetProfiles if they have changed, before somebody is told of
	// them or uses one; nil is that they don't.
	Refresh func(ctx context.Context)

	ReconcileEvery time.Duration // how often records and machines are compared; 0 is 30 s
	MakeTimeout    time.Duration // from its turn until READY; 0 is 5 min
	DestroyTimeout time.Duration // one try to remove a machine, and what Destroy waits; 0 is 30 s
	IdleTimeout    time.Duration // an unused channel to a guest is closed after it; 0 is 5 min
	MaxUses        int           // concurrent Use of one sandbox; 0 is 128

	// Parallel is how many machines each backend makes at once, and how many it
	// removes; 0 is 8. More wait for their turn.
	Parallel map[string]int
	// Sandboxes that wait for their turn at one backend; beyond, Create refuses.
	MaxLine    int // of all owners; 0 is 1000
	MaxOwnLine int // of one owner; 0 is a quarter of MaxLine

	once    sync.Once
	ctx     context.Context // of all that runs between calls
	stop    context.CancelCauseFunc
	started time.Time // what was recorded before may be older than its machine
	hub     hub
	lines   lines
	alarm   alarm
	extend  keylock.Locks
	holding keylock.Locks
	slots   map[string]*backendSlots

	profiles atomic.Pointer[profileSet]
	setting  sync.Mutex // of profiles
	keeping  bool       // pools are kept

	mu       sync.Mutex
	tasks    sync.WaitGroup
	entering map[string]entrant // by the id of the sandbox
	makers   map[string]*maker
	removing map[string]*remover  // by id, or trimming
	powering map[string]*powering // by the id of the sandbox
	stuck    map[string]Stuck     // by id
}

// Quota limits what one principal has at a time. Zero is no limit.
type Quota struct {
	Sandboxes int
	MemoryMB  int
}

// backendSlots bound how much is asked of one backend at once, so that a
// thousand requests are a queue there and not a stampede.
type backendSlots struct {
	make   *turns.Turns // between owners
	remove lane         // first tries
	retry  lane         // those that follow
	sound  atomic.Bool  // it has passed its check

	looked chan struct{} // closed by look, when its machines were first compared with their records
	look   func()
	left   atomic.Pointer[[]string] // ids of the members of pools whose machines can't be read; never nil

	checking singleflight.Group
}

const (
	defaultParallel = 8
	checkLimit      = 20 * time.Second // of a backend's check, while a caller waits
)

// errStopping ends what runs when Run ends.
var errStopping = &Error{Kind: Unavailable, Msg: "the server is stopping; sandboxes go on and can be used when it is back"}

// Get returns a sandbox of the caller's and waits up to wait until it is READY
// or has ended. One that has ended is a NotFound error that says how.
func (m *Manager) Get(ctx context.Context, id string, wait time.Duration) (Sandbox, error) {
	m.init()
	sb, err := m.own(ctx, id)
	if err != nil {
		return Sandbox{}, err
	}
	if sb.State.coming() {
		sb, err = m.await(ctx, id, wait, func(sb Sandbox) bool { return !sb.State.coming() })
		if err != nil {
			return Sandbox{}, internal(id, err)
		}
	}
	if now := m.now(); sb.over(now) {
		return Sandbox{}, ended(sb, now)
	}
	return sb, nil
}

// List returns the caller's sandboxes that have not ended, the oldest first.
func (m *Manager) List(ctx context.Context) ([]Sandbox, error) {
	m.init()
	who, err := principal(ctx)
	if err != nil {
		return nil, err
	}
	all, err := m.Store.List(ctx, Query{Owner: who.Name})
	if err != nil {
		return nil, internal("", err)
	}
	return m.living(all), nil
}

// Page is List of at most limit sandboxes: of those after the one with that id,
// or the first if it is empty. next is the id to go on after, empty if that was
// the last page. An after that is no sandbox of the caller's is an Invalid error.
func (m *Manager) Page(ctx context.Context, after string, limit int) (page []Sandbox, next string, err error) {
	m.init()
	who, err := principal(ctx)
	if err != nil {
		return nil, "", err
	}
	q := Query{Owner: who.Name, Limit: limit + 1}
	if after != "" {
		last, err := m.Store.Sandbox(ctx, after)
		if err != nil && !errors.Is(err, ErrNoRecord) {
			return nil, "", internal(after, err)
		}
		if err != nil || last.Owner != who.Name {
			return nil, "", Errorf(Invalid, "after is %q, allowed: what the answer before said to go on after", clip(after, 64))
		}
		q.After = Mark{Created: last.Created, ID: last.ID}
	}
	all, err := m.Store.List(ctx, q)
	if err != nil {
		return nil, "", internal("", err)
	}
	if len(all) > limit {
		all, next = all[:limit], all[limit-1].ID
	}
	return m.living(all), next, nil
}

// living leaves out what is past its end, to which the reaper has not come yet.
func (m *Manager) living(all []Sandbox) []Sandbox {
	now, list := m.now(), make([]Sandbox, 0, len(all))
	for _, sb := range all {
		if !sb.over(now) {
			list = append(list, sb)
		}
	}
	return list
}

// Active returns how many sandboxes, of all owners and in pools, have or may have
// a machine.
func (m *Manager) Active(ctx context.Context) (int, error) {
	u, err := m.Store.Usage(ctx, "")
	return u.Sandboxes, internal("", err)
}

// own returns a sandbox of the caller's, in whatever state. All others are
// unknown to the caller.
func (m *Manager) own(ctx context.Context, id string) (Sandbox, error) {
	who, err := principal(ctx)
	if err != nil {
		return Sandbox{}, err
	}
	if !strings.HasPrefix(id, idPrefix) {
		return Sandbox{}, m.misnamed(ctx, who, id)
	}
	sb, err := m.Store.Sandbox(ctx, id)
	if err != nil {
		return Sandbox{}, internal(id, err)
	}
	if sb.Owner != who.Name {
		return Sandbox{}, unknown(id)
	}
	return sb, nil
}

// misnamed is what who reads of an id that can be nobody's: most likely it is
// the name of a sandbox, and that must not be taken for one that is gone.
func (m *Manager) misnamed(ctx context.Context, who Principal, id string) error {
	live, err := m.Store.List(ctx, Query{Owner: who.Name})
	if err != nil {
		return internal(id, err)
	}
	next := "list_sandboxes shows yours"
	for _, sb := range live {
		if sb.Name == id && id != "" {
			next = "the id of your sandbox of that name is " + sb.ID
		}
	}
	return Errorf(Invalid, "sandbox_id is %q, but ids begin with %s; %s", clip(id, 64), idPrefix, next)
}

// await returns the sandbox as soon as done says so of it, or as it is when
// wait is over. If ctx ends first, it returns that error.
func (m *Manager) await(ctx context.Context, id string, wait time.Duration, done func(Sandbox) bool) (Sandbox, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for late := wait <= 0; ; {
		changed, leave := m.hub.watch(id)
		sb, err := m.Store.Sandbox(ctx, id)
		if err != nil || late || done(sb) {
			leave()
			return sb, err
		}
		select {
		case <-changed:
		case <-timer.C:
			late = true
		case <-ctx.Done():
			leave()
			return sb, ctx.Err()
		}
		leave()
	}
}

// maxReason cuts reasons that are recorded, in bytes.
const maxReason = 508

// move changes the state in the store and wakes who waits for it. The reason may
// quote a guest or a backend, which may say a secret, and much.
func (m *Manager) move(ctx context.Context, id string, to State, ch Change) (Sandbox, error) {
	ch.At, ch.Reason = m.now(), quoted(ch.Reason, maxReason)
	sb, err := m.Store.Move(context.WithoutCancel(ctx), id, to, ch)
	if err != nil {
		return Sandbox{}, fmt.Errorf("move %s to %s: %w", id, to, err)
	}
	m.hub.publish(id)
	m.Watch.Moved(sb.Backend, to)
	if to != Destroyed && sb.Ended.Equal(ch.At) { // by this change
		m.Watch.Ended(sb.Backend, to, ch.At.Sub(sb.Created))
	}
	if to == Destroyed {
		m.freed(id)
	}
	if !to.making() {
		m.wakePools(sb.Backend)
	}
	m.Log.Info("sandbox", "id", id, "state", to, "reason", ch.Reason, "by", ch.By)
	return sb, nil
}

// backend returns the backend that makes the machine of sb, and its slots.
func (m *Manager) backend(sb Sandbox) (provisioner.Provisioner, *backendSlots, error) {
	p, ok := m.Backends[sb.Backend]
	if !ok {
		return nil, nil, fmt.Errorf("backend %q of %s is not configured: %w", sb.Backend, sb.ID, provisioner.ErrUnavailable)
	}
	return p, m.slots[sb.Backend], nil
}

// check asks a backend whether it can make machines, until it has said yes once:
// what it lacks is told before anything is recorded.
func (m *Manager) check(ctx context.Context, backend, profile string) error {
	slots := m.slots[backend]
	c, ok := provisioner.As[provisioner.Checker](m.Backends[backend])
	if !ok || slots.sound.Load() {
		return nil
	}
	var err error
	select {
	case result := <-slots.checking.DoChan("", func() (any, error) { return nil, m.checkOnce(backend, c) }):
		err = result.Err
	case <-ctx.Done():
		return ctx.Err()
	}
	if err == nil {
		slots.sound.Store(true)
		return nil
	}
	return unusable(profile, unavailable(err), err)
}

// checkOnce asks a backend for all who ask meanwhile: a burst of creates is one
// question.
func (m *Manager) checkOnce(backend string, c provisioner.Checker) error {
	err := m.question(c.Check)
	if err != nil {
		m.Log.Error("backend can't be used", "backend", backend, "err", err)
	}
	return err
}

// question asks a backend something, for who may go away meanwhile.
func (m *Manager) question(ask func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(m.ctx, checkLimit)
	defer cancel()
	err := ask(ctx)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("no answer within %v: %w", checkLimit, err)
	}
	return err
}

// dial opens the channel to sb's machine.
func (m *Manager) dial(sb Sandbox) func(ctx context.Context) (guest.Conn, error) {
	return func(ctx context.Context) (guest.Conn, error) {
		p, _, err := m.backend(sb)
		if err != nil {
			return nil, err
		}
		return p.Dial(ctx, sb.Ref())
	}
}

// init fills in what is left to defaults. Every exported method calls it first.
func (m *Manager) init() {
	m.once.Do(func() {
		if m.Now == nil {
			m.Now = time.Now
		}
		m.Log = cmp.Or(m.Log, slog.New(slog.DiscardHandler))
		if m.Watch == nil {
			m.Watch = unwatched{}
		}
		m.ReconcileEvery = cmp.Or(m.ReconcileEvery, 30*time.Second)
		m.MakeTimeout = cmp.Or(m.MakeTimeout, 5*time.Minute)
		m.MaxLine = cmp.Or(m.MaxLine, 1000)
		m.MaxOwnLine = cmp.Or(m.MaxOwnLine, max(1, m.MaxLine/4))
		m.DestroyTimeout = cmp.Or(m.DestroyTimeout, 30*time.Second)
		m.lines.idle = cmp.Or(m.IdleTimeout, 5*time.Minute)
		m.lines.uses = cmp.Or(m.MaxUses, 128)
		m.lines.spawn = m.spawn
		m.started = m.now()
		m.ctx, m.stop = context.WithCancelCause(context.Background())
		m.alarm.ring = make(chan struct{}, 1)
		m.makers, m.removing, m.stuck = map[string]*maker{}, map[string]*remover{}, map[string]Stuck{}
		m.entering, m.powering = map[string]entrant{}, map[string]*powering{}
		m.slots = map[string]*backendSlots{}
		for name := range m.Backends {
			n := cmp.Or(m.Parallel[name], defaultParallel)
			slots := &backendSlots{make: turns.New(n), looked: make(chan struct{})}
			slots.left.Store(new([]string))
			slots.look = sync.OnceFunc(func() { close(slots.looked) })
			slots.remove, slots.retry = newLanes(n)
			m.slots[name] = slots
		}
		m.profiles.Store(m.newSet(m.Profiles, &profileSet{}))
	})
}

// now is the time of records: UTC, without a monotonic part, so that it is the
// same after it was stored.
func (m *Manager) now() time.Time { return m.Now().UTC().Round(0) }

// spawn runs f until it returns; Run waits for it. It says false, and does not
// run f, if the Manager is stopping.
func (m *Manager) spawn(f func(ctx context.Context)) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return false
	}
	m.tasks.Go(func() { f(m.ctx) })
	return true
}

func principal(ctx context.Context) (Principal, error) {
	who, ok := PrincipalFrom(ctx)
	if !ok {
		return who, &Error{Kind: Internal, Err: errors.New("context has no principal")}
	}
	return who, nil
}
