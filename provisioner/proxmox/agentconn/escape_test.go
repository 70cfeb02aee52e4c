package agentconn_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/agentconn"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// grouped gives a guest that is about to boot cgroups, as every real one has:
// all below one of the host's, which is removed in the end. Only root can.
func grouped(t *testing.T) (mount string) {
	t.Helper()
	name := "agentlab-test-" + filepath.Base(t.TempDir()) + "-" + strings.ToLower(t.Name())
	t.Cleanup(func() {
		dir := t.TempDir()
		out, err := exec.Command("unshare", "-m", "sh", "-c", //nolint:gosec // our own words
			`mount -t cgroup2 cgroup2 "$1" && cd "$1" && find "./$2" -depth -type d -exec rmdir {} +`, "sh", dir, name).CombinedOutput()
		if err != nil {
			t.Errorf("remove cgroups: %v: %s", err, out)
		}
	})
	return "mkdir -p /sys/fs/cgroup /run/all && mount -t cgroup2 cgroup2 /run/all && mkdir /run/all/" + name +
		" && mount --bind /run/all/" + name + " /sys/fs/cgroup && umount -l /run/all"
}

// awaitFile waits until a file of the guest has content.
func (m *machine) awaitFile(t *testing.T, name string) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if b, err := os.ReadFile(filepath.Join(m.root, name)); err == nil && len(b) > 0 {
			return
		}
	}
	t.Fatalf("%s has no content", name)
}

// running says which processes of the guest have the text in their command line.
func (m *machine) running(t *testing.T, c *agentconn.Conn, text string) string {
	t.Helper()
	return m.sh(t, c, `for f in /proc/[0-9]*/cmdline; do tr '\0' ' ' <$f 2>/dev/null | grep -q '[`+text[:1]+`]`+text[1:]+`' && echo $f; done; true`)
}

// Cancelling also kills what dropped its environment.
func TestCancelKillsWithoutEnvironment(t *testing.T) {
	m := boot(t, &pvetest.Server{})
	cancelKills(t, m, m.conn(t, ""), "env -i sleep 7341")
}

// With cgroups nothing escapes.
func TestCancelKillsWhatLeft(t *testing.T) {
	if os.Getuid() != 0 {
		return // only root has cgroups
	}
	mount := grouped(t)
	m := boot(t, &pvetest.Server{})
	m.inGuest(t, mount)
	cancelKills(t, m, m.conn(t, ""), "(setsid env -i setsid sleep 7341 &) ; sleep 7341")
}

// inGuest runs a script by the agent itself, before the first of ours.
func (m *machine) inGuest(t *testing.T, script string) {
	t.Helper()
	pid, err := m.client.AgentExec(t.Context(), m.vm, []string{"/bin/sh", "-c", script}, nil)
	check(t, err)
	for {
		s, err := m.client.AgentExecStatus(t.Context(), m.vm, pid)
		check(t, err)
		if s.Exited {
			if s.ExitCode != 0 {
				t.Fatalf("%q: %s", script, s.Err)
			}
			return
		}
	}
}

func cancelKills(t *testing.T, m *machine, c *agentconn.Conn, script string) {
	t.Helper()
	for name, call := range map[string]func(context.Context, guest.Cmd) error{
		"run": func(ctx context.Context, cmd guest.Cmd) error {
			_, err := c.Run(ctx, cmd, guest.Streams{})
			return err
		},
		"start": func(ctx context.Context, cmd guest.Cmd) error {
			_, _, err := c.Processes().Start(ctx, cmd, guest.StartOptions{Wait: time.Minute})
			return err
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- call(ctx, guest.Cmd{Args: []string{"sh", "-c", "echo up >up-" + name + "; " + script}, Dir: home})
		}()
		m.awaitFile(t, home+"/up-"+name)
		for m.running(t, c, "sleep 7341") == "" {
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		for end := time.Now().Add(time.Minute); ; {
			left := m.running(t, c, "sleep 7341")
			if left == "" {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s: still running: %q", name, left)
			}
		}
	}
}

// agentService puts the agent into a cgroup of its own, as systemd does. What
// restarts it kills all in there.
const agentService = " && mkdir /sys/fs/cgroup/agent && " + agentPID + "echo $agent >/sys/fs/cgroup/agent/cgroup.procs"

// A restart of the agent's service, which kills all in its cgroup, ends nothing
// that we started.
func TestAgentServiceRestarts(t *testing.T) {
	if os.Getuid() != 0 {
		return // only root has cgroups
	}
	mount := grouped(t)
	m := boot(t, &pvetest.Server{})
	m.inGuest(t, mount+agentService)
	c := m.conn(t, "")
	survives(t, c, "/sys/fs/cgroup")
	// Of commands that are over no cgroup is left, but for the one that asks.
	m.sh(t, c, "sleep 7343 >/dev/null 2>&1 & echo $! >"+home+"/pid")
	m.sh(t, c, "kill $(cat "+home+"/pid)")
	m.sh(t, c, "true")
	if got := m.sh(t, c, "ls -d /sys/fs/cgroup/agentlab/*/ | wc -l"); got != "1\n" {
		t.Errorf("%s cgroups", got)
	}
}

// systemd stands in for that of a guest: it moves processes where only it may,
// some time after it has said so.
const systemd = ` && mkdir -p /run/systemd/system /run/cgroup && mount --bind /sys/fs/cgroup /run/cgroup && mount -o remount,bind,ro /sys/fs/cgroup &&
mount -t tmpfs tmpfs /usr/local/bin && cat >/usr/local/bin/busctl <<'EOF' && chmod +x /usr/local/bin/busctl
#!/bin/sh
[ "$1 $5 $6 $8 $9" = "call StartTransientUnit ssa(sv)a(sa(sv)) fail 3" ] || exit 1
unit=$7
shift 9
[ "$1 $2 $3" = "PIDs au 1" ] || exit 1
(sleep 0.1; mkdir "/run/cgroup/$unit" && echo "$4" >"/run/cgroup/$unit/cgroup.procs") >/dev/null 2>&1 &
EOF`

// The same where the agent may not write to cgroups: systemd may.
func TestConfinedAgentServiceRestarts(t *testing.T) {
	if os.Getuid() != 0 {
		return // only root has cgroups
	}
	mount := grouped(t)
	m := boot(t, &pvetest.Server{})
	m.inGuest(t, mount+agentService+systemd)
	survives(t, m.conn(t, ""), "/run/cgroup")
}

// survives restarts the agent's service in the middle of commands.
func survives(t *testing.T, c *agentconn.Conn, cgroups string) {
	t.Helper()
	p, _, err := c.Processes().Start(t.Context(), guest.Cmd{Args: []string{"sh", "-c", "read x; echo $x; exit 5"}}, guest.StartOptions{KeepStdin: true})
	check(t, err)
	var after bytes.Buffer
	kill := guest.Cmd{Args: []string{"sh", "-c", "echo 1 >" + cgroups + "/agent/cgroup.kill; sleep 0.2; echo after"}}
	_, err = c.Run(t.Context(), kill, guest.Streams{Stdout: &after})
	check(t, err)
	if after.String() != "after\n" {
		t.Errorf("output %q", after.String())
	}
	_, err = c.Processes().Control(t.Context(), p.ID, guest.Input{Stdin: []byte("it\n")})
	check(t, err)
	p, out, err := c.Processes().Read(t.Context(), p.ID, guest.ReadRequest{Wait: time.Minute, Until: "never", Max: 100})
	check(t, err)
	if p.Exit.Code != 5 || string(out.Both) != "it\n" {
		t.Errorf("process %+v, output %q", p, out.Both)
	}
}

// An unprivileged process of the guest can't have root's files through ours.
func TestControlFileIsOurs(t *testing.T) {
	if os.Getuid() != 0 {
		return // the guest has but one user
	}
	m := boot(t, &pvetest.Server{})
	root, nobody := m.conn(t, ""), m.conn(t, "nobody")
	m.sh(t, root, "echo secret >/home/secret; chmod 600 /home/secret")
	p, _, err := nobody.Processes().Start(t.Context(), guest.Cmd{Args: []string{"cat"}}, guest.StartOptions{KeepStdin: true})
	check(t, err)
	var refused guest.Exit
	refused, err = nobody.Run(t.Context(), guest.Cmd{Args: []string{"sh", "-c", "echo ../../../../../home/secret 1<>/var/lib/agentlab/" + p.ID + "/nf"}}, guest.Streams{})
	check(t, err)
	if refused.Code == 0 {
		t.Error("anybody may say which input a process gets")
	}
	_, err = nobody.Processes().Control(t.Context(), p.ID, guest.Input{Stdin: []byte("input\n"), CloseStdin: true})
	check(t, err)
	_, out, err := nobody.Processes().Read(t.Context(), p.ID, guest.ReadRequest{Wait: time.Minute, Until: "never", Max: 100})
	check(t, err)
	if string(out.Both) != "input\n" {
		t.Errorf("output %q", out.Both)
	}
}

// Commands begin with no signal ignored, whatever the agent was started with.
func TestIgnoredSignals(t *testing.T) {
	signal.Ignore(syscall.SIGINT, syscall.SIGPIPE)
	m := boot(t, &pvetest.Server{}) // inherits it
	// Reset does not take that back of what Go itself handles, and the guests of all
	// later tests would inherit it: what is notified is not ignored.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGPIPE)
	c := m.conn(t, "")
	for name, number := range map[string]int{"INT": 2, "PIPE": 13, "TERM": 15} {
		exit, err := c.Run(t.Context(), guest.Cmd{Args: []string{"sh", "-c", "kill -" + name + " $$"}}, guest.Streams{})
		check(t, err)
		if want := (guest.Exit{Code: 128 + number, Signal: name}); exit != want {
			t.Errorf("%s: exit %+v", name, exit)
		}
	}
}

// Files that commands make are as open as the guest's user would have them.
func TestUmask(t *testing.T) {
	m := boot(t, &pvetest.Server{})
	if got := m.sh(t, m.conn(t, ""), "umask"); got != "0022\n" {
		t.Errorf("umask %q", got)
	}
}
