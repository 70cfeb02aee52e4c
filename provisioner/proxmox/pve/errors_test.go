package pve_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

var update = flag.Bool("update", false, "rewrite golden files")

// The messages that the provisioner acts on.
func TestErrorsAsRecorded(t *testing.T) {
	const noVM = "Configuration file 'nodes/pve/qemu-server/4711.conf' does not exist"
	tests := []struct {
		name    string
		status  int
		message string
		want    pve.Error
	}{
		{"no-vm", 500, noVM, pve.Error{Kind: pve.NotFound, Subject: pve.Subject{Type: "vm", Name: "4711"}}},
		{"no-source", 500, "unable to find configuration file for VM 4711 on node 'pve'", pve.Error{Kind: pve.NotFound, Subject: pve.Subject{Type: "vm", Name: "4711"}}},
		{"no-snippet", 500, "volume 'local:snippets/nosuch.yaml' does not exist", pve.Error{Kind: pve.NotFound, Subject: pve.Subject{Type: "volume", Name: "local:snippets/nosuch.yaml"}}},
		{"no-storage", 500, "storage 'nosuch' does not exist", pve.Error{Kind: pve.NotFound, Subject: pve.Subject{Type: "storage", Name: "nosuch"}}},
		{"no-pool", 403, "Permission check failed (pool 'nosuch' does not exist)", pve.Error{Kind: pve.NotFound, Subject: pve.Subject{Type: "pool", Name: "nosuch"}}},
		{"no-pid", 500, "Agent error: Invalid parameter 'pid'", pve.Error{Kind: pve.NotFound, Subject: pve.Subject{Type: "process"}}},
		{"no-file", 500, "Agent error: failed to open file '/no/such' (mode: 'r'): No such file or directory", pve.Error{Kind: pve.NotFound, Subject: pve.Subject{Type: "file", Name: "/no/such"}}},
		{"vm-exists", 500, "unable to create VM 110: config file already exists", pve.Error{Kind: pve.Exists, Subject: pve.Subject{Type: "vm", Name: "110"}}},
		{"vm-exists-create", 500, "unable to create VM 9050 - VM 9050 already exists on node 'pve'", pve.Error{Kind: pve.Exists, Subject: pve.Subject{Type: "vm", Name: "9050"}}},
		{"vm-exists-elsewhere", 500, "close (rename) atomic file '/etc/pve/nodes/pve/qemu-server/130.conf' failed: File exists", pve.Error{Kind: pve.Exists, Subject: pve.Subject{Type: "vm", Name: "130"}}},
		{"container-exists", 500, "CT 130 already exists on node 'pve2'", pve.Error{Kind: pve.Exists, Subject: pve.Subject{Type: "vm", Name: "130"}}},
		{"locked", 500, "VM is locked (backup)", pve.Error{Kind: pve.Locked, Subject: pve.Subject{Type: "lock", Name: "backup"}}},
		{"lock-timeout", 500, "can't lock file '/var/lock/qemu-server/lock-120.conf' - got timeout", pve.Error{Kind: pve.LockTimeout, Subject: pve.Subject{Type: "vm", Name: "120"}}},
		{"modified", 500, "checksum mismatch (file change by other user?)", pve.Error{Kind: pve.Modified}},
		{"agent-none", 500, "No QEMU guest agent configured", pve.Error{Kind: pve.AgentNotConfigured}},
		{"agent-off", 500, "QEMU guest agent is not running", pve.Error{Kind: pve.AgentNotRunning}},
		{"agent-timeout", 500, "VM 101 qmp command 'guest-exec' failed - got timeout", pve.Error{Kind: pve.AgentTimeout}},
		{"agent-timeout-9", 500, "VM 300 qga command 'guest-exec' failed - got timeout", pve.Error{Kind: pve.AgentTimeout}},
		{"stopped", 500, "VM 110 is not running", pve.Error{Kind: pve.NotRunning, Subject: pve.Subject{Type: "vm", Name: "110"}}},
		{"running", 500, "VM 160 is running - destroy failed", pve.Error{Kind: pve.Running, Subject: pve.Subject{Type: "vm", Name: "160"}}},
		{"permission", 403, "Permission check failed (/vms/150, VM.Audit)", pve.Error{Kind: pve.Permission, Path: "/vms/150", Privilege: "VM.Audit"}},
		{"permission-any", 403, "Permission check failed (/vms/300, VM.GuestAgent.Audit|VM.GuestAgent.Unrestricted)", pve.Error{Kind: pve.Permission, Path: "/vms/300", Privilege: "VM.GuestAgent.Audit|VM.GuestAgent.Unrestricted"}},
		{"permission-tag", 403, "Permission check failed (/, Sys.Modify for modifying tag 'x')", pve.Error{Kind: pve.Permission, Subject: pve.Subject{Type: "tag", Name: "x"}, Path: "/", Privilege: "Sys.Modify"}},
		{"permission-unnamed", 403, "Permission check failed", pve.Error{Kind: pve.Permission}},
		{"unauthorized", 401, "Authentication failed!", pve.Error{Kind: pve.Unauthorized}},
		{"quorum", 500, "cluster not ready - no quorum?", pve.Error{Kind: pve.NoQuorum}},
		{"quorum-of-a-lock", 500, "cfs-lock 'file-user_cfg' error: no quorum!", pve.Error{Kind: pve.NoQuorum}},
		{"quorum-of-a-write", 500, "unable to open file '/etc/pve/nodes/pve/qemu-server/110.conf.tmp.1234' - Permission denied", pve.Error{Kind: pve.NoQuorum}},
		{"cluster-lock", 500, "cfs-lock 'file-user_cfg' error: got lock request timeout", pve.Error{Kind: pve.LockTimeout}},
		{"cluster-lock-before-9", 500, "error with cfs lock 'file-user_cfg': got lock request timeout", pve.Error{Kind: pve.LockTimeout}},
		{"lock-wait", 500, "got lock request timeout", pve.Error{Kind: pve.LockTimeout}},
		{"lock-timeout-elsewhere", 500, "can't lock file '/run/lock/qemu-server/lock-120.conf' - got timeout", pve.Error{Kind: pve.LockTimeout, Subject: pve.Subject{Type: "vm", Name: "120"}}},
		{"no-cluster-files", 500, "ipcc_send_rec[1] failed: Connection refused", pve.Error{Kind: pve.NodeUnreachable}},
		{"no-access-list", 500, "Unable to load access control list: Connection refused", pve.Error{Kind: pve.NodeUnreachable}},
		{"storage-offline", 500, "storage 'nfs1' is not online", pve.Error{Kind: pve.StorageAway, Subject: pve.Subject{Type: "storage", Name: "nfs1"}}},
		{"storage-unconnected", 500, "connection check for storage 'nfs1' failed - rpcinfo: timeout", pve.Error{Kind: pve.StorageAway, Subject: pve.Subject{Type: "storage", Name: "nfs1"}}},
		{"storage-unmounted", 500, "unable to activate storage 'data' - directory is expected to be a mount point but is not mounted: '/mnt/data'", pve.Error{Kind: pve.StorageAway, Subject: pve.Subject{Type: "storage", Name: "data"}}},
		{"storage-elsewhere", 500, "storage 'nfs1' is not available on node 'pve2'", pve.Error{Kind: pve.StorageAway, Subject: pve.Subject{Type: "storage", Name: "nfs1"}}},
		{"storage-off", 500, "storage 'nfs1' is disabled", pve.Error{Kind: pve.StorageAway, Subject: pve.Subject{Type: "storage", Name: "nfs1"}}},
		{"storage-mount", 500, "mount error: Job failed. See \"journalctl -xe\" for details.", pve.Error{Kind: pve.StorageAway}},
		{"node-lookup", 500, "hostname lookup 'nosuch' failed - failed to get address info for: nosuch: Temporary failure in name resolution", pve.Error{Kind: pve.NodeUnreachable, Subject: pve.Subject{Type: "node", Name: "nosuch"}}},
		{"node-down", 595, "No route to host", pve.Error{Kind: pve.NodeUnreachable}},
		{"worker-died", 596, "Broken pipe", pve.Error{Kind: pve.Interrupted}},
		{"worker-slow", 596, "Connection timed out", pve.Error{Kind: pve.Interrupted}},
		{"not-implemented", 501, "Method 'GET /nosuch' not implemented", pve.Error{Kind: pve.NotImplemented}},
		{"too-large", 501, "for data too large", pve.Error{Kind: pve.TooLarge}},
		{"full", 500, "lvcreate 'pve/vm-1' error: insufficient free space", pve.Error{Kind: pve.NoSpace}},
		{"agent-says-locked", 500, "Agent error: VM is locked (backup)", pve.Error{Kind: pve.AgentError}},
		{"else", 500, "something new", pve.Error{Kind: pve.Failed}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.Status, tt.want.Message, tt.want.Call = tt.status, tt.message, "POST /nodes/pve/qemu/1/template"
			body := fmt.Sprintf(`{"data":null,"message":%q}`, tt.message+"\n")
			for release, x := range map[string]exchange{
				"8.4": {Status: tt.status, Reason: "anything", Body: body},
				"8.3": {Status: tt.status, Reason: tt.message, Body: `{"data":null}`},
			} {
				c, _ := server(t, func(w http.ResponseWriter, _ *http.Request) { x.write(w) })
				_, err := c.ConvertToTemplate(t.Context(), vm(1))
				var got *pve.Error
				if !errors.As(err, &got) || !errors.Is(err, tt.want.Kind) {
					t.Fatalf("%s: error %v is no %v", release, err, tt.want.Kind)
				}
				if diff := cmp.Diff(describe(&tt.want), describe(got)); diff != "" {
					t.Errorf("%s: error (-want +got):\n%s", release, diff)
				}
			}
		})
	}
}

func describe(e *pve.Error) string {
	return fmt.Sprintf("%d %s | %s %s | %s %s | %s", e.Status, e.Kind, e.Subject.Type, e.Subject.Name, e.Path, e.Privilege, e)
}

// Every distinct failure on record is classified; the golden file is the list
// to read when a rule is changed.
func TestEveryRecordedError(t *testing.T) {
	var all struct {
		HTTP  []exchange
		Task  []string
		Pvesh []string
	}
	load(t, "errors.json", &all)
	var got bytes.Buffer
	add := func(source string, err error) {
		var e *pve.Error
		if !errors.As(err, &e) {
			fmt.Fprintf(&got, "%s: %v\n", source, err)
			return
		}
		text := strings.NewReplacer("\n", `\n`, "POST /nodes/pve/qemu/1/template: ", "").Replace(describe(e))
		fmt.Fprintf(&got, "%s: %s\n", source, text)
	}
	for _, x := range all.HTTP {
		c, _ := server(t, func(w http.ResponseWriter, _ *http.Request) { x.write(w) })
		_, err := c.ConvertToTemplate(t.Context(), vm(1))
		add("http", err)
	}
	for _, exit := range all.Task {
		add("task", pve.Task{UPID: "UPID:pve:1:1:1:qmstart:1:root@pam:", Status: "stopped", Exit: exit}.Err())
	}
	for _, stderr := range all.Pvesh {
		c := &pve.Client{Transport: pve.NewPvesh(answer{Stderr: []byte(stderr), Exit: 29})}
		_, err := c.ConvertToTemplate(t.Context(), vm(1))
		add("pvesh", err)
	}
	const file = "testdata/errors.golden"
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
}

// answer is a Shell whose every script ends so.
type answer pve.Output

func (a answer) Run(context.Context, string) (pve.Output, error) { return pve.Output(a), nil }

func TestGoneIsAboutTheMachineItself(t *testing.T) {
	fail := func(message string) error {
		return pve.Task{UPID: "UPID:pve:1:1:1:qmstart:100:root@pam:", Status: "stopped", Exit: message}.Err()
	}
	tests := []struct {
		message string
		gone    bool
	}{
		{"Configuration file 'nodes/pve/qemu-server/100.conf' does not exist", true},
		{"Configuration file 'nodes/pve/qemu-server/1000.conf' does not exist", false},
		{"volume 'local:100/vm-100-disk-0.qcow2' does not exist", false},
		{"storage '100' does not exist", false},
		{"Permission check failed (/vms/100, VM.Audit)", false},
	}
	for _, tt := range tests {
		if got := pve.Gone(fmt.Errorf("start: %w", fail(tt.message)), vm(100)); got != tt.gone {
			t.Errorf("Gone(%s) = %v", tt.message, got)
		}
	}
	if !pve.Taken(fail("unable to create VM 130: config file already exists"), 130) {
		t.Error("a used VMID is not recognised")
	}
}

// What a task's log says counts more than its last words, if it is known.
func TestExplain(t *testing.T) {
	failed := pve.Task{UPID: "UPID:pve:1:1:1:qmstart:100:root@pam:", Status: "stopped", Exit: "start failed: QEMU exited with code 1"}.Err()
	for line, want := range map[string]pve.Kind{
		"bridge 'vmbr7' does not exist": pve.NotFound,
		"qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory": pve.NoSpace,
		"something else": pve.Failed,
	} {
		err := pve.Explain(failed, []string{"generating cloud-init ISO", line})
		if !errors.Is(err, want) || err.Error() != failed.Error()+": generating cloud-init ISO; "+line {
			t.Errorf("%s: %v is no %v", line, err, want)
		}
	}
	if err := pve.Explain(failed, nil); err != failed { //nolint:errorlint // the very same
		t.Errorf("without a log: %v", err)
	}
}

func TestWarningsAreSuccess(t *testing.T) {
	for exit, ok := range map[string]bool{"OK": true, "WARNINGS: 3": true, "WARNINGS: x": false, "": false, "unexpected status": false, "OK but": false} {
		err := pve.Task{Status: "stopped", Exit: exit}.Err()
		if (err == nil) != ok {
			t.Errorf("exit status %q: %v", exit, err)
		}
	}
	if err := (pve.Task{Status: "running"}).Err(); err != nil {
		t.Errorf("a running task: %v", err)
	}
}
