package pvetest

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// task makes a POST, waits for its task and returns how it ended.
func (cl *client) task(path string, form url.Values) string {
	cl.t.Helper()
	status, reason, data := cl.call("POST", path, form)
	if status != http.StatusOK {
		cl.t.Fatalf("POST %s: %d %s", path, status, reason)
	}
	upid := data.(string)
	var exit string
	eventually(cl.t, cl.srv, "the task has ended", func(c *Cluster) bool { exit, _ = c.Task(upid); return exit != "" })
	return exit
}

func TestRawDisksHaveNoSnapshots(t *testing.T) {
	t.Parallel()
	cl := newClient(t, &Server{}, func(c *Cluster) { c.AddVM("pve", 100, "a") })
	cl.call("PUT", "/nodes/pve/qemu/100/config", url.Values{"scsi1": {"local:1"}})
	if exit := cl.task("/nodes/pve/qemu/100/snapshot", url.Values{"snapname": {"s1"}}); exit != "snapshot feature is not available" {
		t.Errorf("with a raw disk: %s", exit)
	}
	cl.call("PUT", "/nodes/pve/qemu/100/config", url.Values{"delete": {"scsi1"}})
	if exit := cl.task("/nodes/pve/qemu/100/snapshot", url.Values{"snapname": {"s1"}}); exit != "OK" {
		t.Errorf("without: %s", exit)
	}
}

// TestStoragesOfOtherNodes asks a node for what only another has.
func TestStoragesOfOtherNodes(t *testing.T) {
	t.Parallel()
	cl := newClient(t, &Server{}, func(c *Cluster) {
		c.AddVM("pve", 100, "a")
		c.AddNode("other")
		c.Storages = append(c.Storages, &Storage{ID: "far", Content: "images", Nodes: []string{"other"}}, &Storage{ID: "isos", Content: "iso"})
	})
	const away = "storage 'far' is not available on node 'pve'"
	for _, tt := range []struct {
		name, method, path string
		form               url.Values
		want               string
	}{
		{"clone", "POST", "/nodes/pve/qemu/100/clone", url.Values{"newid": {"101"}, "storage": {"far"}}, away},
		{"new disk", "PUT", "/nodes/pve/qemu/100/config", url.Values{"scsi1": {"far:1"}}, away},
		{"move", "POST", "/nodes/pve/qemu/100/move_disk", url.Values{"disk": {"scsi0"}, "storage": {"far"}}, away},
		{"no images", "PUT", "/nodes/pve/qemu/100/config", url.Values{"scsi1": {"isos:1"}}, "Parameter verification failed."},
	} {
		if _, reason, _ := cl.call(tt.method, tt.path, tt.form); reason != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, reason, tt.want)
		}
	}
	if _, ok := cl.config("100")["scsi1"]; ok {
		t.Error("a disk that was refused is there")
	}
}

// config of a VM.
func (cl *client) config(id string) map[string]any {
	cl.t.Helper()
	_, _, data := cl.call("GET", "/nodes/pve/qemu/"+id+"/config", nil)
	conf, ok := data.(map[string]any)
	if !ok {
		cl.t.Fatalf("no configuration of %s", id)
	}
	return conf
}

// TestFailedDiskChangeLosesNothing puts what can't be made into a slot that is
// in use.
func TestFailedDiskChangeLosesNothing(t *testing.T) {
	t.Parallel()
	cl := newClient(t, &Server{}, func(c *Cluster) { c.AddVM("pve", 100, "a"); c.Storages[0].Full = true })
	before := cl.config("100")["scsi0"]
	if status, reason, _ := cl.call("PUT", "/nodes/pve/qemu/100/config", url.Values{"scsi0": {"local:1"}}); status != 500 {
		t.Errorf("%d %s", status, reason)
	}
	if after := cl.config("100"); after["scsi0"] != before || after["unused0"] != nil {
		t.Errorf("scsi0 is %v and unused0 %v, was %v", after["scsi0"], after["unused0"], before)
	}
}

func TestFullCloneKeepsTheFormat(t *testing.T) {
	t.Parallel()
	cl := newClient(t, &Server{}, func(c *Cluster) { c.AddVM("pve", 100, "a") })
	cl.call("PUT", "/nodes/pve/qemu/100/config", url.Values{"scsi1": {"local:1"}})
	if exit := cl.task("/nodes/pve/qemu/100/clone", url.Values{"newid": {"101"}}); exit != "OK" {
		t.Fatal(exit)
	}
	for key, format := range map[string]string{"scsi0": ".qcow2,", "scsi1": ".raw,"} {
		if v := cl.config("101")[key].(string); !strings.Contains(v, format) {
			t.Errorf("%s is %s", key, v)
		}
	}
}

// TestAnswersThatWaitForTheTask gives calls a delay.
func TestAnswersThatWaitForTheTask(t *testing.T) {
	t.Parallel()
	srv := &Server{Patience: time.Millisecond, TaskTime: map[string]time.Duration{}}
	cl := newClient(t, srv, func(c *Cluster) { c.AddVM("pve", 100, "a") })
	config := func(form url.Values) (string, any) {
		form.Set("background_delay", "1")
		_, reason, data := cl.call("POST", "/nodes/pve/qemu/100/config", form)
		return reason, data
	}
	srv.Edit(func(*Cluster) { srv.TaskTime["qmconfig"] = -1 })
	if reason, data := config(url.Values{"cores": {"2"}}); data == nil {
		t.Errorf("of a task that goes on: %s, no UPID", reason)
	} else if status, reason, _ := cl.call("DELETE", "/nodes/pve/tasks/"+data.(string), nil); status != 200 {
		t.Fatal(reason)
	}
	srv.Edit(func(c *Cluster) {
		srv.Patience, srv.TaskTime["qmconfig"] = time.Minute, 0
		c.Storages[0].Full = true
	})
	if reason, data := config(url.Values{"cores": {"3"}}); reason != "OK" || data != nil {
		t.Errorf("of a task that is done: %s, %v", reason, data)
	}
	if reason, _ := config(url.Values{"scsi1": {"local:1"}}); !strings.Contains(reason, "No space left on device") {
		t.Errorf("of a task that failed: %s", reason)
	}
}

// TestIOThreadsWarn starts a VM with an option that is ignored.
func TestIOThreadsWarn(t *testing.T) {
	t.Parallel()
	cl := newClient(t, &Server{}, func(c *Cluster) { c.AddVM("pve", 100, "a").Config["scsi0"] += ",iothread=1" })
	if exit := cl.task("/nodes/pve/qemu/100/status/start", nil); exit != "WARNINGS: 1" {
		t.Error(exit)
	}
}

// TestVolumesInUse removes what is still needed.
func TestVolumesInUse(t *testing.T) {
	t.Parallel()
	cl := newClient(t, &Server{}, func(c *Cluster) { c.AddVM("pve", 100, "a") })
	if exit := cl.task("/nodes/pve/qemu/100/snapshot", url.Values{"snapname": {"s1"}}); exit != "OK" {
		t.Fatal(exit)
	}
	cl.call("PUT", "/nodes/pve/qemu/100/config", url.Values{"delete": {"scsi0"}})
	if _, reason, _ := cl.call("PUT", "/nodes/pve/qemu/100/config", url.Values{"delete": {"unused0"}}); !strings.Contains(reason, "still in use") {
		t.Errorf("a volume that a snapshot needs: %s", reason)
	}
	cl.call("PUT", "/nodes/pve/qemu/100/config", url.Values{"protection": {"1"}})
	if _, reason, _ := cl.call("PUT", "/nodes/pve/qemu/100/config", url.Values{"delete": {"unused0"}}); !strings.Contains(reason, "protection mode enabled") {
		t.Errorf("of a protected VM: %s", reason)
	}
}
