package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/sessions"
)

// play plays schedules on one Manager, one sandbox each.
type play struct {
	*lab
	inner sessions.Store
	n     int
	full  bool // the store can't be written once more
	scenario
	mu      sync.Mutex
	waiting map[string]chan struct{} // by what is to be done next; nil lets everybody on
	running int                      // actors
	trace   []string
	sb      sessions.Sandbox // as it was made
	asked   bool             // for its destruction, by its owner
	using   int
	used    time.Time
	claimed map[string]string // by whom, by id
	late    bool              // the clock was set
}

func newPlay(t *testing.T, inner sessions.Store) *play {
	p := &play{lab: newLab(t, &world{}, filepath.Join(t.TempDir(), "db")), inner: inner}
	if inner == nil {
		p.inner = p.db
	}
	p.Store = gated{p.inner, p}
	p.Profiles[0].IdleTimeout = idleTimeout
	p.Profiles[0].Pool = sessions.Pool{Size: 1, MaxAge: memberAge}
	p.Log = slog.New(refusals{slog.DiscardHandler, p})
	p.world.onStep(p.step)
	t.Cleanup(func() { p.stop() })
	return p
}

const (
	memberAge = 20 * time.Minute // of the members of the pool
	lastEnd   = 5 * time.Hour    // when all that is made in a play is past its end, from its beginning
)

// refusals is a log in which nothing must be that was refused: all that is to be
// removed has ended, unless the store could not be asked.
type refusals struct {
	slog.Handler
	p *play
}

func (refusals) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }

func (r refusals) Handle(_ context.Context, rec slog.Record) error {
	if !r.p.broken && rec.Message == "refused to remove a machine" {
		r.p.fault("%s", rec.Message)
	}
	return nil
}

// wait waits until the scheduler lets on who has ctx to do something.
func (p *play) wait(ctx context.Context, what string) {
	who, _ := ctx.Value(actorKey{}).(string)
	p.mu.Lock()
	if p.waiting == nil {
		p.mu.Unlock()
		return
	}
	on, name := make(chan struct{}), who+" "+what
	for p.waiting[name] != nil {
		name += "'"
	}
	p.waiting[name] = on
	p.mu.Unlock()
	<-on
}

type actorKey struct{}

// gated is a store each call of which waits.
type gated struct {
	sessions.Store
	p *play
}

func (g gated) Sandbox(ctx context.Context, id string) (sessions.Sandbox, error) {
	g.p.wait(ctx, "read")
	return g.Store.Sandbox(ctx, id)
}

func (g gated) List(ctx context.Context, q sessions.Query) ([]sessions.Sandbox, error) {
	g.p.wait(ctx, "list records")
	return g.Store.List(ctx, q)
}

func (g gated) Move(ctx context.Context, id string, to sessions.State, ch sessions.Change) (sessions.Sandbox, error) {
	g.p.wait(ctx, "move "+string(to)+" "+ch.Reason)
	if to == sessions.Timeout && g.p.full {
		g.p.full = false
		return sessions.Sandbox{}, sessions.ErrStoreUnavailable
	}
	sb, err := g.Store.Move(ctx, id, to, ch)
	if err == nil {
		g.p.moved(sb)
	}
	return sb, err
}

func (g gated) Add(ctx context.Context, sb sessions.Sandbox, quota sessions.Quota, ch sessions.Change) (sessions.Sandbox, bool, error) {
	g.p.wait(ctx, "add")
	return g.Store.Add(ctx, sb, quota, ch)
}

func (g gated) Claim(ctx context.Context, sb sessions.Sandbox, quota sessions.Quota, fit sessions.Fit, ch sessions.Change) (sessions.Sandbox, bool, error) {
	g.p.wait(ctx, "claim")
	return g.Store.Claim(ctx, sb, quota, fit, ch)
}

func (g gated) SetEnd(ctx context.Context, id string, end time.Time, ch sessions.Change) (sessions.Sandbox, error) {
	g.p.wait(ctx, "set end")
	return g.Store.SetEnd(ctx, id, end, ch)
}

// step is what the world does at each call of the backend.
func (p *play) step(ctx context.Context, op, id string, do func() error) error {
	p.wait(ctx, op)
	if op == "destroy" {
		rec, err := p.inner.Sandbox(context.Background(), id)
		if err != nil || rec.State.Live() && rec.End.After(time.Now()) {
			p.fault("machine destroyed while its record is %s until %v, %v", rec.State, rec.End, err)
		}
	}
	return do()
}

// moved looks at how a sandbox ends.
func (p *play) moved(sb sessions.Sandbox) {
	p.mu.Lock()
	asked, using, used := p.asked, p.using, p.used
	late := p.member && p.late // what was being made or handed over may have taken too long
	p.mu.Unlock()
	idle := sb.State == sessions.Timeout && sb.Reason == "idle"
	switch {
	case idle && sb.Ended.Before(sb.End) && (using > 0 || sb.Ended.Sub(used) < idleTimeout):
		p.fault("ended as idle with %d uses, the last %v ago", using, sb.Ended.Sub(used))
	case sb.State == sessions.Timeout && !idle && sb.Ended.Before(sb.End):
		p.fault("ended %v too early", sb.End.Sub(sb.Ended))
	case sb.State == sessions.Destroying && !asked && !sb.Pooled(), sb.State == sessions.Failed && !late:
		p.fault("%s though nobody asked for it", sb.State)
	}
}

func (p *play) fault(format string, args ...any) {
	p.t.Errorf("%s: %s\nin the order\n%s", p.scenario, fmt.Sprintf(format, args...), strings.Join(p.trace, "\n"))
}

// act is one operation, until its end.
func (p *play) act(who string) error {
	ctx := context.WithValue(sessions.WithPrincipal(context.Background(), sessions.Principal{Name: "alice"}), actorKey{}, who)
	id := p.sb.ID
	switch who {
	case "claim", "claim2":
		return p.claim(ctx, who)
	case "outdate":
		p.world.mu.Lock()
		p.world.recipe = "another"
		p.world.mu.Unlock()
		return p.Tend(ctx, "small")
	case "tend":
		return p.Tend(ctx, "small")
	case "sweep":
		p.Sweep(ctx)
		return nil
	case "reconcile":
		return p.Reconcile(ctx, "mem")
	case "idle":
		return p.LookForIdle(ctx, p.sb.Created)
	case "destroy":
		p.mu.Lock()
		p.asked = true
		p.mu.Unlock()
		_, err := p.Destroy(ctx, id)
		return err
	case "use":
		return p.Use(ctx, id, 0, func(ctx context.Context, _ sessions.Sandbox, _ guest.Conn) error {
			p.noteUse(1)
			defer p.noteUse(-1)
			p.wait(ctx, "end of use")
			return ctx.Err()
		})
	}
	ttl := map[string]time.Duration{"extend": 3 * time.Hour, "extend2": 150 * time.Minute, "shorten": 10 * time.Minute}[who]
	before := time.Now()
	sb, err := p.Extend(ctx, id, ttl)
	if err == nil {
		p.mu.Lock()
		p.used = before
		p.mu.Unlock()
		if sb.End.Before(before.Add(ttl)) {
			p.fault("%s gives an end of %v, wanted %v from %v on", who, sb.End, ttl, before)
		}
	}
	return err
}

// claim makes a sandbox, of a member of the pool if there is one: it is theirs alone.
func (p *play) claim(ctx context.Context, who string) error {
	owner := map[string]string{"claim": "alice", "claim2": "bob"}[who]
	sb, _, err := p.Create(sessions.WithPrincipal(ctx, sessions.Principal{Name: owner}), sessions.CreateRequest{Profile: "small", Wait: time.Minute})
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if other := p.claimed[sb.ID]; other != "" {
		p.fault("%s has what %s has", owner, other)
	}
	p.claimed[sb.ID] = owner
	if m, there := p.world.machine(sb.ID); sb.State == sessions.Ready && (sb.Owner != owner || !there || m.Papers.Owner != owner) {
		p.fault("%s was given %+v, whose machine, there %v, is %s's", owner, sb, there, m.Papers.Owner)
	}
	return nil
}

func (p *play) noteUse(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.using += n
	p.used = time.Now()
}

// begin makes the sandbox and lets the actors begin, up to their first step.
func (p *play) begin(s scenario) {
	p.n++
	now := time.Now().UTC().Round(0)
	p.scenario, p.full, p.trace, p.asked, p.used, p.late = s, s.broken, nil, false, now, false
	p.sb = sessions.Sandbox{
		ID: fmt.Sprintf("sb-%d", p.n), Owner: "alice", Profile: "small", Backend: "mem", State: sessions.Running,
		Handle: fmt.Sprintf("h-%d", p.n), Created: now, Ready: now, End: now.Add(time.Hour), MaxEnd: now.Add(4 * time.Hour),
	}
	p.claimed = map[string]string{}
	if s.member {
		p.sb.Owner, p.sb.State, p.sb.Recipe = sessions.PoolOwner("small"), sessions.Ready, p.OpenPool("small", "v1")
		p.sb.End, p.sb.MaxEnd = now.Add(memberAge), now.Add(memberAge)
	}
	if _, _, err := p.inner.Add(context.Background(), p.sb, sessions.Quota{}, sessions.Change{At: now}); err != nil {
		p.t.Fatal(err)
	}
	p.world.put(provisioner.Machine{
		Ref: p.sb.Ref(), Running: true,
		Papers: provisioner.Papers{Instance: "i", Sandbox: p.sb.ID, Owner: p.sb.Owner, Profile: "small", Created: now, End: p.sb.End, MaxEnd: p.sb.MaxEnd},
	})
	p.world.mu.Lock()
	p.world.pooled[p.sb.ID], p.world.recipe = s.member, "v1"
	p.world.mu.Unlock()
	p.waiting, p.running = map[string]chan struct{}{}, len(s.actors)
	for _, who := range s.actors {
		go func() {
			err := p.act(who)
			var e *sessions.Error
			if err != nil && (!errors.As(err, &e) || e.Kind == sessions.Internal || e.Kind == sessions.Conflict) {
				p.fault("%s: %v", who, err)
			}
			p.mu.Lock()
			p.running--
			p.mu.Unlock()
		}()
	}
}

// play plays one schedule: choose says which of n steps comes next. It returns
// how many there were to choose from, each time.
func (p *play) play(s scenario, choose func(n int) int) (widths []int) {
	p.begin(s)
	clock := s.clock
	for {
		synctest.Wait()
		p.checkPapers()
		p.mu.Lock()
		steps := make([]string, 0, len(p.waiting)+1)
		for name := range p.waiting {
			steps = append(steps, name)
		}
		running := p.running
		p.mu.Unlock()
		slices.Sort(steps)
		if len(clock) > 0 {
			steps = append(steps, "clock")
		}
		if len(steps) == 0 && running == 0 {
			break
		}
		if len(steps) == 0 { // who runs waits for time to pass
			time.Sleep(time.Second)
			continue
		}
		step := steps[0]
		if len(steps) > 1 {
			widths = append(widths, len(steps))
			step = steps[choose(len(steps))]
		}
		p.trace = append(p.trace, step)
		if step == "clock" {
			p.mu.Lock()
			p.late = true
			p.mu.Unlock()
			time.Sleep(time.Until(p.sb.Created.Add(clock[0])))
			clock = clock[1:]
			continue
		}
		p.mu.Lock()
		on := p.waiting[step]
		delete(p.waiting, step)
		p.mu.Unlock()
		close(on)
	}
	p.finish()
	return widths
}

// checkPapers compares the papers of a machine with its record.
func (p *play) checkPapers() {
	rec, err := p.inner.Sandbox(context.Background(), p.sb.ID)
	mach, there := p.world.machine(p.sb.ID)
	handedOver := rec.State != sessions.Booting // what was claimed has its new end only then
	if err == nil && there && rec.State.Live() && handedOver && (mach.Papers.End.Before(rec.End) || mach.Papers.End.After(rec.MaxEnd)) {
		p.fault("papers end %v, the record %v, at most %v", mach.Papers.End, rec.End, rec.MaxEnd)
	}
}

// finish lets the time of the sandbox be up.
func (p *play) finish() {
	p.mu.Lock()
	p.waiting = nil
	p.mu.Unlock()
	p.trace = append(p.trace, "past its last end")
	time.Sleep(time.Until(p.sb.Created.Add(lastEnd)))
	p.Sweep(context.Background())
	p.Settle()
	left, err := p.inner.List(context.Background(), sessions.Query{Ending: true})
	if err != nil || len(left) > 0 || len(p.world.machines) > 0 {
		p.fault("left: %v, %v, machines %v", left, err, p.world.machines)
	}
	if mem, ok := p.inner.(*memStore); ok {
		clear(mem.rows)
	}
}
