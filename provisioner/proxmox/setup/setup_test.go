package setup_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/setup"
)

// What setup gives is enough for a machine's life, and doing it again changes
// nothing.
func TestApply(t *testing.T) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			guests := pvetest.ProcessGuests{Dir: pvetest.GuestDir(t)}
			l := newLab(t, &pvetest.Server{Version: version, NewGuest: guests.New, Staleness: -1})
			secret := filepath.Join(t.TempDir(), "token")
			if _, err := l.apply(t, want(), secret); err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(secret)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the secret's file is %v, %v", info, err)
			}
			if err := l.live(t, readSecret(t, secret)); err != nil {
				t.Error(err)
			}
			before := l.access()
			if changes, err := l.apply(t, want(), secret); err != nil || changes != nil {
				t.Errorf("again: %q, %v", changes, err)
			}
			if changes, err := l.apply(t, want(), ""); err != nil || changes != nil {
				t.Errorf("again, the token being elsewhere: %q, %v", changes, err)
			}
			if diff := cmp.Diff(before, l.access()); diff != "" {
				t.Errorf("after that (-want +got):\n%s", diff)
			}
		})
	}
}

// A CD image that a template has in its drive is shared by its clones, for which
// no right on its storage is needed.
func TestNoGrantForACD(t *testing.T) {
	l := newLab(t, &pvetest.Server{Staleness: -1})
	l.Edit(func(c *pvetest.Cluster) { c.VMs[9000].Config["ide0"] = "isos:iso/debian.iso,media=cdrom" })
	if _, err := l.apply(t, want(), filepath.Join(t.TempDir(), "token")); err != nil {
		t.Fatal(err)
	}
	for _, line := range l.access() {
		if strings.Contains(line, "/storage/isos") {
			t.Error(line)
		}
	}
}

// Nothing can be left out of the roles.
func TestLeast(t *testing.T) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			guests := pvetest.ProcessGuests{Dir: pvetest.GuestDir(t)}
			l := newLab(t, &pvetest.Server{Version: version, NewGuest: guests.New, Staleness: -1})
			secret := filepath.Join(t.TempDir(), "token")
			if _, err := l.apply(t, want(), secret); err != nil {
				t.Fatal(err)
			}
			v, err := l.root.Version(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, role := range setup.Roles(v) {
				for i, priv := range role.Privs {
					switch priv {
					case "Sys.Audit", "Datastore.Audit": // what is not seen is guessed
						continue
					case "VM.Config.Cloudinit": // VM.Config.Network stands in for it
						continue
					}
					t.Run(priv, func(t *testing.T) {
						rest := append(append([]string{}, role.Privs[:i]...), role.Privs[i+1:]...)
						l.Edit(func(c *pvetest.Cluster) { c.Roles[role.Name].Privs = rest })
						if err := l.live(t, readSecret(t, secret)); err == nil {
							t.Errorf("%s works without %s", role.Name, priv)
						}
						l.Edit(func(c *pvetest.Cluster) { c.Roles[role.Name].Privs = role.Privs })
					})
				}
			}
		})
	}
}

// The commands that are shown do what Apply does, on either version, also twice.
func TestScript(t *testing.T) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			applied, shown := newLab(t, &pvetest.Server{Version: version}), newLab(t, &pvetest.Server{Version: version})
			w := want()
			w.Nodes = true
			if _, err := applied.apply(t, w, filepath.Join(t.TempDir(), "token")); err != nil {
				t.Fatal(err)
			}
			w.Templates, w.Storages, w.Bridges = []string{"9000"}, []string{"local"}, []string{"vmbr0"}
			script, err := setup.Script(w)
			if err != nil {
				t.Fatal(err)
			}
			for _, again := range []bool{false, true} {
				out := shown.shell(t, script)
				if diff := cmp.Diff(applied.access(), shown.access()); diff != "" {
					t.Errorf("again %v: (-applied +shown):\n%s\n%s", again, diff, out)
				}
			}
		})
	}
}

// What was changed since is mended, be it of the user, of the token or of a role.
func TestApplyMends(t *testing.T) {
	for name, spoil := range map[string]func(*pvetest.Cluster){
		"grant-of-the-user":  func(c *pvetest.Cluster) { c.ACL = withoutGrants(c.ACL, "agentlab@pve") },
		"grant-of-the-token": func(c *pvetest.Cluster) { c.ACL = withoutGrants(c.ACL, "agentlab@pve!agentlab") },
		"role":               func(c *pvetest.Cluster) { c.Roles[setup.PoolRole].Privs = []string{"VM.Audit"} },
		"wide-role":          func(c *pvetest.Cluster) { c.Roles[setup.StorageRole].Privs = c.Roles["PVEAdmin"].Privs },
		"pool":               func(c *pvetest.Cluster) { delete(c.Pools, "agentlab") },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{})
			if _, err := l.apply(t, want(), filepath.Join(t.TempDir(), "token")); err != nil {
				t.Fatal(err)
			}
			before := l.access()
			l.Edit(spoil)
			if changes, err := l.apply(t, want(), ""); err != nil || len(changes) == 0 {
				t.Errorf("changes %q, %v", changes, err)
			}
			if diff := cmp.Diff(before, l.access()); diff != "" {
				t.Errorf("after that (-want +got):\n%s", diff)
			}
		})
	}
}

func withoutGrants(acls []pvetest.ACL, who string) []pvetest.ACL {
	return slices.DeleteFunc(acls, func(a pvetest.ACL) bool { return a.Who == who })
}

// What others may have wanted is not touched.
func TestRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(c *pvetest.Cluster, w *setup.Want)
		want  string
	}{
		"old-version":      {nil, "upgrade to 8.2"},
		"no-template":      {func(_ *pvetest.Cluster, w *setup.Want) { w.Templates = []string{"fedora"} }, `there is no machine "fedora"`},
		"machine":          {func(c *pvetest.Cluster, _ *setup.Want) { c.AddVM("pve", 100, "debian") }, "100 on pve is an ordinary machine"},
		"foreign-pool":     {foreignPool, "pool agentlab has members already (qemu/100)"},
		"disabled-user":    {func(c *pvetest.Cluster, _ *setup.Want) { c.Users["agentlab@pve"] = &pvetest.User{Disabled: true} }, "--enable 1"},
		"all-of-the-users": {func(c *pvetest.Cluster, _ *setup.Want) { c.AddToken("agentlab@pve!agentlab", false) }, "--privsep 1"},
		"no-secret":        {func(c *pvetest.Cluster, _ *setup.Want) { c.AddToken("agentlab@pve!agentlab", true) }, "its secret can't be had again"},
		"pool-name":        {func(_ *pvetest.Cluster, w *setup.Want) { w.Pool = "a b" }, `pool: got "a b", want the name of a pool`},
		"token-name":       {func(_ *pvetest.Cluster, w *setup.Want) { w.Token = "x" }, `token: got "x", want a letter and`},
		"user-name":        {func(_ *pvetest.Cluster, w *setup.Want) { w.User = "joe" }, `user: got "joe", want NAME@REALM`},
		"bridge-name":      {func(_ *pvetest.Cluster, w *setup.Want) { w.Bridges = []string{"a/b/c"} }, `bridge: got "a/b/c"`},
		"storage-name":     {func(_ *pvetest.Cluster, w *setup.Want) { w.Storages = []string{"a;b"} }, `storage: got "a;b"`},
		"template-name":    {func(_ *pvetest.Cluster, w *setup.Want) { w.Templates = []string{"a,b"} }, `template: got "a,b"`},
	} {
		t.Run(name, func(t *testing.T) {
			srv := &pvetest.Server{Staleness: -1}
			if name == "old-version" {
				srv.Version = "8.1.4"
			}
			l, w := newLab(t, srv), want()
			if tt.spoil != nil {
				l.Edit(func(c *pvetest.Cluster) { tt.spoil(c, &w) })
			}
			before, secret := l.access(), filepath.Join(t.TempDir(), "token")
			_, err := l.apply(t, w, secret)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if diff := cmp.Diff(before, l.access()); diff != "" {
				t.Errorf("it was changed (-before +after):\n%s", diff)
			}
			if _, err := os.Stat(secret); err == nil {
				t.Error("the secret's file was made")
			}
		})
	}
}

func foreignPool(c *pvetest.Cluster, _ *setup.Want) {
	c.AddVM("pve", 100, "mail")
	c.Pools["agentlab"] = &pvetest.Pool{VMs: map[int]bool{100: true}}
}

// What is named but is not there is told before anything is made: Proxmox would
// take a grant on it.
func TestNamesOfNothing(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	before := l.access()
	w := want()
	w.Storages, w.Bridges = []string{"local", "nosuch"}, []string{"zone1/vnet9"}
	_, err := l.apply(t, w, filepath.Join(t.TempDir(), "token"))
	if err == nil || err.Error() != "storage: there is no \"nosuch\", but local\nbridge: there is no \"vnet9\", but vmbr0" {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(before, l.access()); diff != "" {
		t.Errorf("after that (-want +got):\n%s", diff)
	}
}

func TestSecretIsNeverOverwritten(t *testing.T) {
	l, secret := newLab(t, &pvetest.Server{}), filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(secret, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := l.access()
	if _, err := l.apply(t, want(), secret); err == nil || !strings.Contains(err.Error(), "is not overwritten") {
		t.Errorf("error %v", err)
	}
	if _, err := l.apply(t, want(), ""); err == nil || !strings.Contains(err.Error(), "give --token-file") {
		t.Errorf("no file: error %v", err)
	}
	if got, err := os.ReadFile(secret); string(got) != "mine" || err != nil {
		t.Errorf("the file has %q, %v", got, err)
	}
	if diff := cmp.Diff(before, l.access()); diff != "" {
		t.Errorf("it was changed (-before +after):\n%s", diff)
	}
}

// Whichever step fails, the error says what was not done, a repeat does the
// rest, and no secret is lost.
func TestFailureInTheMiddle(t *testing.T) {
	whole := newLab(t, &pvetest.Server{})
	steps, err := whole.apply(t, want(), filepath.Join(t.TempDir(), "token"))
	if err != nil {
		t.Fatal(err)
	}
	for n, step := range steps {
		writes := 0
		srv := &pvetest.Server{Fail: func(r *http.Request) *pvetest.Fault {
			if r.Method == http.MethodGet || strings.HasSuffix(r.URL.Path, "/ticket") {
				return nil
			}
			if writes++; writes == n+1 {
				return &pvetest.Fault{Status: 500, Reason: "cfs-lock 'file-user_cfg' error: got lock request timeout"}
			}
			return nil
		}}
		l, secret := newLab(t, srv), filepath.Join(t.TempDir(), "token")
		done, err := l.apply(t, want(), secret)
		if err == nil || !strings.HasPrefix(err.Error(), step+": ") {
			t.Errorf("%s: error %v", step, err)
			continue
		}
		if diff := cmp.Diff(append([]string{}, steps[:n]...), append([]string{}, done...)); diff != "" {
			t.Errorf("%s: done (-want +got):\n%s", step, diff)
		}
		for _, rest := range steps[n+1:] {
			if !strings.Contains(err.Error(), rest) {
				t.Errorf("the error does not say that %q was not done: %v", rest, err)
			}
		}
		if _, err := l.apply(t, want(), secret); err != nil {
			t.Errorf("%s: repeat: %v", step, err)
		}
		if diff := cmp.Diff(whole.access(), l.access()); diff != "" {
			t.Errorf("%s: after the repeat (-want +got):\n%s", step, diff)
		}
		if _, err := l.client(t, pve.Auth{Token: readSecret(t, secret)}).Version(t.Context()); err != nil {
			t.Errorf("%s: the token: %v", step, err)
		}
	}
}

// Who may not change permissions is told so by Proxmox's own words.
func TestNotRoot(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	var secret string
	l.Edit(func(c *pvetest.Cluster) { secret = c.AddToken("joe@pve!t1", false) })
	s := setup.Setup{Client: l.client(t, pve.Auth{Token: redact.String("joe@pve!t1=" + secret)}), Want: want(), Secret: filepath.Join(t.TempDir(), "token")}
	s.Want.Templates = nil
	if _, err := s.Apply(t.Context()); !errors.Is(err, pve.Permission) {
		t.Errorf("error %v", err)
	}
}

func readSecret(t *testing.T, file string) redact.String {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return redact.String(strings.TrimSpace(string(data)))
}
