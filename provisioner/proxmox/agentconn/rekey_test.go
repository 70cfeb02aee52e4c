package agentconn_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/agentconn"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// furnished is a guest that has all that a Rekey may find.
const furnished = `mkdir -p /etc/ssh /root/.ssh /var/lib/dbus /var/lib/systemd /var/lib/seedrng
for k in rsa ecdsa ed25519; do echo old >/etc/ssh/ssh_host_${k}_key; echo old >/etc/ssh/ssh_host_${k}_key.pub; done
chmod 600 /etc/ssh/*key; echo conf >/etc/ssh/sshd_config
printf 'ssh-rsa ADMIN admin\nssh-ed25519 OLD\ncommand="x" ssh-ed25519 OLDER old\n' >/root/.ssh/authorized_keys; chmod 600 /root/.ssh/authorized_keys
printf '127.0.0.1 localhost\n127.0.1.1 old.domain old\n127.0.1.10 other\n' >/etc/hosts
echo old >/etc/machine-id; echo old >/var/lib/dbus/machine-id; echo old >/var/lib/seedrng/seed.credit`

// is what it is then, whatever it was before.
const is = `cat /proc/sys/kernel/hostname /etc/hostname /etc/machine-id /var/lib/dbus/machine-id /etc/hosts /root/.ssh/authorized_keys
ls /etc/ssh; cat /etc/ssh/*.pub /etc/ssh/ssh_host_ed25519_key /var/lib/seedrng/seed.credit /var/lib/systemd/random-seed
for f in /etc/hostname /etc/machine-id /root/.ssh/authorized_keys /etc/ssh/ssh_host_ed25519_key /var/lib/systemd/random-seed; do stat -c %a $f; done`

const want = `claimed
claimed
0123456789abcdef0123456789abcdef
0123456789abcdef0123456789abcdef
127.0.0.1 localhost
127.0.1.1 claimed
127.0.1.10 other
ssh-ed25519 NEW
ssh-rsa ADMIN admin
ssh_host_ed25519_key
ssh_host_ed25519_key.pub
sshd_config
ssh-ed25519 HOST
-----BEGIN
secret
-----END
736176656473656372657473
736176656473656372657473
644
644
600
600
600
`

func self() agentconn.Self {
	return agentconn.Self{
		Identity: "anew", Hostname: "claimed", MachineID: "0123456789abcdef0123456789abcdef", Login: "root",
		Key: "ssh-ed25519 NEW", Spent: []string{"OLD", "OLDER"}, HostKey: "ssh-ed25519 HOST",
		HostSecret: []byte("-----BEGIN\nsecret\n-----END\n"), Random: []byte("randomsecrets"), Saved: []byte("savedsecrets"),
		Switch: agentconn.Switch{ID: "0123456789abcdef", After: time.Hour},
	}
}

// seen keeps the command lines that a guest is given.
type seen struct {
	pve.Transport
	mu   sync.Mutex
	argv []string
}

func (s *seen) Do(ctx context.Context, r pve.Request) (json.RawMessage, error) {
	s.mu.Lock()
	s.argv = append(s.argv, r.Params["command"]...)
	s.mu.Unlock()
	return s.Transport.Do(ctx, r)
}

// A guest becomes another whatever it is made of, and once more if that is
// repeated. What must be secret is in no command line.
func TestRekey(t *testing.T) {
	for name, prepare := range map[string]string{"coreutils": "true", "busybox": intoBusybox} {
		if prepare == intoBusybox && os.Getuid() != 0 {
			continue // only root mounts
		}
		t.Run(name, func(t *testing.T) {
			m := armable(t, prepare)
			c := m.conn(t, "")
			m.sh(t, c, furnished)
			m.keepProcess(t, c)
			lines := &seen{Transport: m.client.Transport}
			m.client.Transport = lines
			var anew *agentconn.Conn
			for range 2 {
				var armed bool
				var err error
				anew, armed, err = c.Rekey(t.Context(), self())
				if check(t, err); armed {
					t.Error("a switch was armed that is not there")
				}
				t.Cleanup(func() { check(t, anew.Close()) })
			}
			for _, line := range lines.argv {
				if strings.Contains(line, "secrets") || strings.Contains(line, "BEGIN") || strings.Contains(line, "736563") {
					t.Errorf("a secret is in the command line %.200q", line)
				}
			}
			if got := m.sh(t, anew, is); got != want {
				t.Errorf("the guest is\n%swant\n%s", got, want)
			}
			if list, err := anew.Processes().List(t.Context()); err != nil || len(list) > 0 {
				t.Errorf("processes of before: %+v, %v", list, err)
			}
			if got := m.sh(t, anew, "ls -d /var/lib/agentlab/tmp.*"); got != "/var/lib/agentlab/tmp.anew\n" {
				t.Errorf("the guest bears %q", got)
			}
		})
	}
}

// keepProcess has the guest keep what a process wrote.
func (m *machine) keepProcess(t *testing.T, c *agentconn.Conn) {
	t.Helper()
	p, _, err := c.Processes().Start(t.Context(), guest.Cmd{Args: []string{"echo", "secret"}}, guest.StartOptions{Wait: time.Minute})
	if check(t, err); p.Running {
		t.Fatalf("%+v", p)
	}
}

// The switch of a guest that has one is armed by the way.
func TestRekeyArms(t *testing.T) {
	m := armable(t, "true")
	c := m.conn(t, "")
	check(t, c.Arm(t.Context(), agentconn.Switch{ID: "fedcba9876543210", After: time.Minute}))
	anew, armed, err := c.Rekey(t.Context(), self())
	check(t, err)
	defer anew.Close()
	if got := m.sh(t, anew, "cat /var/lib/agentlab/armed"); !armed || got != "0123456789abcdef 3600       end\n" {
		t.Errorf("armed is %v, %q", armed, got)
	}
}

// What can't be made another is no other's: it is said what holds it up. What the
// guest claims to be is not believed.
func TestRekeyFails(t *testing.T) {
	for name, tt := range map[string]struct{ prepare, want string }{
		"machine_id_is_lost": {"ln -s /dev/null /etc/machine-id", "/etc/machine-id holds"},
		"hostname_is_lost":   {"ln -s /dev/null /etc/hostname", "/etc/hostname holds"},
		"dbus_is_lost":       {"mkdir /var/lib/dbus; ln -s /dev/null /var/lib/dbus/machine-id", "/var/lib/dbus/machine-id holds"},
		"host_key_is_lost":   {"mkdir /etc/ssh; ln -s /dev/null /etc/ssh/ssh_host_ed25519_key.pub", "ed25519_key.pub holds"},
		"secret_is_lost":     {"mkdir /etc/ssh; ln -s /dev/null /etc/ssh/ssh_host_ed25519_key", "ed25519_key holds"},
		"keys_are_lost":      {"mkdir /root/.ssh; ln -s /dev/null /root/.ssh/authorized_keys", "authorized_keys holds"},
		"seed_is_lost":       {"mkdir -p /var/lib/urandom; ln -s /dev/null /var/lib/urandom/random-seed", "random-seed holds"},
		"no_directory":       {"rm /etc/hostname; mkdir /etc/hostname", "is a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			m := armable(t, "true")
			c := m.conn(t, "")
			m.sh(t, c, tt.prepare)
			if _, _, err := c.Rekey(t.Context(), self()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Rekey: %v, want %q", err, tt.want)
			}
			if got := m.sh(t, c, "ls -d /var/lib/agentlab/tmp.*"); got != "/var/lib/agentlab/tmp.test\n" {
				t.Errorf("the guest bears %q", got)
			}
		})
	}
}

// A guest that answers something else than what it was to become is none.
func TestRekeyReadsBack(t *testing.T) {
	m := armable(t, "true")
	c := m.conn(t, "")
	m.sh(t, c, "true")
	m.client.Transport = forged{m.client.Transport}
	if _, _, err := c.Rekey(t.Context(), self()); !errors.Is(err, guest.ErrUnreachable) || !strings.Contains(err.Error(), "not what it was made") {
		t.Errorf("Rekey: %v", err)
	}
}

// forged has guests say that they have another machine-id.
type forged struct{ pve.Transport }

func (f forged) Do(ctx context.Context, r pve.Request) (json.RawMessage, error) {
	out, err := f.Transport.Do(ctx, r)
	return json.RawMessage(strings.ReplaceAll(string(out), "machine=0123", "machine=ffff")), err
}

// A guest of another is left as it is.
func TestRekeyOfAnother(t *testing.T) {
	m := armable(t, furnished)
	notOurs := errors.New("not ours")
	c, _ := m.checked(t, &notOurs)
	if _, _, err := c.Rekey(t.Context(), self()); !errors.Is(err, notOurs) {
		t.Errorf("Rekey: %v", err)
	}
	if err := c.Arm(t.Context(), self().Switch); !errors.Is(err, notOurs) {
		t.Errorf("Arm: %v", err)
	}
	m.inGuest(t, "! [ -e /var/lib/agentlab ] && grep -qx old /etc/machine-id && grep -q OLD /root/.ssh/authorized_keys")
}

// A channel of before is not let in again on the strength of what was seen before.
func TestRekeyEndsEarlierChannels(t *testing.T) {
	m := armable(t, "true")
	handedOver := errors.New("handed over")
	c := agentconn.New(agentconn.Config{
		Client: m.client, VM: m.vm, Limiter: &m.limit, Identity: "test", Checked: time.Now().Add(time.Hour),
		Check: func(context.Context) error { return handedOver },
	})
	defer c.Close()
	m.sh(t, c, "true")
	anew, _, err := c.Rekey(t.Context(), self())
	check(t, err)
	defer anew.Close()
	if _, err := c.Run(t.Context(), guest.Cmd{Args: []string{"touch", "/home/ran"}}, guest.Streams{}); !errors.Is(err, handedOver) {
		t.Errorf("Run: %v", err)
	}
	m.sh(t, anew, "! [ -e /home/ran ]")
}

// The random bytes that it is given are mixed into those of the guest's kernel,
// which takes what is written to /dev/urandom, and none of what is kept for a boot.
func TestRekeyStirs(t *testing.T) {
	if os.Getuid() != 0 {
		return // only root mounts
	}
	m := armable(t, ": >/run/urandom; mount --bind /run/urandom /dev/urandom")
	c := m.conn(t, "")
	anew, _, err := c.Rekey(t.Context(), self())
	check(t, err)
	defer anew.Close()
	if got, want := m.sh(t, anew, "cat /run/urandom"), hex.EncodeToString([]byte("randomsecrets")); got != want {
		t.Errorf("stirred in is %q, want %q", got, want)
	}
}
