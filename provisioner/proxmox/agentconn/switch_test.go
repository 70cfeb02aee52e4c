package agentconn_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/agentconn"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// switchTime runs a switch in a time of its own: when it sleeps, the time that its
// kernel counts goes on, and what is to happen then does.
const switchTime = `now=1000 dir=$1
arm() { printf '%%s %%-10s end\n' "$1" "$2" >"$dir/armed"; }
tick() { echo "$now.42 1.00" >"$dir/uptime"; }
at() { case $((now - 1000)) in
%s
esac; }
sleep() { now=$((now + $1)); tick; at; }
poweroff() { printf 'off at %%s' $((now - 1000)); exit 0; }
tick; at
`

// A switch powers off after as much time of running as it was armed for last, and
// never earlier, whatever happens to what it has written.
func TestSwitchIsNeverEarly(t *testing.T) {
	for name, tt := range map[string]struct{ events, want string }{
		"armed":           {"0) arm a 100;;", "off at 100"},
		"armed_again":     {"0) arm a 100;; 90) arm b 1000;;", "off at 1090"},
		"armed_for_less":  {"0) arm a 1000;; 60) arm b 100;;", "off at 160"},
		"armed_late":      {"90) arm a 100;;", "off at 190"},
		"half_written":    {"0) arm a 100;; 30) echo 'b 10' >$dir/armed;; 60) : >$dir/armed;;", "off at 100"},
		"disarmed":        {"0) arm a 100;; 30) rm $dir/armed;;", "off at 100"},
		"made_anew":       {"0) arm a 100;; 60) rm -r $dir; mkdir $dir; tick; arm b 500;;", "off at 560"},
		"nothing_is_left": {"0) arm a 100; echo nonsense >$dir/left;;", "off at 100"},
		"rebooted":        {"0) arm a 100; echo 'a 40         end' >$dir/left;;", "off at 40"},
		"of_before":       {"0) arm b 100; echo 'a 40         end' >$dir/left;;", "off at 100"},
		"more_is_left":    {"0) arm a 100; echo 'a 4000       end' >$dir/left;;", "off at 100"},
	} {
		for _, shell := range [][]string{{"dash"}, {"busybox", "sh"}, {"bash"}} {
			t.Run(name+"_"+shell[0], func(t *testing.T) {
				need(t, shell[0])
				dir := filepath.Join(t.TempDir(), "dir")
				check(t, os.Mkdir(dir, 0o700))
				text := fmt.Sprintf(switchTime, tt.events) + strings.ReplaceAll(agentconn.Script("switch"), "/proc/uptime", `"$dir/uptime"`)
				out, err := exec.Command(shell[0], append(shell[1:], "-c", text, "switch", dir)...).CombinedOutput()
				if err != nil || !strings.HasSuffix(string(out), tt.want) {
					t.Errorf("it says %q, %v, want %s", out, err, tt.want)
				}
			})
		}
	}
}

// need has a program installed.
func need(t *testing.T, program string) {
	t.Helper()
	if out, err := exec.Command("../../../.ci/need", program).CombinedOutput(); err != nil {
		t.Fatalf("%s is needed: %v: %s", program, err, out)
	}
}

// A guest whose switch was armed is off when it is time, also with busybox.
func TestSwitchPowersOff(t *testing.T) {
	for name, prepare := range map[string]string{"coreutils": "true", "busybox": intoBusybox} {
		if prepare == intoBusybox && os.Getuid() != 0 {
			continue // only root mounts
		}
		t.Run(name, func(t *testing.T) {
			m := armable(t, prepare)
			check(t, m.conn(t, "").Arm(t.Context(), agentconn.Switch{ID: "0123456789abcdef", After: time.Second}))
			for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
				s, err := m.client.Status(t.Context(), m.vm)
				check(t, err)
				if !s.Running() {
					return
				}
				if time.Now().After(end) {
					t.Fatal("it still runs")
				}
			}
		})
	}
}

// armable is a guest in which something was prepared.
func armable(t *testing.T, prepare string) *machine {
	t.Helper()
	if prepare == intoBusybox {
		need(t, "busybox")
	}
	m := boot(t, &pvetest.Server{})
	m.inGuest(t, prepare)
	return m
}

// Arming again changes how long it is, and starts nothing twice: neither now nor
// when the guest boots.
func TestSwitchIsArmedAgain(t *testing.T) {
	for name, tt := range map[string]struct{ prepare, file, want string }{
		"busybox_init": {"echo ::sysinit:/etc/rc >/etc/inittab", "/etc/inittab", "::sysinit:/etc/rc\n::once:/bin/sh /var/lib/agentlab/switch\n"},
		"sysvinit":     {"echo id:2:initdefault: >/etc/inittab", "/etc/inittab", "id:2:initdefault:\nal:2345:once:/bin/sh /var/lib/agentlab/switch\n"},
		"no_init":      {"true", "/etc/hostname", "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			m := armable(t, tt.prepare+"; echo >/etc/hostname")
			c := m.conn(t, "")
			for i, after := range []time.Duration{time.Hour, 2 * time.Hour, time.Hour} {
				check(t, c.Arm(t.Context(), agentconn.Switch{ID: fmt.Sprintf("%016d", i), After: after}))
				want := fmt.Sprintf("%016d %-10d end\n", i, after/time.Second)
				if got := m.sh(t, c, "cat /var/lib/agentlab/armed"); got != want {
					t.Errorf("armed is %q, want %q", got, want)
				}
				m.sh(t, c, "until [ -e /var/lib/agentlab/left ]; do sleep 0.01; done") // it has begun
			}
			if got := m.sh(t, c, "grep -lx sh /proc/[0-9]*/comm | sed s/comm/cmdline/ | xargs grep -la '^/bin/sh./var/lib/agentlab/switch' | wc -l"); got != "1\n" {
				t.Errorf("%s switches run", strings.TrimSpace(got))
			}
			if got := m.sh(t, c, "cat "+tt.file); got != tt.want {
				t.Errorf("%s holds %q, want %q", tt.file, got, tt.want)
			}
		})
	}
}

// Where there is systemd, a unit of its runs the switch, now and after each boot.
func TestSwitchIsAUnit(t *testing.T) {
	m := armable(t, "mkdir -p /run/systemd/system /etc/systemd/system")
	said := filepath.Join(m.root, "root", "said")
	program := filepath.Join(filepath.Dir(m.root), "sbin", "systemctl")
	check(t, os.WriteFile(program, []byte("#!/bin/sh\necho \"$@\" >>/root/said\n"), 0o755)) //nolint:gosec // a program
	c := m.conn(t, "")
	for range 2 {
		check(t, c.Arm(t.Context(), agentconn.Switch{ID: "0123456789abcdef", After: time.Hour}))
	}
	text, err := os.ReadFile(said)
	check(t, err)
	if want := strings.Repeat("start --no-block agentlab-switch.service\n", 2); string(text) != want {
		t.Errorf("systemctl was asked for %q, want %q", text, want)
	}
	if got := m.sh(t, c, "cat /etc/systemd/system/multi-user.target.wants/agentlab-switch.service"); !strings.Contains(got, "\nExecStart=/bin/sh /var/lib/agentlab/switch\n") {
		t.Errorf("the unit is %q", got)
	}
}

// A guest that was only told when to power itself off was not used by its agent,
// which would keep it from being used by SSH.
func TestSwitchIsNoUse(t *testing.T) {
	m := armable(t, "true")
	c, looks := m.checked(t, new(error))
	check(t, c.Arm(t.Context(), agentconn.Switch{ID: "0123456789abcdef", After: time.Hour}))
	m.inGuest(t, "[ -e /var/lib/agentlab/armed ] && ! [ -e /var/lib/agentlab/boot ]")
	if looks.Load() != 1 {
		t.Errorf("the machine was looked at %d times", looks.Load())
	}
}
