package proxmox

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// What the token may not do is told with the privilege that it lacks, where that
// is granted, and how; also when it lacked none when the machine was made.
func TestMissingPrivilegesAreNamed(t *testing.T) {
	pool, doctor := " on /pool/"+testPool, "agentlab doctor"
	for name, tt := range map[string]struct {
		edit func(*pvetest.Cluster) // after the machine was made
		call func(*Provisioner, guest.Conn, provisioner.Machine) error
		says []string
	}{
		"create": {lose("VM.Config.CPU"), func(p *Provisioner, _ guest.Conn, _ provisioner.Machine) error {
			_, err := p.Create(t.Context(), testSpec(2))
			return err
		}, []string{"lacks VM.Config.CPU" + pool, doctor}},
		"relabel": {lose("VM.Config.Options"), func(p *Provisioner, _ guest.Conn, m provisioner.Machine) error {
			return p.Relabel(t.Context(), m.Ref, m.Papers)
		}, []string{"lacks VM.Config.Options" + pool, doctor}},
		"destroy": {lose("VM.PowerMgmt"), func(p *Provisioner, _ guest.Conn, m provisioner.Machine) error {
			return p.Destroy(t.Context(), m.Ref)
		}, []string{"lacks VM.PowerMgmt" + pool, doctor}},
		"dial": {lose("VM.Monitor"), func(p *Provisioner, _ guest.Conn, m provisioner.Machine) error {
			p.setTimes(handleID(t, m), time.Time{}, time.Time{}) // it is asked whether it is up
			_, err := p.Dial(t.Context(), m.Ref)
			return err
		}, []string{"lacks VM.Monitor" + pool, doctor}},
		"exec": {lose("VM.Monitor"), func(_ *Provisioner, conn guest.Conn, _ provisioner.Machine) error {
			_, err := says(t, conn, "true")
			return err
		}, []string{"lacks VM.Monitor" + pool, doctor}},
		"template": {func(c *pvetest.Cluster) { c.Roles["R-vms-9000"].Privs = []string{"VM.Audit"} },
			func(p *Provisioner, _ guest.Conn, _ provisioner.Machine) error {
				_, err := p.Create(t.Context(), testSpec(2))
				return err
			}, []string{"lacks VM.Clone on /vms/9000", doctor}},
		"tag": {func(c *pvetest.Cluster) { c.Options["user-tag-access"] = "user-allow=none" },
			func(p *Provisioner, _ guest.Conn, _ provisioner.Machine) error {
				_, err := p.Create(t.Context(), testSpec(2))
				return err
			}, []string{"does not let the token give the tag agentlab", "agentlab doctor"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newSSHLab(t)
			p := l.provisioner(channelAgent)
			p.User = nil
			m := made(t, p, 1)
			conn := dialled(t, p, m)
			if _, err := says(t, conn, "true"); err != nil {
				t.Fatal(err)
			}
			l.srv.Edit(tt.edit)
			err := tt.call(p, conn, m)
			if !errors.Is(err, provisioner.ErrUnavailable) {
				t.Fatalf("error %v", err)
			}
			for _, s := range tt.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q is not in %q", s, err)
				}
			}
			if strings.Contains(err.Error(), "lacks Sys.Modify") {
				t.Errorf("it asks for too much: %v", err)
			}
		})
	}
}

// lose takes a privilege on the pool away.
func lose(privilege string) func(*pvetest.Cluster) {
	return func(c *pvetest.Cluster) {
		role := c.Roles["R-pool-"+testPool]
		role.Privs = slices.DeleteFunc(slices.Clone(role.Privs), func(p string) bool { return p == privilege })
	}
}
