//go:build vm

package proxmox

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/guesttest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/sshboot"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest/qemuguest"
)

// vmPatience bounds a boot of an emulated machine, on a busy host.
const vmPatience = 8 * time.Minute

// vm is a machine that QEMU boots, on a lab of its own.
type vm struct {
	*lab
	guests *qemuguest.Guests
	dir    string // of the guests' files
	m      provisioner.Machine
	tests  atomic.Int64
}

// newVM creates a machine as AgentLab does.
func newVM(t *testing.T) *vm {
	t.Helper()
	image, err := qemuguest.Cached(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v := &vm{dir: t.TempDir()}
	v.guests = &qemuguest.Guests{Image: image, Dir: v.dir}
	v.lab = newLab(t, &pvetest.Server{NewGuest: v.guests.New, Destroyed: v.guests.Destroyed, Patience: 20 * time.Second})
	spec := testSpec(1)
	spec.Network, spec.MemoryMB, spec.DiskMB = "internet", 768, 0
	began := time.Now()
	p := v.by(channelAgent)
	if v.m, err = p.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	v.dial(t, p)
	t.Logf("up %.1f s after Create", time.Since(began).Seconds())
	return v
}

// by returns a provisioner, as a new process would have it, that reaches guests
// through a channel.
func (v *vm) by(channel string) *Provisioner {
	p := v.provisioner()
	p.Channel = func(string) string { return channel }
	p.DialSSH = v.guests.Dial
	var err error
	if p.Guest, err = guestProgram(); err != nil {
		v.t.Fatal(err)
	}
	return p
}

// dial opens the channel and runs a command.
func (v *vm) dial(t *testing.T, p *Provisioner) guest.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), vmPatience)
	defer cancel()
	conn, err := p.Dial(ctx, v.m.Ref)
	if err != nil {
		t.Fatalf("%v\n%s", err, v.console())
	}
	t.Cleanup(func() { _ = conn.Close() })
	if out, err := says(t, conn, "id -un; hostname"); err != nil || out != "root\nbox-1\n" {
		t.Fatalf("the guest says %q, %v", out, err)
	}
	return conn
}

// console is what the guest's kernel and systemd said last.
func (v *vm) console() string {
	files, _ := os.ReadDir(v.dir)
	var all []byte
	for _, f := range files {
		text, _ := os.ReadFile(v.dir + "/" + f.Name() + "/console")
		all = append(all, text[max(0, len(text)-4096):]...)
	}
	return string(all)
}

// said runs a script that must succeed.
func said(t *testing.T, conn guest.Conn, script string) string {
	t.Helper()
	out, err := says(t, conn, script)
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return out
}

// TestMachine is one machine, from its creation to its end: a boot takes half a
// minute.
func TestMachine(t *testing.T) {
	v := newVM(t)
	t.Run("system", v.system)
	t.Run("agent", func(t *testing.T) { v.contract(t, v.by(channelAgent)) })
	t.Run("agent-restarts", v.agentRestarts)
	t.Run("ssh", func(t *testing.T) {
		p := v.by(channelSSH)
		if conn, ok := v.dial(t, p).(*sshboot.Conn); !ok {
			t.Fatalf("the channel is a %T", conn)
		}
		v.contract(t, p)
	})
	t.Run("reboot", v.reboot)
	t.Run("poweroff", v.poweroff)
	t.Run("destroy", v.destroy)
}

// system: it is a Debian, booted by systemd, that cloud-init has set up.
func (v *vm) system(t *testing.T) {
	conn := v.dial(t, v.by(channelAgent))
	out := said(t, conn, `. /etc/os-release; echo $ID $VERSION_ID; readlink /proc/1/exe
		grep -c 'DataSourceNoCloud .seed=.*/dev/vdb' /var/lib/cloud/instance/datasource; systemctl --failed --quiet`)
	if out != "debian 12\n/usr/lib/systemd/systemd\n1\n" {
		t.Errorf("it says %q", out)
	}
	t.Log(said(t, conn, "systemd-analyze || true; systemd-analyze blame | head -n 5"))
}

// contract holds a channel to the contract of package guest.
func (v *vm) contract(t *testing.T, p *Provisioner) {
	conn := v.dial(t, p)
	guesttest.Run(t, func(t *testing.T) guesttest.Harness {
		dir := fmt.Sprintf("/root/t%d", v.tests.Add(1))
		said(t, conn, "mkdir -p "+dir+"/dir "+dir+"/full && mount -t tmpfs -o size=64k tmpfs "+dir+"/full")
		return guesttest.Harness{Conn: conn, Dir: dir + "/dir", Full: dir + "/full", Big: 8 << 20}
	})
}

// agentRestarts: systemd kills what is in the agent's cgroup when it restarts
// the agent, and what was started by it goes on all the same.
func (v *vm) agentRestarts(t *testing.T) {
	conn := v.dial(t, v.by(channelAgent))
	p, _, err := conn.Processes().Start(t.Context(), guest.Cmd{
		Args: []string{"sh", "-c", "echo begun; until [ -e /root/go ]; do sleep 0.1; done; echo ended; exit 7"}, Dir: "/",
	}, guest.StartOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before := strings.TrimSpace(said(t, conn, "systemctl show -P MainPID qemu-guest-agent"))
	said(t, conn, "systemctl restart --no-block qemu-guest-agent")
	until(t, func() bool {
		out, err := says(t, conn, "systemctl show -P MainPID qemu-guest-agent")
		return err == nil && strings.TrimSpace(out) != before && strings.TrimSpace(out) != "0"
	})
	said(t, conn, "touch /root/go")
	ctx, cancel := context.WithTimeout(t.Context(), vmPatience)
	defer cancel()
	p, out, err := conn.Processes().Read(ctx, p.ID, guest.ReadRequest{Wait: vmPatience, Until: "ended", Max: 100})
	if err != nil || string(out.Both) != "begun\nended\n" {
		t.Errorf("it goes on with %+v, %q, %v", p, out.Both, err)
	}
}

// reboot: one that the guest does by itself is the same machine, whose disk
// keeps what was written.
func (v *vm) reboot(t *testing.T) {
	p := v.by(channelAgent)
	conn := v.dial(t, p)
	before := said(t, conn, "echo kept >/root/kept; sync; cat /proc/sys/kernel/random/boot_id")
	began := time.Now()
	_, _ = says(t, conn, "systemctl reboot") // it may not live to say that it did
	until(t, func() bool {
		now, err := says(t, conn, "cat /proc/sys/kernel/random/boot_id")
		return err == nil && now != before
	})
	t.Logf("up %.1f s after the reboot", time.Since(began).Seconds())
	if out := said(t, v.dial(t, p), "cat /root/kept"); out != "kept\n" {
		t.Errorf("the disk holds %q", out)
	}
	v.isRunning(t, true)
}

// poweroff: it is seen that a guest has ended.
func (v *vm) poweroff(t *testing.T) {
	conn := v.dial(t, v.by(channelAgent))
	_, _ = says(t, conn, "systemctl poweroff")
	until(t, func() bool {
		list, err := v.provisioner().List(t.Context())
		return err == nil && len(list) == 1 && !list[0].Running
	})
	v.isRunning(t, false)
}

func (v *vm) isRunning(t *testing.T, want bool) {
	t.Helper()
	v.srv.Edit(func(c *pvetest.Cluster) {
		for id, vm := range c.VMs {
			if testRange.has(id) && vm.Running != want {
				t.Errorf("VM %d is running: %v, want %v", id, vm.Running, want)
			}
		}
	})
}

// destroy leaves nothing, also of a machine that runs.
func (v *vm) destroy(t *testing.T) {
	p := v.provisioner()
	running, err := p.Create(t.Context(), testSpec(2))
	if err != nil {
		t.Fatal(err)
	}
	if all := qemus(t, v.dir); len(all) != 1 {
		t.Errorf("running before: %q, want one", all)
	}
	for _, m := range []provisioner.Machine{v.m, running} {
		if err := p.Destroy(t.Context(), m.Ref); err != nil {
			t.Error(err)
		}
	}
	if left := v.leftovers(); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
	if files, err := os.ReadDir(v.dir); err != nil || len(files) > 0 {
		t.Errorf("files are left: %v, %v", files, err)
	}
	if left := qemus(t, v.dir); len(left) > 0 {
		t.Errorf("processes are left: %q", left)
	}
}

// qemus names the processes whose command lines have text.
func qemus(t *testing.T, text string) (all []string) {
	t.Helper()
	procs, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		line, err := os.ReadFile("/proc/" + p.Name() + "/cmdline")
		if err == nil && strings.Contains(string(line), text) {
			all = append(all, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return all
}

// until waits for what must come.
func until(t *testing.T, is func() bool) {
	t.Helper()
	for end := time.Now().Add(vmPatience); !is(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it has not come about")
		}
	}
}
