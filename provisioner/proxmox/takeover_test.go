package proxmox

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/provisionertest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// uses are all that can be asked of a channel.
func uses(ctx context.Context) map[string]func(guest.Conn) error {
	cmd := guest.Cmd{Args: []string{"touch", "/home/touched"}}
	large := bytes.Repeat([]byte("large "), 50_000)
	write := func(data []byte) func(guest.Conn) error {
		return func(c guest.Conn) error {
			_, err := c.WriteFile(ctx, "/home/written", bytes.NewReader(data), guest.WriteOptions{})
			return err
		}
	}
	return map[string]func(guest.Conn) error{
		"run": func(c guest.Conn) error { _, err := c.Run(ctx, cmd, guest.Streams{}); return err },
		"run_with_input": func(c guest.Conn) error {
			_, err := c.Run(ctx, cmd, guest.Streams{Stdin: bytes.NewReader(large)})
			return err
		},
		"terminal": func(c guest.Conn) error {
			_, err := c.Run(ctx, cmd, guest.Streams{TTY: &guest.TTY{Cols: 80, Rows: 24}})
			return err
		},
		"start": func(c guest.Conn) error {
			_, _, err := c.Processes().Start(ctx, cmd, guest.StartOptions{Wait: time.Minute})
			return err
		},
		"start_with_input": func(c guest.Conn) error {
			_, _, err := c.Processes().Start(ctx, cmd, guest.StartOptions{Stdin: large})
			return err
		},
		"process_read": func(c guest.Conn) error {
			_, _, err := c.Processes().Read(ctx, "p_1", guest.ReadRequest{Max: 100})
			return err
		},
		"process_control": func(c guest.Conn) error {
			_, err := c.Processes().Control(ctx, "p_1", guest.Input{Stdin: large})
			return err
		},
		"process_kill": func(c guest.Conn) error {
			_, err := c.Processes().Control(ctx, "p_1", guest.Input{Signal: "KILL"})
			return err
		},
		"process_list": func(c guest.Conn) error { _, err := c.Processes().List(ctx); return err },
		"write":        write([]byte("little")),
		"write_large":  write(large),
		"read":         func(c guest.Conn) error { _, _, err := c.ReadFile(ctx, "/home/theirs", 0, -1); return err },
		"list":         func(c guest.Conn) error { _, err := c.ListFiles(ctx, "/home", guest.ListOptions{}); return err },
	}
}

// A channel that is open when its machine is destroyed and the VMID taken by
// another does nothing in the other's guest, though that has a spool as ours had
// and a process of the same name.
func TestVMIDIsTakenUnderAnOpenChannel(t *testing.T) {
	l := newSSHLab(t)
	p := l.provisioner(channelAgent)
	p.User = nil // whoever we are, the agent's own user may run commands
	m := made(t, p, 1)
	if _, err := says(t, dialled(t, p, m), "true"); err != nil {
		t.Fatal(err)
	}
	vm, err := p.find(t.Context(), m.Ref)
	if err != nil {
		t.Fatal(err)
	}
	long := time.Time{} // since the machine was looked at
	conns := map[string]guest.Conn{}
	for name := range uses(t.Context()) {
		if conns[name], err = p.enterByAgent(vm, m.Ref, long); err != nil {
			t.Fatal(err)
		}
		if err := uses(t.Context())["write_large"](conns[name]); err != nil { // it knows how to upload
			t.Fatal(err)
		}
	}
	guestDir := l.lose(p, vm.vm)
	theirs := l.takeOver(vm.vm.ID)
	before := tree(t, guestDir)
	for name, use := range uses(t.Context()) {
		l.onCall(nil)
		for range 2 {
			if err := use(conns[name]); !errors.Is(err, provisioner.ErrNotOurs) || errors.Is(err, guest.ErrUnreachable) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := l.counted()["POST exec"]; n > 2 { // what runs a command and what gives it input ask at once
			t.Errorf("%s: the guest was asked %d times whose it is", name, n)
		}
	}
	if diff := cmp.Diff(before, tree(t, guestDir)); diff != "" {
		t.Errorf("left in another's guest (-before +after):\n%s", diff)
	}
	if list, err := theirs.Processes().List(t.Context()); err != nil || len(list) != 1 || !list[0].Running {
		t.Errorf("its processes: %+v, %v", list, err)
	}
}

// lose destroys a machine behind the provisioner's back, and returns the
// directory of guests with its VMID.
func (l *sshLab) lose(p *Provisioner, vm pve.VM) (dir string) {
	l.t.Helper()
	if err := p.stop(l.t.Context(), vm); err != nil {
		l.t.Fatal(err)
	}
	task, err := p.Client.Delete(l.t.Context(), vm)
	if err := p.await(l.t.Context(), task, err); err != nil {
		l.t.Fatal(err)
	}
	dir = filepath.Join(l.dir, strconv.Itoa(vm.ID))
	if err := os.RemoveAll(dir); err != nil {
		l.t.Fatal(err)
	}
	return dir
}

// takeOver has another installation make a machine with that VMID, and use it.
func (l *sshLab) takeOver(vmid int) guest.Conn {
	l.t.Helper()
	other := l.provisioner(channelAgent)
	other.Instance, other.Key, other.VMIDs, other.User = "inst-2", provisionertest.Key(l.t, 2), Range{vmid, vmid}, nil
	spec := testSpec(2)
	spec.Papers.Instance = other.Instance
	m, err := other.Create(l.t.Context(), spec)
	if err != nil {
		l.t.Fatal(err)
	}
	conn := dialled(l.t, other, m)
	if _, err := conn.WriteFile(l.t.Context(), "/home/theirs", strings.NewReader("theirs"), guest.WriteOptions{}); err != nil {
		l.t.Fatal(err)
	}
	sleep := guest.Cmd{Args: []string{"sleep", "3600"}}
	if p, _, err := conn.Processes().Start(l.t.Context(), sleep, guest.StartOptions{KeepStdin: true}); err != nil || p.ID != "p_1" {
		l.t.Fatalf("process %+v, %v", p, err)
	}
	if _, err := conn.Processes().List(l.t.Context()); err != nil { // it removes what was left before
		l.t.Fatal(err)
	}
	return conn
}

// tree lists what is below a directory, with the size of files.
func tree(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().IsRegular() {
			all[path] = info.Size()
		} else {
			all[path] = -1
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Where Proxmox itself keeps us out, the machine being another's, that is said,
// and not that it can't be reached.
func TestVMIDIsTakenOutOfReach(t *testing.T) {
	l := newSSHLab(t)
	p := l.provisioner(channelAgent)
	p.User = nil
	m := made(t, p, 1)
	conn := dialled(t, p, m)
	vm, err := p.find(t.Context(), m.Ref)
	if err != nil {
		t.Fatal(err)
	}
	l.lose(p, vm.vm)
	if _, err := says(t, conn, "true"); !errors.Is(err, provisioner.ErrNotFound) {
		t.Errorf("a machine that is gone: %v", err)
	}
	l.srv.Edit(func(c *pvetest.Cluster) { c.AddVM("pve", vm.vm.ID, "foreign") })
	if _, err := says(t, conn, "true"); !errors.Is(err, provisioner.ErrNotFound) {
		t.Errorf("a machine that is another's: %v", err)
	}
}
