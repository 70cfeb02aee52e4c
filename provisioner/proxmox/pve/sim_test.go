package pve_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

func TestMain(m *testing.M) {
	pvetest.GuestMain()
	os.Exit(m.Run())
}

// simulate starts a cluster with the template 9000, and returns a client with a
// token that may do everything but what only root@pam may.
func simulate(t *testing.T, srv *pvetest.Server) *pve.Client {
	t.Helper()
	t.Cleanup(srv.Close)
	var secret string
	srv.Edit(func(c *pvetest.Cluster) {
		c.AddTemplate("pve", 9000, "debian")
		secret = c.AddToken("root@pam!agentlab", false)
	})
	h, err := pve.NewHTTPS(srv.Listen("pve"), pve.Auth{Token: redact.String("root@pam!agentlab=" + secret)},
		pve.Trust{Fingerprint: srv.Fingerprint("pve")})
	if err != nil {
		t.Fatal(err)
	}
	return &pve.Client{Transport: h}
}

// await waits for a task that was just started.
func await(t *testing.T, c *pve.Client) func(pve.UPID, error) {
	return func(id pve.UPID, err error) {
		t.Helper()
		if err == nil {
			_, err = c.Wait(t.Context(), id)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestMachineFromCloneToDelete(t *testing.T) {
	for _, version := range []string{"8.4.21", "9.2.11"} {
		t.Run(version, func(t *testing.T) {
			guests := pvetest.ProcessGuests{Dir: pvetest.GuestDir(t)} // they really run commands
			c := simulate(t, &pvetest.Server{Version: version, NewGuest: guests.New})
			ctx, done := t.Context(), await(t, c)

			if v, err := c.Version(ctx); err != nil || v.String() != version {
				t.Fatalf("version %v, %v", v, err)
			}
			if err := c.CreatePool(ctx, "agentlab", "sandboxes"); err != nil {
				t.Fatal(err)
			}
			id, err := c.NextID(ctx)
			if err != nil {
				t.Fatal(err)
			}
			m := vm(id)
			done(c.Clone(ctx, vm(9000), pve.CloneSpec{NewID: id, Name: "sb-1", Pool: "agentlab"}))
			if err := c.IDFree(ctx, id); !pve.Taken(err, id) {
				t.Errorf("the ID is free: %v", err)
			}
			configure(t, c, m)
			done(c.Start(ctx, m))
			if s, err := c.Status(ctx, m); err != nil || !s.Running() || !bool(s.Agent) {
				t.Errorf("status %+v, %v", s, err)
			}
			if p, err := c.Pool(ctx, "agentlab"); err != nil || len(p.Members) != 1 || p.Members[0].VM() != m {
				t.Errorf("pool %+v, %v", p, err)
			}
			useAgent(t, c, m)
			done(c.CreateSnapshot(ctx, m, "before", "", false))
			if s, err := c.Snapshots(ctx, m); err != nil || len(s) != 1 || s[0].Name != "before" {
				t.Errorf("snapshots %+v, %v", s, err)
			}
			if _, err := c.Delete(ctx, m); !errors.Is(err, pve.Running) {
				t.Errorf("a running machine is deleted: %v", err)
			}
			done(c.Stop(ctx, m, pve.StopOptions{OverruleShutdown: true}))
			done(c.Delete(ctx, m))
			if _, err := c.Status(ctx, m); !pve.Gone(err, m) {
				t.Errorf("it is still there: %v", err)
			}
		})
	}
}

// configure changes the config twice by one digest, of which one must win.
func configure(t *testing.T, c *pve.Client, m pve.VM) {
	t.Helper()
	cfg, err := c.Config(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	text := "papers: äöü € %41\n# [x] memory: 1"
	change := pve.Change{Digest: cfg.Digest(), Set: map[string]string{
		"description": text, "tags": "agentlab;run-1", "cores": "1", "ciuser": "agent", "sshkeys": pve.SSHKeys(clientKey),
	}}
	if err := c.SetConfig(t.Context(), m, change); err != nil {
		t.Fatal(err)
	}
	change.Set["cores"] = "2"
	if err := c.SetConfig(t.Context(), m, change); !errors.Is(err, pve.Modified) {
		t.Errorf("an outdated digest: %v", err)
	}
	got, err := c.Config(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if got["description"] != text || got["sshkeys"] != pve.SSHKeys(clientKey) || got.Int("cores") != 1 {
		t.Errorf("config %v", got)
	}
	if diff := cmp.Diff([]string{"agentlab", "run-1"}, got.Tags()); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
}

// useAgent runs commands and moves bytes, all of them.
func useAgent(t *testing.T, c *pve.Client, m pve.VM) {
	t.Helper()
	ctx := t.Context()
	for { // until it has booted
		err := c.AgentPing(ctx, m)
		if err == nil {
			break
		}
		if !errors.Is(err, pve.AgentNotRunning) {
			t.Fatal(err)
		}
	}
	out := run(t, c, m, []string{"/bin/sh", "-c", "cat; exit 7"}, allBytes())
	if out.ExitCode != 7 || !bytes.Equal(out.Out, allBytes()) {
		t.Errorf("command: %+v", out)
	}
	if err := c.AgentWriteFile(ctx, m, "/tmp/f", allBytes()); err != nil {
		t.Fatal(err)
	}
	f, err := c.AgentReadFile(ctx, m, "/tmp/f")
	if err != nil || !bytes.Equal(f.Data, allBytes()) {
		t.Errorf("file: %x, %v", f.Data, err)
	}
	if _, err := c.AgentReadFile(ctx, m, "/no/such"); !errors.Is(err, pve.NotFound) {
		t.Errorf("missing file: %v", err)
	}
	v, err := c.Version(ctx)
	if err != nil {
		t.Fatal(err)
	}
	f, err = c.AgentReadFileAt(ctx, m, "/tmp/f", 250, 4)
	if v.AtLeast(9, 0) && (err != nil || !bytes.Equal(f.Data, allBytes()[250:254])) {
		t.Errorf("part of a file: %x, %v", f.Data, err)
	}
	if !v.AtLeast(9, 0) && !errors.Is(err, pve.Parameter) {
		t.Errorf("part of a file before 9.0: %v", err)
	}
	if _, err := c.AgentInterfaces(ctx, m); err != nil {
		t.Error(err)
	}
}

func run(t *testing.T, c *pve.Client, m pve.VM, argv []string, input []byte) pve.ExecStatus {
	t.Helper()
	pid, err := c.AgentExec(t.Context(), m, argv, input)
	if err != nil {
		t.Fatal(err)
	}
	for {
		s, err := c.AgentExecStatus(t.Context(), m, pid)
		if err != nil {
			t.Fatal(err)
		}
		if s.Exited {
			if _, err := c.AgentExecStatus(t.Context(), m, pid); !errors.Is(err, pve.NotFound) {
				t.Errorf("the end is told twice: %v", err)
			}
			return s
		}
	}
}

func TestClonesRaceForOneID(t *testing.T) {
	c := simulate(t, &pvetest.Server{})
	var wg sync.WaitGroup
	var won, lost atomic.Int32
	for range 6 {
		wg.Go(func() {
			id, err := c.Clone(t.Context(), vm(9000), pve.CloneSpec{NewID: 130})
			if err == nil {
				_, err = c.Wait(t.Context(), id)
			}
			switch {
			case err == nil:
				won.Add(1)
			case pve.Taken(err, 130), errors.Is(err, pve.LockTimeout):
				lost.Add(1)
			default:
				t.Errorf("error %v", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || lost.Load() != 5 {
		t.Errorf("%d won, %d lost", won.Load(), lost.Load())
	}
}

// What a fault looks like from here, and how often the call was made.
func TestFaults(t *testing.T) {
	start := func(c *pve.Client, ctx context.Context) error { _, err := c.Start(ctx, vm(100)); return err }
	read := func(c *pve.Client, ctx context.Context) error { _, err := c.Config(ctx, vm(100)); return err }
	tests := []struct {
		name  string
		fault *pvetest.Fault
		call  func(*pve.Client, context.Context) error
		kind  pve.Kind
		calls int32
	}{
		{"write-596", &pvetest.Fault{Status: 596, Reason: "Broken pipe"}, start, pve.Interrupted, 1},
		{"write-596-after", &pvetest.Fault{Status: 596, Reason: "Connection timed out", After: true}, start, pve.Interrupted, 1},
		{"write-dropped", &pvetest.Fault{Drop: true}, start, pve.ConnectionLost, 1},
		{"write-dropped-after", &pvetest.Fault{Drop: true, After: true}, start, pve.ConnectionLost, 1},
		{"write-595", &pvetest.Fault{Status: 595, Reason: "No route to host"}, start, pve.NodeUnreachable, 1},
		{"read-dropped", &pvetest.Fault{Drop: true}, read, pve.ConnectionLost, 3},
		{"read-596", &pvetest.Fault{Status: 596, Reason: "Broken pipe"}, read, pve.Interrupted, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var calls atomic.Int32
			srv := &pvetest.Server{Fail: func(r *http.Request) *pvetest.Fault {
				if !strings.Contains(r.URL.Path, "/qemu/100/") {
					return nil
				}
				calls.Add(1)
				return tt.fault
			}}
			c := simulate(t, srv)
			srv.Edit(func(c *pvetest.Cluster) { c.AddVM("pve", 100, "m") })
			if err := tt.call(c, t.Context()); !errors.Is(err, tt.kind) || calls.Load() != tt.calls {
				t.Errorf("error %v after %d calls, want %v after %d", err, calls.Load(), tt.kind, tt.calls)
			}
		})
	}
}

func TestClusterTroubles(t *testing.T) {
	srv := &pvetest.Server{}
	c := simulate(t, srv)
	srv.Edit(func(c *pvetest.Cluster) {
		c.AddNode("pve2").Down = true
		c.AddVM("pve2", 200, "far")
		c.AddVM("pve", 100, "m").Config["lock"] = "backup"
	})
	if _, err := c.Config(t.Context(), pve.VM{Node: "pve2", ID: 200}); !errors.Is(err, pve.NodeUnreachable) {
		t.Errorf("a node that is down: %v", err)
	}
	set := pve.Change{Set: map[string]string{"cores": "2"}}
	if err := c.SetConfig(t.Context(), vm(100), set); !errors.Is(err, pve.Locked) {
		t.Errorf("a locked machine: %v", err)
	}
	srv.Edit(func(c *pvetest.Cluster) { c.NoQuorum = true })
	if _, err := c.Clone(t.Context(), vm(9000), pve.CloneSpec{NewID: 300}); !errors.Is(err, pve.NoQuorum) {
		t.Errorf("no quorum: %v", err)
	}
	srv.Edit(func(c *pvetest.Cluster) { delete(c.Tokens, "root@pam!agentlab") })
	if _, err := c.Version(t.Context()); !errors.Is(err, pve.Unauthorized) {
		t.Errorf("a revoked token: %v", err)
	}
}
