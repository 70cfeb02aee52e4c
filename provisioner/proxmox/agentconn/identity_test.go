package agentconn_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"path"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/agentconn"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// checked is a channel whose machine was last looked at long ago, and how often
// it has been looked at since. The looks give the error, if there is one.
func (m *machine) checked(t *testing.T, result *error) (*agentconn.Conn, *atomic.Int64) {
	t.Helper()
	var looks atomic.Int64
	c := agentconn.New(agentconn.Config{
		Client: m.client, VM: m.vm, Limiter: &m.limit, Identity: "test",
		Check: func(context.Context) error { looks.Add(1); return *result },
	})
	t.Cleanup(func() { check(t, c.Close()) })
	return c, &looks
}

// A guest that has lost the identity, or was never given it, is used again once
// its machine was looked at, and a command runs in it once.
func TestIdentityIsGivenAgain(t *testing.T) {
	m := boot(t, &pvetest.Server{})
	var c *agentconn.Conn
	large := bytes.Repeat([]byte("large\n"), 50_000)
	ran := guest.Cmd{Args: []string{"sh", "-c", "cat >>/home/ran"}}
	start := func(opt guest.StartOptions) func() error {
		return func() error { _, _, err := c.Processes().Start(t.Context(), ran, opt); return err }
	}
	for name, use := range map[string]func() error{
		"run": func() error {
			_, err := c.Run(t.Context(), ran, guest.Streams{Stdin: bytes.NewReader(large)})
			return err
		},
		"start":       start(guest.StartOptions{Wait: time.Minute, Stdin: []byte("x")}),
		"start_large": start(guest.StartOptions{Wait: time.Minute, Stdin: large}),
		"background":  start(guest.StartOptions{}),
		"write": func() error {
			_, err := c.WriteFile(t.Context(), "/home/f", bytes.NewReader(large), guest.WriteOptions{})
			return err
		},
		"list": func() error { _, err := c.ListFiles(t.Context(), "/home", guest.ListOptions{}); return err },
	} {
		m.inGuest(t, "rm -rf /var/lib/agentlab; : >/home/ran")
		var looks *atomic.Int64
		c, looks = m.checked(t, new(error))
		if err := use(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if looks.Load() == 0 {
			t.Errorf("%s: nobody looked at the machine", name)
		}
		want := map[string]string{"run": "300000\n", "start": "1\n", "start_large": "300000\n"}[name]
		if got := m.sh(t, c, "wc -c </home/ran"); want != "" && got != want {
			t.Errorf("%s: the command got %q of input, not %q", name, got, want)
		}
	}
}

// A guest that is asked in vain at first, for longer than a look holds good, is
// given the identity after another look.
func TestIdentityIsGivenLate(t *testing.T) {
	var execs atomic.Int64
	m := boot(t, &pvetest.Server{Fail: func(r *http.Request) *pvetest.Fault {
		if path.Base(r.URL.Path) != "exec" || execs.Add(1) != 2 { // the guest refused the first
			return nil
		}
		time.Sleep(agentconn.AdoptTime)
		return &pvetest.Fault{Status: 500, Reason: "VM 100 qmp command 'guest-exec' failed - got timeout"}
	}})
	c, looks := m.checked(t, new(error))
	execs.Store(0)
	if got := m.sh(t, c, "echo here"); got != "here\n" || looks.Load() != 2 {
		t.Errorf("it says %q after %d looks", got, looks.Load())
	}
}

// A guest that bears the identity costs no look at its machine, whoever gave it
// and though it was restarted.
func TestIdentityIsKept(t *testing.T) {
	m := boot(t, &pvetest.Server{})
	m.sh(t, m.conn(t, ""), "true")
	m.await(t)(m.client.Stop(t.Context(), m.vm, pve.StopOptions{}))
	m.await(t)(m.client.Start(t.Context(), m.vm))
	failed := errors.New("never asked")
	c, looks := m.checked(t, &failed)
	if got := m.sh(t, c, "echo here"); got != "here\n" || looks.Load() != 0 {
		t.Errorf("it says %q after %d looks", got, looks.Load())
	}
}

// If the machine is not the sandbox's, its guest is left as it was. If it is
// again, as when papers are put back, the channel works again.
func TestStrangerIsLeftAlone(t *testing.T) {
	m := boot(t, &pvetest.Server{})
	notOurs := errors.New("not ours")
	result := notOurs
	c, looks := m.checked(t, &result)
	run := func() error {
		_, err := c.Run(t.Context(), guest.Cmd{Args: []string{"touch", "/home/ran"}}, guest.Streams{})
		return err
	}
	for range 2 {
		if err := run(); !errors.Is(err, notOurs) {
			t.Errorf("Run: %v", err)
		}
	}
	m.inGuest(t, "! [ -e /var/lib/agentlab ] && ! [ -e /home/ran ]")
	result = nil
	check(t, run())
	if looks.Load() < 3 {
		t.Errorf("the machine was looked at %d times", looks.Load())
	}
}
