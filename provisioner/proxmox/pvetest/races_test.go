package pvetest

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// client calls a server as a token.
type client struct {
	t     *testing.T
	srv   *Server
	url   string
	token string
	http  *http.Client
}

func newClient(t *testing.T, srv *Server, prepare func(c *Cluster)) *client {
	t.Helper()
	t.Cleanup(srv.Close)
	cl := &client{t: t, srv: srv}
	srv.Edit(func(c *Cluster) {
		cl.token = "root@pam!test=" + c.AddToken("root@pam!test", false)
		prepare(c)
	})
	cl.url = srv.Listen("pve")
	cl.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // our own server
	t.Cleanup(cl.http.CloseIdleConnections)
	return cl
}

// call returns status, reason and data.
func (cl *client) call(method, path string, form url.Values) (int, string, any) {
	cl.t.Helper()
	status, reason, data, err := cl.try(method, path, form)
	if err != nil {
		cl.t.Fatal(err)
	}
	return status, reason, data
}

func (cl *client) try(method, path string, form url.Values) (int, string, any, error) {
	var body io.Reader
	if method == http.MethodPost || method == http.MethodPut {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(cl.t.Context(), method, cl.url+"/api2/json"+path, body)
	if err != nil {
		return 0, "", nil, err
	}
	req.Header.Set("Authorization", "PVEAPIToken="+cl.token)
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := cl.http.Do(req)
	if err != nil {
		return 0, "", nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	var out struct{ Data any }
	_ = json.NewDecoder(resp.Body).Decode(&out) // some answers have no body
	return resp.StatusCode, strings.TrimPrefix(resp.Status, fmt.Sprint(resp.StatusCode, " ")), out.Data, nil
}

// exit waits for the task whose UPID is data.
func (cl *client) exit(data any) string {
	cl.t.Helper()
	cl.srv.mu.Lock()
	task := cl.srv.c.byUPID[fmt.Sprint(data)]
	cl.srv.mu.Unlock()
	if task == nil {
		cl.t.Fatalf("no such task: %v", data)
	}
	<-task.done
	return task.exit
}

// inParallel makes n calls at once and returns how their tasks ended.
func (cl *client) inParallel(n int, method, path string, form url.Values) map[string]int {
	var mu sync.Mutex
	var wg sync.WaitGroup
	ends := map[string]int{}
	for range n {
		wg.Go(func() {
			_, reason, data := cl.call(method, path, form)
			if data != nil {
				reason = cl.exit(data)
			}
			mu.Lock()
			defer mu.Unlock()
			ends[reason]++
		})
	}
	wg.Wait()
	return ends
}

func TestParallelClones(t *testing.T) {
	cl := newClient(t, &Server{Scale: 1}, func(c *Cluster) { c.AddTemplate("pve", 9000, "tmpl") })
	ends := cl.inParallel(8, "POST", "/nodes/pve/qemu/9000/clone", url.Values{"newid": {"130"}})
	if ends["OK"] != 1 || ends["unable to create VM 130: config file already exists"] != 7 {
		t.Errorf("8 clones to one id ended %v, want one OK and seven that find it taken", ends)
	}
}

func TestParallelDestroys(t *testing.T) {
	cl := newClient(t, &Server{Scale: 1}, func(c *Cluster) { c.AddVM("pve", 160, "x") })
	ends := cl.inParallel(4, "DELETE", "/nodes/pve/qemu/160", nil)
	if ends["OK"] != 1 || ends["Configuration file 'nodes/pve/qemu-server/160.conf' does not exist"] != 3 {
		t.Errorf("4 destroys ended %v, want one OK and three that find nothing", ends)
	}
}

// A clone holds the lock file of its target, so that what comes meanwhile sees
// a lock timeout and not the lock in the configuration.
func TestCloneHoldsItsTarget(t *testing.T) {
	srv := &Server{TaskTime: map[string]time.Duration{"qmclone": -1}}
	cl := newClient(t, srv, func(c *Cluster) { c.AddTemplate("pve", 9000, "tmpl") })
	_, _, upid := cl.call("POST", "/nodes/pve/qemu/9000/clone", url.Values{"newid": {"130"}})
	eventually(t, srv, "the clone has begun", func(c *Cluster) bool { return c.VMs[130] != nil })
	want := "can't lock file '/var/lock/qemu-server/lock-130.conf' - got timeout"
	if status, reason, _ := cl.call("PUT", "/nodes/pve/qemu/130/config", url.Values{"name": {"x"}}); status != 500 || reason != want {
		t.Errorf("config of the target: %d %s, want 500 %s", status, reason, want)
	}
	if status, _, data := cl.call("DELETE", "/nodes/pve/tasks/"+fmt.Sprint(upid), nil); status != 200 || data != nil {
		t.Errorf("stop the clone: %d %v, want 200 null", status, data)
	}
	if exit := cl.exit(upid); !strings.HasSuffix(exit, "interrupted by signal") {
		t.Errorf("the clone ended %q", exit)
	}
	srv.Edit(func(c *Cluster) {
		if c.VMs[130] != nil || len(c.Volumes) != 2 {
			t.Errorf("the clone left %v and %d volumes, want none and the template's 2", c.VMs[130], len(c.Volumes))
		}
	})
}

// Three agent calls to silent agents hold all workers of the node: a write
// queues behind one of them, a read that needs no root does not.
func TestSilentAgentsBlockTheNode(t *testing.T) {
	srv := &Server{Scale: 100, AgentDelay: func(int) time.Duration { return -1 }}
	cl := newClient(t, srv, func(c *Cluster) { c.AddVM("pve", 101, "a"); c.AddVM("pve", 102, "b") })
	_, _, upid := cl.call("POST", "/nodes/pve/qemu/101/status/start", nil)
	cl.exit(upid)
	var wg sync.WaitGroup
	queued := func(n int) {
		eventually(t, srv, fmt.Sprint(n, " calls are in the workers"), func(c *Cluster) bool {
			sum := 0
			for _, w := range c.Nodes[0].workers {
				if w != nil {
					sum += w.queued
				}
			}
			return sum == n
		})
	}
	for range workersPerNode {
		wg.Go(func() { _, _, _, _ = cl.try("POST", "/nodes/pve/qemu/101/agent/ping", nil) })
	}
	queued(workersPerNode)
	wg.Go(func() { _, _, _, _ = cl.try("PUT", "/nodes/pve/qemu/102/config", url.Values{"name": {"x"}}) })
	queued(workersPerNode + 1)
	if status, _, _ := cl.call("GET", "/version", nil); status != 200 {
		t.Errorf("GET /version: %d", status)
	}
	srv.Edit(func(c *Cluster) {
		if c.VMs[102].Config["name"] != "b" {
			t.Error("a write was done while all workers wait for agents")
		}
	})
	srv.Close()
	wg.Wait()
}

func TestFaults(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fault  Fault
		status int
		reason string
		broken bool
		done   bool // it has taken effect
	}{
		{"instead", Fault{Status: 500, Reason: "boom"}, 500, "boom", false, false},
		{"after", Fault{Status: 596, Reason: "Broken pipe", After: true}, 596, "Broken pipe", false, true},
		{"dropped", Fault{Drop: true}, 0, "", true, false},
		{"dropped-after", Fault{Drop: true, After: true}, 0, "", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := &Server{Fail: func(r *http.Request) *Fault {
				if r.Method == http.MethodPost {
					return &tt.fault
				}
				return nil
			}}
			cl := newClient(t, srv, func(*Cluster) {})
			status, reason, _, err := cl.try("POST", "/pools", url.Values{"poolid": {"p"}})
			if (err != nil) != tt.broken || status != tt.status || reason != tt.reason {
				t.Errorf("got %d %q %v", status, reason, err)
			}
			srv.Edit(func(c *Cluster) {
				if (c.Pools["p"] != nil) != tt.done {
					t.Errorf("took effect: %v, want %v", c.Pools["p"] != nil, tt.done)
				}
			})
		})
	}
}

func TestBrokenClusters(t *testing.T) {
	for _, tt := range []struct {
		name         string
		breakIt      func(c *Cluster)
		method, path string
		want         string
	}{
		{"no-quorum", func(c *Cluster) { c.NoQuorum = true }, "POST", "/nodes/pve/qemu/100/status/start", "cluster not ready - no quorum?"},
		{"node-down", func(c *Cluster) { c.AddNode("two").Down = true }, "GET", "/nodes/two/qemu", "No route to host"},
		{"token-revoked", func(c *Cluster) { clear(c.Tokens) }, "GET", "/version", "Authentication failed!"},
		{"user-expired", func(c *Cluster) { c.Users["root@pam"].Expire = 1 }, "GET", "/version", "Authentication failed!"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cl := newClient(t, &Server{}, func(c *Cluster) { c.AddVM("pve", 100, "x"); tt.breakIt(c) })
			if _, reason, _ := cl.call(tt.method, tt.path, nil); reason != tt.want {
				t.Errorf("got %q, want %q", reason, tt.want)
			}
		})
	}
}

func TestStorageFull(t *testing.T) {
	cl := newClient(t, &Server{}, func(c *Cluster) { c.AddTemplate("pve", 9000, "tmpl"); c.Storages[0].Full = true })
	_, _, upid := cl.call("POST", "/nodes/pve/qemu/9000/clone", url.Values{"newid": {"130"}})
	if exit := cl.exit(upid); !strings.Contains(exit, "No space left on device") {
		t.Errorf("the clone ended %q", exit)
	}
	cl.srv.Edit(func(c *Cluster) {
		if c.VMs[130] != nil {
			t.Error("the clone left its configuration")
		}
	})
}

// A pvesh that is killed in a clone leaves a locked VM and a task without an
// end; one that is terminated cleans up.
func TestPveshEndedInTheMiddle(t *testing.T) {
	for _, tt := range []struct {
		name, exit, lock string
		cause            error
	}{
		{"killed", "unexpected status", "clone", errors.New("hang-up")},
		{"terminated", "interrupted by signal", "", ErrTerminated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := &Server{TaskTime: map[string]time.Duration{"qmclone": -1}}
			t.Cleanup(srv.Close)
			srv.Edit(func(c *Cluster) { c.AddTemplate("pve", 9000, "tmpl") })
			ctx, cancel := context.WithCancelCause(t.Context())
			ended := make(chan int)
			go func() {
				ended <- srv.Pvesh(ctx, "pve", []string{"create", "/nodes/pve/qemu/9000/clone", "--newid", "130"}, nil, io.Discard, io.Discard)
			}()
			eventually(t, srv, "the clone is at work", func(c *Cluster) bool { return c.VMs[130] != nil && c.VMs[130].Config["name"] != "" })
			cancel(tt.cause)
			<-ended
			srv.Edit(func(c *Cluster) {
				exit, lock := c.tasks[0].exit, ""
				if vm := c.VMs[130]; vm != nil {
					lock = vm.Config["lock"]
				}
				if !strings.HasSuffix(exit, tt.exit) || lock != tt.lock {
					t.Errorf("the task ended %q and left the lock %q, want %q and %q", exit, lock, tt.exit, tt.lock)
				}
			})
		})
	}
}

// The stand-in for /usr/bin/pvesh runs in a process of its own.
func TestPveshMain(t *testing.T) {
	srv := &Server{TaskTime: map[string]time.Duration{"qmclone": -1}}
	t.Cleanup(srv.Close)
	srv.Edit(func(c *Cluster) { c.AddTemplate("pve", 9000, "tmpl") })
	env, err := srv.ServePvesh("pve", filepath.Join(t.TempDir(), "pvesh.sock"))
	if err != nil {
		t.Fatal(err)
	}
	pvesh := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
		cmd.Args = append([]string{"pvesh"}, args...)
		cmd.Env = []string{env, "LC_ALL=C.UTF-8"}
		return cmd
	}
	out, err := pvesh("get", "/cluster/nextid", "--output-format", "json").Output()
	if err != nil || string(out) != "\"100\"\n" {
		t.Errorf("nextid: %q %v", out, err)
	}
	var exit *exec.ExitError
	if _, err := pvesh("get", "/nodes/pve/qemu/4711/config").Output(); !errors.As(err, &exit) || exit.ExitCode() != 2 ||
		string(exit.Stderr) != "Configuration file 'nodes/pve/qemu-server/4711.conf' does not exist\n" {
		t.Errorf("a missing VM: %v", err)
	}
	clone := pvesh("create", "/nodes/pve/qemu/9000/clone", "--newid", "130")
	if err := clone.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, srv, "the clone is at work", func(c *Cluster) bool { return c.VMs[130] != nil && c.VMs[130].Config["name"] != "" })
	_ = clone.Process.Kill()
	_ = clone.Wait()
	var task *Task
	srv.Edit(func(c *Cluster) { task = c.tasks[0] })
	<-task.done
	if task.exit != "unexpected status" {
		t.Errorf("the clone of a killed pvesh ended %q", task.exit)
	}
}

// TestADigestIsGoodForOneChange: of changes at once with one digest one is
// made; without a digest all are (measured).
func TestADigestIsGoodForOneChange(t *testing.T) {
	cl := newClient(t, &Server{}, func(c *Cluster) { c.AddVM("pve", 100, "web") })
	const path = "/nodes/pve/qemu/100/config"
	_, _, data := cl.call("GET", path, nil)
	change := func(n int, form func(i int) url.Values) map[string]int {
		var mu sync.Mutex
		var wg sync.WaitGroup
		ends := map[string]int{}
		for i := range n {
			wg.Go(func() {
				_, reason, _ := cl.call("PUT", path, form(i))
				mu.Lock()
				defer mu.Unlock()
				ends[reason]++
			})
		}
		wg.Wait()
		return ends
	}
	digest := fmt.Sprint(data.(map[string]any)["digest"])
	ends := change(4, func(i int) url.Values { return url.Values{"description": {fmt.Sprint("race ", i)}, "digest": {digest}} })
	if ends["OK"] != 1 || ends["checksum mismatch (file change by other user?)"] != 3 {
		t.Errorf("with one digest: %v", ends)
	}
	keys := []string{"cores", "sockets", "onboot", "balloon"}
	if ends := change(4, func(i int) url.Values { return url.Values{keys[i]: {"1"}} }); ends["OK"] != 4 {
		t.Errorf("without one: %v", ends)
	}
	cl.srv.Edit(func(c *Cluster) {
		for _, k := range keys {
			if c.VMs[100].Config[k] != "1" {
				t.Errorf("%s is %q", k, c.VMs[100].Config[k])
			}
		}
	})
}

// A VM that a test takes away leaves no guest, which another of its number would hide.
func TestGuestEndsWithItsVM(t *testing.T) {
	srv := &Server{}
	defer srv.Close()
	var guest Guest
	srv.Edit(func(c *Cluster) {
		c.VMs[100] = &VM{ID: 100, Config: map[string]string{}}
		if err := srv.bootGuest(c.VMs[100]); err != nil {
			t.Fatal(err)
		}
		guest = srv.guests[100].guest
	})
	srv.Edit(func(c *Cluster) { delete(c.VMs, 100) })
	select {
	case <-guest.Done():
	default:
		t.Error("the guest goes on")
	}
}

// A guest that is made while the server is closed ends, too.
func TestGuestOfClosedServer(t *testing.T) {
	guest := newIdleGuest(GuestSpec{})
	srv := &Server{}
	srv.NewGuest = func(GuestSpec) (Guest, error) {
		srv.Close()
		return guest, nil
	}
	srv.Edit(func(*Cluster) {
		if err := srv.bootGuest(&VM{ID: 100}); err == nil {
			t.Error("a closed server boots")
		}
	})
	select {
	case <-guest.Done():
	default:
		t.Error("the guest goes on")
	}
}
