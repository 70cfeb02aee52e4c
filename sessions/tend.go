package sessions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sethvargo/go-retry"

	"github.com/agentlab-mcp/agentlab/internal/turns"
	"github.com/agentlab-mcp/agentlab/provisioner"
)

// pool keeps the machines of one profile ready.
type pool struct {
	profile Profile
	gate    *turns.Turns  // to claims, one at a time, in turn between owners
	ring    chan struct{} // something has changed
	begun   chan struct{} // closed when the backend was asked once for the recipe

	held map[string]*line // of members; only its keeper uses it

	ctx    context.Context // ends when another pool replaces this one, or none
	retire context.CancelFunc
	ended  chan struct{} // closed when it is kept no more
	before *pool         // which must be kept no more when this one is; nil is none

	mu      sync.Mutex
	recipe  string        // of a member made now; empty until known
	asked   time.Time     // when the backend said so last, by the monotonic clock
	backoff retry.Backoff // nil after a success
	rests   time.Time     // until then nothing is made, by the monotonic clock
	making  []string      // ids of members whose making has begun and not ended
}

func newPool(ctx context.Context, profile Profile, before *pool) *pool {
	p := &pool{
		profile: profile, gate: turns.New(1), ring: make(chan struct{}, 1), begun: make(chan struct{}), held: map[string]*line{},
		ended: make(chan struct{}), before: before,
	}
	p.ctx, p.retire = context.WithCancel(ctx)
	return p
}

func (p *pool) wake() {
	select {
	case p.ring <- struct{}{}:
	default:
	}
}

// made notes how a try ended: after a failure the pool rests, the longer the more of
// them there were in a row.
func (p *pool) made(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rest(err)
}

// rest is made with p.mu held.
func (p *pool) rest(err error) {
	if err == nil {
		p.backoff, p.rests = nil, time.Time{}
		return
	}
	if p.backoff == nil {
		p.backoff = newBackoff()
	}
	pause, _ := p.backoff.Next() // without a limit of tries it never stops
	p.rests = time.Now().Add(pause)
}

// begin notes that a member is being made, which end ends.
func (p *pool) begin(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.making = append(p.making, id)
}

// end notes how the making of a member ended, in one: whoever sees that it has sees
// the rest. One of another recipe was made for a pool before, and drained.
func (p *pool) end(sb Sandbox, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.making = slices.DeleteFunc(p.making, func(id string) bool { return id == sb.ID })
	if sb.Recipe == p.recipe {
		p.rest(err)
	}
}

// untold says that a member could not be made, of which the pool has not been told
// yet: it rests then, and is not to try another one before.
func (p *pool) untold(members []Sandbox) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.making, func(id string) bool {
		return !slices.ContainsFunc(members, func(sb Sandbox) bool { return sb.ID == id && sb.State.Live() })
	})
}

// state returns what a member is made of now, empty if that is not known, when
// that was asked last, and until when nothing is made.
func (p *pool) state() (recipe string, asked, rests time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.recipe, p.asked, p.rests
}

// poolOf returns the pool that sb is, or could be, a member of; nil if there is none.
func (m *Manager) poolOf(sb Sandbox) *pool {
	if p := m.profiles.Load().pools[sb.Profile]; p != nil && p.profile.Backend == sb.Backend {
		return p
	}
	return nil
}

// wakePools tells the pools of a backend that something of theirs, or of those who
// come before them, has changed.
func (m *Manager) wakePools(backend string) {
	for _, p := range m.profiles.Load().pools {
		if p.profile.Backend == backend {
			p.wake()
		}
	}
}

// keepPool keeps a pool at its size until it is retired, from when its backend was
// looked at: members without a record are there too, and a record may be older than
// its machine.
func (m *Manager) keepPool(p *pool) {
	ctx, begin := p.ctx, sync.OnceFunc(func() { close(p.begun) })
	defer close(p.ended)
	defer begin()
	defer m.holdLines(p, nil)
	if p.before != nil {
		<-p.before.ended
		p.before = nil
	}
	select {
	case <-m.slots[p.profile.Backend].looked:
	case <-ctx.Done():
		return
	}
	for {
		look, err := m.tend(ctx, p)
		begin()
		if err != nil && ctx.Err() == nil {
			p.made(err)
			m.Log.Error("pool", "profile", p.profile.Name, "err", err)
		}
		wait := min(m.ReconcileEvery, max(0, look.Sub(m.now())))
		if _, _, rests := p.state(); time.Until(rests) > 0 {
			wait = min(m.ReconcileEvery, time.Until(rests))
		}
		select {
		case <-p.ring:
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// tend does what a pool needs now, and returns when it needs more.
func (m *Manager) tend(ctx context.Context, p *pool) (look time.Time, err error) {
	members, err := m.Store.List(ctx, Query{Owner: PoolOwner(p.profile.Name), Ending: true})
	if err != nil {
		return forever, err
	}
	m.holdLines(p, members)
	_, _, rests := p.state()
	resting := time.Until(rests) > 0
	if !resting {
		err = m.askRecipe(ctx, p)
	}
	recipe, _, _ := p.state()
	if recipe == "" { // nothing is known of what there is, and it may do
		return forever, err
	}
	u := p.profile.Pool.plan(members, recipe, m.now())
	for i, sb := range u.drain {
		err = errors.Join(err, m.drain(ctx, sb, u.why[i]))
	}
	resting = resting || p.untold(members)
	for range u.make {
		if err != nil || resting || !m.slots[p.profile.Backend].make.Idle() {
			break // those who wait for a machine come first
		}
		err = m.addMember(ctx, p, recipe)
	}
	return u.look, err
}

// askRecipe asks the backend what it would make a member from, no more often than
// records and machines are compared.
func (m *Manager) askRecipe(ctx context.Context, p *pool) error {
	now := time.Now()
	if recipe, asked, _ := p.state(); recipe != "" && now.Sub(asked) < m.ReconcileEvery {
		return nil
	}
	name, backend := p.profile.Name, p.profile.Backend
	if err := m.check(ctx, backend, name); err != nil {
		return err
	}
	pooler, ok := provisioner.As[provisioner.Pooler](m.Backends[backend])
	if !ok {
		return fmt.Errorf("profile %s has pool.size %d, allowed: 0, since backend %q can't hand over machines made ahead", name, p.profile.Pool.Size, backend)
	}
	member := p.draft(m.now())
	if err := m.vet(ctx, member); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	word, err := pooler.Recipe(ctx, m.specOf(p.profile, member))
	if err != nil {
		return fmt.Errorf("recipe of profile %s: %w", name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recipe, p.asked = recipe(word, p.profile, member), now
	return nil
}

// draft is a member made now.
func (p *pool) draft(now time.Time) Sandbox {
	end := now.Add(p.profile.Pool.MaxAge)
	sb := p.profile.sandbox()
	sb.ID, sb.Owner, sb.State, sb.Created, sb.End, sb.MaxEnd = newID(), PoolOwner(p.profile.Name), Requested, now, end, end
	return sb
}

// addMember begins to make one more. The quota is what keeps a pool from growing,
// however it is counted here.
func (m *Manager) addMember(ctx context.Context, p *pool, recipe string) error {
	now := m.now()
	sb := p.draft(now)
	sb.Recipe = recipe
	_, _, err := m.Store.Add(ctx, sb, Quota{Sandboxes: p.profile.Pool.Size + 1}, Change{At: now, Reason: "pool"})
	if errors.Is(err, ErrOverQuota) {
		return nil
	}
	if err != nil {
		return err
	}
	m.alarm.notice(sb.End)
	p.begin(sb.ID)
	m.make(sb)
	return nil
}

// drain destroys a member, unless somebody has claimed it meanwhile, or may have
// before this run.
func (m *Manager) drain(ctx context.Context, sb Sandbox, why string) error {
	if !m.seen(sb) {
		return nil
	}
	err := m.end(ctx, sb, Destroying, Change{Reason: why})
	if errors.Is(err, ErrConflict) {
		return nil
	}
	return err
}

// dissolve destroys the members of a pool that there is no more.
func (m *Manager) dissolve(ctx context.Context, p *pool) {
	<-p.ended
	members, err := m.Store.List(ctx, Query{Owner: PoolOwner(p.profile.Name), Ending: true})
	if err != nil {
		m.Log.Error("drain", "profile", p.profile.Name, "err", err) // the reconciler does
		return
	}
	m.drainStrays(ctx, members)
}

// drainStrays destroys the members of pools that there are no more. Whether there
// is one of a broken profile is not known.
func (m *Manager) drainStrays(ctx context.Context, recorded []Sandbox) {
	for _, sb := range recorded {
		if sb.Pooled() && sb.State.Live() && m.poolOf(sb) == nil && !m.profiles.Load().broken(sb.Profile) {
			if err := m.drain(ctx, sb, "pool: its profile has none any more"); err != nil {
				m.Log.Error("drain", "id", sb.ID, "err", err)
			}
		}
	}
}

// holdLines keeps the channels of the members that are READY open, and lets go
// of those that are members no more. One that an earlier run has made is asked
// again whether it answers.
func (m *Manager) holdLines(p *pool, members []Sandbox) {
	ready := make(map[string]bool, len(members))
	for _, sb := range members {
		if sb.State != Ready {
			continue
		}
		ready[sb.ID] = true
		if p.held[sb.ID] == nil {
			l := m.lines.pin(sb.ID)
			p.held[sb.ID] = l
			if !l.dialled() {
				m.spawn(func(ctx context.Context) { m.verify(ctx, sb) })
			}
		}
	}
	for id, l := range p.held {
		if !ready[id] {
			delete(p.held, id)
			m.lines.unpin(id, l)
		}
	}
}

// verify drains a member that does not answer.
func (m *Manager) verify(ctx context.Context, sb Sandbox) {
	limited, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	err := m.greet(limited, sb)
	if err == nil || ctx.Err() != nil {
		return
	}
	m.Log.Warn("a machine made ahead does not answer", "id", sb.ID, "err", err)
	if err := m.drain(ctx, sb, "pool: it did not answer"); err != nil {
		m.Log.Error("drain", "id", sb.ID, "err", err)
	}
}
