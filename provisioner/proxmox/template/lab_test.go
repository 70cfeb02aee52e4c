package template

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/provisionertest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

func TestMain(m *testing.M) {
	pvetest.GuestMain()
	os.Exit(m.Run())
}

const (
	testPool = "agentlab"
	testUser = "builder@pve"
	testTok  = testUser + "!b1"
)

// lab is an empty Proxmox VE, a token that may do what Grants says, and a web
// server that publishes an image.
type lab struct {
	t      *testing.T
	srv    *pvetest.Server
	guests *pvetest.ProcessGuests
	tok    redact.String
	web    *httptest.Server
	image  []byte

	mu    sync.Mutex
	fail  func(*http.Request) *pvetest.Fault
	calls []string
	steps []string // that have ended well
}

func newLab(t *testing.T, srv *pvetest.Server) *lab {
	t.Helper()
	l := &lab{t: t, srv: srv, guests: &pvetest.ProcessGuests{Dir: pvetest.GuestDir(t)}, image: qcow2(2 << 30)}
	srv.NewGuest, srv.Fail = l.guests.New, l.hook
	t.Cleanup(srv.Close)
	l.web = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path.Base(r.URL.Path) != "stock.img" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(l.image)
	}))
	t.Cleanup(l.web.Close)
	v := pve.Version{Major: 8, Minor: 4}
	if strings.HasPrefix(srv.Version, "9") {
		v = pve.Version{Major: 9, Minor: 2}
	}
	srv.Edit(func(c *pvetest.Cluster) {
		l.tok = redact.String(testTok + "=" + c.AddToken(testTok, true))
		for _, g := range Grants(v, "pve", "local", "local", "local", "vmbr0", testPool) {
			grant(c, g.Path, g.Privs...)
		}
		c.AddVM("pve", 200, "of-somebody-else").Config["tags"] = buildTag
	})
	return l
}

// grant gives the token and its user privileges on a path besides those it has.
func grant(c *pvetest.Cluster, at string, privs ...string) {
	role := "R" + strings.ReplaceAll(at, "/", "-")
	if old := c.Roles[role]; old != nil {
		old.Privs = append(old.Privs, privs...)
		return
	}
	c.Roles[role] = &pvetest.Role{Privs: privs}
	for _, who := range []string{testUser, testTok} {
		c.ACL = append(c.ACL, pvetest.ACL{Path: at, Role: role, Who: who, Propagate: true})
	}
}

// qcow2 is an image of that virtual size (docs/interop/qcow2.txt of QEMU).
func qcow2(size uint64) []byte {
	b := make([]byte, 512)
	copy(b, "QFI\xfb\x00\x00\x00\x03")
	binary.BigEndian.PutUint64(b[24:], size)
	return b
}

func (l *lab) hook(r *http.Request) *pvetest.Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, callName(r))
	if l.fail == nil {
		return nil
	}
	return l.fail(r)
}

// callName is such as "POST clone"; digits are left out.
func callName(r *http.Request) string {
	return r.Method + " " + strings.Trim(path.Base(r.URL.Path), "0123456789")
}

func (l *lab) onCall(f func(*http.Request) *pvetest.Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail, l.calls = f, nil
}

func (l *lab) called() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.calls)
}

func (l *lab) client() *pve.Client {
	l.t.Helper()
	h, err := pve.NewHTTPS(l.srv.Listen("pve"), pve.Auth{Token: l.tok}, pve.Trust{Fingerprint: l.srv.Fingerprint("pve")})
	if err != nil {
		l.t.Fatal(err)
	}
	return &pve.Client{Transport: h}
}

// builder is one as a new process would have it.
func (l *lab) builder() *Builder {
	sum := sha512.Sum512(l.image)
	c := l.client()
	return &Builder{
		Client: c, Key: provisionertest.Key(l.t, 1), Pool: testPool, pause: 10 * time.Millisecond, undo: time.Minute,
		Spec: Spec{
			Name: "debian-12", Packages: []string{"curl", "git"},
			Image: Image{URL: l.web.URL + "/stock.img", Checksum: hex.EncodeToString(sum[:]), Algorithm: "sha512"},
		},
		Try: func(ctx context.Context, vm pve.VM, full bool) error { return l.try(ctx, c, vm, full) },
		Report: func(e Event) {
			l.mu.Lock()
			defer l.mu.Unlock()
			if e.Took > 0 {
				l.steps = append(l.steps, e.Step)
			}
		},
	}
}

// try makes a sandbox of the template with the provisioner itself.
func (l *lab) try(ctx context.Context, c *pve.Client, vm pve.VM, full bool) error {
	_, err := l.trial(ctx, c, root(vm, full), "none", "true")
	return err
}

// trial returns what a script prints in a sandbox that is made for it.
func (l *lab) trial(ctx context.Context, c *pve.Client, root, network, script string) (out string, err error) {
	p := &proxmox.Provisioner{
		Client: c, Key: provisionertest.Key(l.t, 1), Instance: "inst-1", Pool: testPool, VMIDs: proxmox.Range{First: 5000, Last: 5999},
		Channel: func(string) string { return "agent" },
	}
	now := time.Now().Truncate(time.Second).UTC()
	m, err := p.Create(ctx, provisioner.Spec{
		Papers:   provisioner.Papers{Instance: "inst-1", Sandbox: strings.ToLower(rand.Text()), Owner: "o", Profile: "p", Created: now, End: now.Add(time.Hour), MaxEnd: now.Add(time.Hour)},
		Hostname: "box", Root: root, Network: network,
	})
	if err != nil {
		return "", err
	}
	conn, err := p.Dial(ctx, m.Ref)
	if err == nil {
		out, err = run(ctx, conn, script)
		_ = conn.Close()
	}
	for try := 0; ; try++ {
		if derr := p.Destroy(context.WithoutCancel(ctx), m.Ref); derr == nil || try == 2 {
			return out, errors.Join(err, derr)
		}
	}
}

// run returns what a script prints that must succeed.
func run(ctx context.Context, conn guest.Conn, script string) (string, error) {
	var out, said bytes.Buffer
	s, err := conn.Run(ctx, guest.Cmd{Args: []string{"/bin/sh", "-c", script}}, guest.Streams{Stdout: &out, Stderr: &said})
	if err == nil && s != (guest.Exit{}) {
		err = fmt.Errorf("%+v: %s%s", s, &out, &said)
	}
	return out.String(), err
}

// root is what machines of a template are made from.
func root(vm pve.VM, full bool) string {
	if full {
		return fmt.Sprintf("%d,full=1", vm.ID)
	}
	return fmt.Sprint(vm.ID)
}

// noTry is a Try that makes no sandbox.
func noTry(ctx context.Context, _ pve.VM, _ bool) error { return ctx.Err() }

// everything names all that is there besides what a lab begins with.
func (l *lab) everything() (all []string) {
	l.srv.Edit(func(c *pvetest.Cluster) {
		for id, vm := range c.VMs {
			if id != 200 {
				all = append(all, fmt.Sprintf("VM %d %s", id, vm.Config["name"]))
			}
		}
		for id, v := range c.Volumes {
			if v.VMID != 200 {
				all = append(all, "volume "+id)
			}
		}
		for id := range c.Pools {
			all = append(all, "pool "+id)
		}
	})
	slices.Sort(all)
	return all
}

// empty fails the test unless all is as it was in the beginning.
func (l *lab) empty() {
	l.t.Helper()
	if left := l.everything(); len(left) > 0 {
		l.t.Errorf("left over: %q", left)
	}
}

// template returns the configuration of the one VM that was made.
func (l *lab) template() (id int, cfg map[string]string) {
	l.srv.Edit(func(c *pvetest.Cluster) {
		for i, vm := range c.VMs {
			if i != 200 {
				id, cfg = i, maps.Clone(vm.Config)
			}
		}
	})
	return id, cfg
}

// complete fails the test unless there is one template and nothing else.
func (l *lab) complete() {
	l.t.Helper()
	want := []string{"VM 9000 debian-12", "volume local:9000/base-9000-disk-0.qcow2", "volume local:9000/vm-9000-cloudinit.qcow2"}
	if got := l.everything(); !slices.Equal(got, want) {
		l.t.Errorf("there are %q, want %q", got, want)
	}
	id, cfg := l.template()
	p, ours := open(provisionertest.Key(l.t, 1), id, cfg)
	if !ours || p.phase != whole || cfg["tags"] != "" {
		l.t.Errorf("papers %+v, ours %v, tags %q", p, ours, cfg["tags"])
	}
}

// guestFile is what a machine's disk has under a path; empty if nothing.
func (l *lab) guestFile(id int, name string) string {
	data, err := os.ReadFile(filepath.Join(l.guests.Dir, fmt.Sprint(id), "root", name))
	if err != nil && !os.IsNotExist(err) {
		l.t.Error(err)
	}
	return string(bytes.TrimSpace(data))
}

func (l *lab) vm(id int) pve.VM { return pve.VM{Node: "pve", ID: id} }

var stopNow = pve.StopOptions{OverruleShutdown: true}

// ctx is longer than any build takes here.
func (l *lab) ctx() context.Context {
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	l.t.Cleanup(cancel)
	return ctx
}
