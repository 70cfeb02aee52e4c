package histories

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/failpoint"
	"github.com/agentlab-mcp/agentlab/internal/pvesim"
	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
	"github.com/agentlab-mcp/agentlab/sessions"
	"github.com/agentlab-mcp/agentlab/store"
)

const (
	instance = "inst-1"
	backend  = "pve"
)

// vmids are those our machines may get: few, so that they come again.
var vmids = proxmox.Range{First: 10000, Last: 10020}

// quota is what each principal may have.
var quota = sessions.Quota{Sandboxes: 3}

// profile is what sandboxes are made of.
func (l *lab) profile() sessions.Profile {
	return sessions.Profile{
		Name: "default", Backend: backend, Root: pvesim.Template, Cores: l.cores, MemoryMB: 256, DiskMB: 2048,
		Pool: sessions.Pool{Size: l.pool, MaxAge: 30 * time.Minute, Burst: 1},
		TTL:  20 * time.Minute, MinTTL: time.Minute, MaxTTL: 40 * time.Minute,
	}
}

// flavour is a Proxmox VE of one kind.
type flavour struct {
	name, version string
	nodes         int
	callTime      time.Duration // that each call takes
	pool          int           // members of the profile's pool
	powerOff      time.Duration // of the dead man's switch; 0 is none
}

// lab is a simulated Proxmox VE and, while one runs, the daemon that uses it.
type lab struct {
	flavour
	path    string // of the store
	kept    int    // members of a pool that is being drained
	cores   int    // of the profile, when a daemon starts
	sim     *pvesim.Sim
	net     *pipes
	admin   *pve.Client // of an administrator
	daemon  *daemon     // nil while none runs
	daemons []*daemon   // all there were

	mu      sync.Mutex
	offset  time.Duration                     // of the clock that ends are told by
	full    bool                              // the store can't be written
	wrong   trouble                           // what goes wrong with calls
	quiet   int                               // so many calls go well before that
	wrongs  int                               // and so many go wrong then
	fuse    int                               // the daemon dies at the point that is so many from here; 0 is none
	task    string                            // tasks of this type fail
	fails   int                               // so many of them
	freed   []int                             // VMIDs that were ours
	foreign map[int]bool                      // VMIDs that are another's
	touched []string                          // calls that would change what is another's
	deleted func(id int)                      // is told of each of our calls that delete a machine
	armed   func(id int, after time.Duration) // is told of each machine that is to power itself off then
	fired   func(int) bool                    // is told of each machine that would power itself off, and says whether it does
	faults  int                               // that happened
}

// daemon is what `agentlab serve` is made of, without its sockets.
type daemon struct {
	*sessions.Manager
	lab   *lab
	db    *store.DB
	ctx   context.Context // ends when it is to end
	end   context.CancelFunc
	ended chan struct{}
	dead  bool // guarded by lab.mu
}

// errDead is what a dead daemon gets instead of any effect.
var errDead = errors.New("the daemon is dead")

func newLab(dir string, kind flavour) (*lab, error) {
	l := &lab{flavour: kind, cores: 1, path: filepath.Join(dir, "agentlab.db"), net: newPipes(), foreign: map[int]bool{}, deleted: func(int) {}, armed: func(int, time.Duration) {}, fired: func(int) bool { return true }}
	srv := &pvetest.Server{
		Version: kind.version, Scale: 1, NewGuest: l.newGuest, TaskFail: l.taskFail, CallTime: kind.callTime,
		TaskTime: map[string]time.Duration{"qmclone": 4 * time.Second, "qmstart": time.Second, "qmstop": time.Second, "qmdestroy": time.Second},
	}
	l.sim = pvesim.Furnish(srv)
	srv.Serve(pvesim.Node, l.net, &pveproxy{next: srv.Handler(pvesim.Node), watch: l.watch, choose: l.choose}, tls.VersionTLS12)
	var token string
	srv.Edit(func(c *pvetest.Cluster) {
		c.Storages[0].Shared = kind.nodes > 1
		for n := 2; n <= kind.nodes; n++ {
			c.AddNode(fmt.Sprint(pvesim.Node, n))
		}
		token = adminToken + "=" + c.AddToken(adminToken, false)
		for id := range c.VMs {
			l.foreign[id] = true
		}
	})
	t, err := l.transport(token)
	l.admin = &pve.Client{Transport: t}
	return l, err
}

const adminToken = "root@pam!admin"

func (l *lab) transport(token string) (*pve.HTTPS, error) {
	t, err := pve.NewHTTPS(l.sim.Server.Listen(pvesim.Node), pve.Auth{Token: redact.String(token)},
		pve.Trust{Fingerprint: l.sim.Server.Fingerprint(pvesim.Node)})
	if err == nil {
		t.Dial = l.net.dial
	}
	return t, err
}

// now is the time that ends are told by.
func (l *lab) now() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Now().Add(l.offset).UTC().Round(0)
}

// start starts a daemon if none runs.
func (l *lab) start() error {
	if l.daemon != nil {
		return nil
	}
	db, err := store.Open(context.Background(), l.path, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	t, err := l.transport(l.sim.Token())
	if err != nil {
		return err
	}
	key, err := provisioner.NewKey([]byte("the secret of the histories' lab"))
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(context.Background())
	d := &daemon{lab: l, db: db, ctx: ctx, end: end, ended: make(chan struct{})}
	points := failpoint.Watched(d.pass)
	p := &proxmox.Provisioner{
		Client: &pve.Client{Transport: points.Transport(t)}, Key: key, Instance: instance, Pool: pvesim.Pool,
		VMIDs: vmids, Template: pvesim.Template, PowerOff: l.powerOff, Channel: func(string) string { return "agent" },
	}
	d.Manager = &sessions.Manager{
		Store: points.Store(db), Backends: map[string]provisioner.Provisioner{backend: points.Backend(backend, p)},
		Profiles: []sessions.Profile{l.profile()}, Instance: instance, Quota: quota, Now: l.now, ReconcileEvery: 2 * time.Minute,
	}
	l.mu.Lock()
	l.daemon = d
	l.mu.Unlock()
	l.daemons = append(l.daemons, d)
	go func() {
		defer close(d.ended)
		_ = d.Run(ctx) // it has no errors
	}()
	return nil
}

// stop ends the daemon as a service manager does.
func (l *lab) stop() {
	l.mu.Lock()
	d := l.daemon
	l.daemon = nil
	l.mu.Unlock()
	if d != nil {
		d.end()
		<-d.ended
	}
}

// kill ends the daemon as kill -9 does: what it does from now on has no effect.
func (l *lab) kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := l.daemon; d != nil {
		l.faults++
		d.die()
	}
}

// die is kill with lab.mu held.
func (d *daemon) die() {
	d.dead = true
	d.end()
}

// bury notices that the daemon has died, and says whether it has.
func (l *lab) bury() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.daemon == nil || !l.daemon.dead {
		return false
	}
	l.daemon = nil
	return true
}

// pass is told of each point before and after what the daemon does to the world.
func (d *daemon) pass(point string) error {
	l := d.lab
	l.mu.Lock()
	defer l.mu.Unlock()
	if d.dead {
		return errDead
	}
	if d == l.daemon && l.fuse > 0 {
		if l.fuse--; l.fuse == 0 {
			l.faults++
			d.die()
			return errDead
		}
	}
	if l.full && strings.HasPrefix(point, "store ") && strings.HasSuffix(point, " before") {
		return fmt.Errorf("no space: %w", sessions.ErrStoreUnavailable)
	}
	return nil
}

// choose says what goes wrong with a call.
func (l *lab) choose(r *http.Request) (trouble, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wrongs == 0 || byAdmin(r) {
		return 0, false
	}
	if l.quiet > 0 {
		l.quiet--
		return 0, false
	}
	l.wrongs--
	l.faults++
	return l.wrong, true
}

func byAdmin(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Authorization"), adminToken)
}

// taskFail makes tasks fail.
func (l *lab) taskFail(typ, _ string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fails == 0 || typ != l.task {
		return ""
	}
	l.fails--
	l.faults++
	return typ + " failed: no reason at all"
}

// watch notes our calls that change what is another's, and those that delete. A
// guest agent is asked whose guest it is by the call that would have it do
// something; see agentconn.Config.Identity.
func (l *lab) watch(r *http.Request) {
	m := vmidCall.FindStringSubmatch(r.URL.Path)
	if m == nil || r.Method == http.MethodGet || byAdmin(r) {
		return
	}
	id, _ := strconv.Atoi(m[1])
	l.mu.Lock()
	foreign, told := l.foreign[id] && m[2] != "/clone" && m[2] != "/agent", l.deleted
	if foreign {
		l.touched = append(l.touched, r.Method+" "+r.URL.Path)
	}
	l.mu.Unlock()
	if r.Method == http.MethodDelete && m[2] == "" && !foreign {
		told(id)
	}
}

// lift ends all trouble, but for what is wrong with the clock.
func (l *lab) lift() {
	l.mu.Lock()
	l.full, l.wrongs, l.fails, l.fuse = false, 0, 0, 0
	l.mu.Unlock()
	l.sim.Server.Edit(func(c *pvetest.Cluster) {
		for _, n := range c.Nodes {
			n.Down, n.Hung, n.Mute = false, false, false
		}
		c.Storages[0].Full = false
	})
}

// free notes a VMID that was ours.
func (l *lab) free(id int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.freed = append(l.freed, id)
}

// isDead says that whatever the daemon does has no effect.
func (d *daemon) isDead() bool {
	d.lab.mu.Lock()
	defer d.lab.mu.Unlock()
	return d.dead
}

// stopping says that it is to end.
func (d *daemon) stopping() bool { return d.ctx.Err() != nil }

// close ends all there is, and returns when no goroutine is left.
func (l *lab) close() error {
	l.stop()
	var errs []error
	for _, d := range l.daemons {
		<-d.ended
		errs = append(errs, d.db.Close())
	}
	l.sim.Close()
	return errors.Join(errs...)
}
