package sessions_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
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
	"github.com/agentlab-mcp/agentlab/store"
)

// world is a backend in memory. It outlives the Managers that use it, as
// machines do.
type world struct {
	// step is called with each operation, "create", "destroy", "list", "dial",
	// "relabel", "rekey" or "run", and does it by calling do. Nil does it.
	step func(ctx context.Context, op, id string, do func() error) error

	intent string   // recorded at the beginning of each create, if not empty
	failed []string // handles of machines that each create starts and gives up
	recipe string   // what machines are made from
	dark   string   // the id of a machine that can't be read or reached

	mu       sync.Mutex
	machines map[string]provisioner.Machine
	spare    []provisioner.Machine
	handles  []string // that creates and destroys were given
	dialled  []string // handles
	rekeyed  []string // "sandbox hostname"
	pooled   map[string]bool
	calls    map[string]int
	open     int                        // connections
	procs    map[string][]guest.Process // by sandbox
}

func (w *world) do(ctx context.Context, op, id string, f func()) error {
	do := func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		f()
		return nil
	}
	w.mu.Lock()
	step := w.step
	if w.calls == nil {
		w.calls, w.machines, w.pooled = map[string]int{}, map[string]provisioner.Machine{}, map[string]bool{}
	}
	w.calls[op]++
	w.mu.Unlock()
	if step == nil {
		return do()
	}
	return step(ctx, op, id, do)
}

func (w *world) Create(ctx context.Context, spec provisioner.Spec) (m provisioner.Machine, err error) {
	w.given(spec.Handle)
	if w.intent != "" {
		if err := spec.Intend(ctx, w.intent); err != nil {
			return m, err
		}
	}
	for _, handle := range w.failed {
		m := provisioner.Machine{Ref: provisioner.Ref{Sandbox: spec.Papers.Sandbox, Handle: handle}, Papers: spec.Papers}
		if err := errors.Join(spec.Intend(ctx, handle), spec.Started(ctx, m)); err != nil {
			return m, err
		}
	}
	err = w.do(ctx, "create", spec.Papers.Sandbox, func() {
		m = provisioner.Machine{
			Ref: provisioner.Ref{Sandbox: spec.Papers.Sandbox, Handle: "h-" + spec.Papers.Sandbox}, Papers: spec.Papers,
			Running: true, Home: "/workspace", OS: "test",
		}
		w.machines[m.Sandbox] = m
		w.pooled[m.Sandbox] = spec.Pooled
	})
	return m, err
}

func (w *world) Destroy(ctx context.Context, ref provisioner.Ref) error {
	w.given(ref.Handle)
	return w.do(ctx, "destroy", ref.Sandbox, func() { delete(w.machines, ref.Sandbox) })
}

func (w *world) Trim(ctx context.Context, ref provisioner.Ref) error {
	return w.do(ctx, "trim", ref.Sandbox, func() { w.spare = slices.DeleteFunc(w.spare, func(m provisioner.Machine) bool { return m.Ref == ref }) })
}

func (w *world) given(handle string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handles = append(w.handles, handle)
}

func (w *world) List(ctx context.Context) (list []provisioner.Machine, err error) {
	err = w.do(ctx, "list", "", func() {
		list = slices.AppendSeq(slices.Clone(w.spare), maps.Values(w.machines))
		for i, m := range list {
			if m.Sandbox == w.dark {
				list[i] = provisioner.Machine{Ref: provisioner.Ref{Handle: m.Handle}, Unread: true}
			}
		}
	})
	return list, err
}

func (w *world) Relabel(ctx context.Context, ref provisioner.Ref, p provisioner.Papers) error {
	there := false
	err := w.do(ctx, "relabel", ref.Sandbox, func() {
		var m provisioner.Machine
		if m, there = w.machines[ref.Sandbox]; there {
			m.Papers = p
			w.machines[ref.Sandbox] = m
		}
	})
	if err == nil && !there {
		return provisioner.ErrNotFound
	}
	return err
}

func (w *world) Recipe(ctx context.Context, _ provisioner.Spec) (recipe string, err error) {
	err = w.do(ctx, "recipe", "", func() { recipe = w.recipe })
	return recipe, err
}

func (w *world) Rekey(ctx context.Context, ref provisioner.Ref, spec provisioner.Spec, old guest.Conn) (conn guest.Conn, err error) {
	if old != nil {
		old.Close()
	}
	err = w.do(ctx, "rekey", ref.Sandbox, func() {
		m, there := w.machines[ref.Sandbox]
		if !there {
			return
		}
		if !w.pooled[ref.Sandbox] {
			panic("re-keyed though not made for it")
		}
		m.Papers = spec.Papers
		w.machines[ref.Sandbox] = m
		w.rekeyed = append(w.rekeyed, ref.Sandbox+" "+spec.Hostname)
		w.open++
		conn = &fakeConn{w: w, id: ref.Sandbox}
	})
	if err == nil && conn == nil {
		return nil, provisioner.ErrNotFound
	}
	return conn, err
}

func (w *world) Dial(ctx context.Context, ref provisioner.Ref) (conn guest.Conn, err error) {
	err = w.do(ctx, "dial", ref.Sandbox, func() {
		w.open++
		w.dialled = append(w.dialled, ref.Handle)
		conn = &fakeConn{w: w, id: ref.Sandbox}
	})
	if err != nil && conn != nil {
		conn.Close()
		conn = nil
	}
	return conn, err
}

// fakeConn answers commands only; the rest of guest.Conn is not asked for.
type fakeConn struct {
	guest.Conn
	w    *world
	id   string
	once sync.Once
}

func (c *fakeConn) Run(ctx context.Context, cmd guest.Cmd, _ guest.Streams) (guest.Exit, error) {
	err := c.w.do(ctx, "run", c.id, func() {})
	return guest.Exit{}, err
}

func (c *fakeConn) Close() error {
	c.once.Do(func() {
		c.w.mu.Lock()
		c.w.open--
		c.w.mu.Unlock()
	})
	return nil
}

// hides says whether that is the machine which hide has made so.
func (w *world) hides(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dark == id
}

// hide makes a machine one that can't be read or reached, and again one that can
// if id is empty.
func (w *world) hide(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dark = id
}

// onStep replaces what happens at each operation.
func (w *world) onStep(f func(ctx context.Context, op, id string, do func() error) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.step = f
}

// hang makes one operation on one machine wait for its ctx; all if id is empty.
func (w *world) hang(op, id string) {
	w.onStep(func(ctx context.Context, o, i string, do func() error) error {
		if o == op && (id == "" || i == id) {
			<-ctx.Done()
			return ctx.Err()
		}
		return do()
	})
}

// fail makes an operation return err.
func (w *world) fail(op string, err error) {
	w.onStep(func(_ context.Context, o, _ string, do func() error) error {
		if o == op {
			return err
		}
		return do()
	})
}

func (w *world) machine(id string) (provisioner.Machine, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, ok := w.machines[id]
	return m, ok
}

func (w *world) put(m provisioner.Machine) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.machines == nil {
		w.calls, w.machines, w.pooled = map[string]int{}, map[string]provisioner.Machine{}, map[string]bool{}
	}
	w.machines[m.Sandbox] = m
}

func (w *world) drop(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.machines, id)
}

func (w *world) count(op string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls[op]
}

func (w *world) conns() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open
}

// lab is a Manager over a world and a store of its own.
type lab struct {
	*sessions.Manager
	t     *testing.T
	world *world
	path  string
	db    *store.DB
	stop  func() // ends Run and closes the store
}

// inLab runs a test with a running Manager in a bubble of fake time. That the
// bubble ends says that no goroutine is left.
func inLab(t *testing.T, f func(t *testing.T, l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, &world{}, filepath.Join(t.TempDir(), "agentlab.db"))
		l.run()
		defer func() { l.stop() }()
		f(t, l)
	})
}

func newLab(t *testing.T, w *world, path string) *lab {
	t.Helper()
	db, err := store.Open(t.Context(), path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	p := sessions.Profile{Name: "small", Backend: "mem", MemoryMB: 100, TTL: time.Hour, MaxTTL: 4 * time.Hour}
	return &lab{
		Manager: &sessions.Manager{
			Store: db, Backends: map[string]provisioner.Provisioner{"mem": w}, Instance: "i",
			Profiles: []sessions.Profile{p, {Name: "other", Backend: "none"}},
		},
		t: t, world: w, path: path, db: db, stop: func() { db.Close() },
	}
}

func (l *lab) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := l.Run(ctx); err != nil {
			l.t.Error(err)
		}
	}()
	l.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		if n := l.world.conns(); n != 0 {
			l.t.Errorf("%d connections left open", n)
		}
		l.db.Close()
	})
}

// restart replaces the Manager by a new one over the same store and world.
func (l *lab) restart() {
	l.stop()
	*l = *newLab(l.t, l.world, l.path)
	l.run()
}

// restartWith restarts with other backends.
func (l *lab) restartWith(backends map[string]provisioner.Provisioner) {
	l.stop()
	*l = *newLab(l.t, l.world, l.path)
	l.Backends = backends
	l.run()
}

// loseStore takes the store from a lab that is stopped, and puts a backup in its
// place, if there is one.
func (l *lab) loseStore(t *testing.T, backup string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(l.path + suffix); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	if backup == "" {
		return
	}
	if err := os.Rename(backup, l.path); err != nil {
		t.Fatal(err)
	}
}

// as returns a context of that principal's.
func as(t *testing.T, name string) context.Context {
	return sessions.WithPrincipal(t.Context(), sessions.Principal{Name: name})
}

// create makes a READY sandbox of alice's.
func (l *lab) create(t *testing.T, req sessions.CreateRequest) sessions.Sandbox {
	t.Helper()
	req.Wait = time.Minute
	sb, existing, err := l.Create(as(t, "alice"), req)
	if err != nil || existing || sb.State != sessions.Ready {
		t.Fatalf("Create: %+v, existing %v, error %v", sb, existing, err)
	}
	return sb
}

// recorded returns the record of a sandbox.
func (l *lab) recorded(t *testing.T, id string) sessions.Sandbox {
	t.Helper()
	sb, err := l.db.Sandbox(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return sb
}

// mustBe fails unless the sandbox is recorded in that state and its machine is
// there exactly if it is live.
func (l *lab) mustBe(t *testing.T, id string, want sessions.State) {
	t.Helper()
	sb := l.recorded(t, id)
	_, there := l.world.machine(id)
	if sb.State != want || there != (want != sessions.Destroyed) {
		t.Errorf("%s is %s (%s), machine there %v; want %s", id, sb.State, sb.Reason, there, want)
	}
}

// kind returns the kind and text of an *Error.
func kind(t *testing.T, err error) (sessions.Kind, string) {
	t.Helper()
	var e *sessions.Error
	if !errors.As(err, &e) {
		t.Fatalf("error is %T %v, want *Error", err, err)
	}
	return e.Kind, e.Msg
}

func nothing(context.Context, sessions.Sandbox, guest.Conn) error { return nil }

// events returns "what principal to detail duration" of each event, as the
// file has it.
func (l *lab) events(t *testing.T, id string) string {
	t.Helper()
	db, err := sql.Open(sql.Drivers()[0], l.path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), "SELECT what, principal, to_state, detail, duration FROM events WHERE sandbox = ? ORDER BY seq", id)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var all strings.Builder
	for rows.Next() {
		var what, who, to, detail string
		var d time.Duration
		if err := rows.Scan(&what, &who, &to, &detail, &d); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&all, what, who, to, detail, d)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all.String()
}
