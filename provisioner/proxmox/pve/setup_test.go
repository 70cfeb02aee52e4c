package pve_test

import (
	"errors"
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// What is needed to make a token with the rights to clone, and that it has
// these and no other.
func TestSetup(t *testing.T) {
	srv := &pvetest.Server{}
	root := simulate(t, srv)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(root.CreatePool(ctx, "agentlab", ""))
	must(root.CreateUser(ctx, "agentlab@pve", "made by a test"))
	must(root.CreateRole(ctx, "AgentLab", []string{"VM.Audit"}))
	must(root.SetRole(ctx, "AgentLab", []string{"VM.Audit", "VM.Clone"}))
	token, err := root.CreateToken(ctx, "agentlab@pve", "t1", "")
	must(err)
	must(root.Grant(ctx, "/vms/9000", "AgentLab", "agentlab@pve", "t1"))

	if err := root.CreateRole(ctx, "X", []string{"VM.GuestAgent.Audit"}); !errors.Is(err, pve.Parameter) {
		t.Errorf("a privilege of 9.x on 8.4: %v", err)
	}
	users, err := root.Users(ctx)
	must(err)
	if !slices.ContainsFunc(users, func(u pve.User) bool { return u.ID == "agentlab@pve" }) {
		t.Errorf("users %+v", users)
	}
	roles, err := root.Roles(ctx)
	must(err)
	if !slices.Contains(roles, pve.Role{ID: "AgentLab", Privs: "VM.Audit,VM.Clone"}) {
		t.Errorf("roles %+v", roles)
	}

	h, err := pve.NewHTTPS(srv.Listen("pve"), pve.Auth{Token: token}, pve.Trust{Fingerprint: srv.Fingerprint("pve")})
	must(err)
	c := &pve.Client{Transport: h}
	perms, err := c.Permissions(ctx, "")
	must(err)
	if _, ok := perms["/vms/9000"]["VM.Clone"]; !ok || len(perms) != 1 {
		t.Errorf("permissions %v", perms)
	}
	var e *pve.Error
	if _, err := c.Clone(ctx, vm(9000), pve.CloneSpec{NewID: 100, Pool: "agentlab"}); !errors.As(err, &e) || e.Kind != pve.Permission {
		t.Errorf("a clone into a pool of others: %v", err)
	}
	must(root.DeleteToken(ctx, "agentlab@pve", "t1"))
	if _, err := c.Version(ctx); !errors.Is(err, pve.Unauthorized) {
		t.Errorf("a deleted token: %v", err)
	}
}

func TestRestOfAMachinesLife(t *testing.T) {
	srv := &pvetest.Server{}
	c := simulate(t, srv)
	ctx, done := t.Context(), await(t, c)
	m := vm(100)
	done(c.CreateVM(ctx, m, "", map[string]string{"name": "made", "scsihw": "virtio-scsi-pci", "scsi0": "local:1,format=qcow2", "agent": "1"}))
	cfg, err := c.Config(ctx, m)
	if err != nil || cfg["name"] != "made" || !slices.Equal(cfg.Drives(), []string{"scsi0"}) {
		t.Fatalf("config %v, %v", cfg, err)
	}
	done(c.Resize(ctx, m, "scsi0", "+1G", ""))
	done(c.StartSetConfig(ctx, m, pve.Change{Set: map[string]string{"memory": "256"}}))
	done(c.CreateSnapshot(ctx, m, "s1", "first", false))
	done(c.StartSetConfig(ctx, m, pve.Change{Set: map[string]string{"memory": "512"}, Delete: []string{"agent"}}))
	done(c.Rollback(ctx, m, "s1"))
	if cfg, err := c.Config(ctx, m); err != nil || cfg.Int("memory") != 256 || !cfg.AgentEnabled() {
		t.Errorf("after the rollback: %v, %v", cfg, err)
	}
	done(c.DeleteSnapshot(ctx, m, "s1"))
	done(c.Start(ctx, m))
	done(c.Suspend(ctx, m))
	if s, err := c.Status(ctx, m); err != nil || s.QMPStatus != "paused" || !s.Running() {
		t.Errorf("paused: %+v, %v", s, err)
	}
	done(c.Resume(ctx, m))
	done(c.Stop(ctx, m, pve.StopOptions{}))
	done(c.ConvertToTemplate(ctx, m))
	id, err := c.Start(ctx, m)
	if err == nil {
		_, err = c.Wait(ctx, id)
	}
	if err == nil {
		t.Error("a template was started")
	}
}

func TestPoolsAndNetworks(t *testing.T) {
	srv := &pvetest.Server{}
	c := simulate(t, srv)
	srv.Edit(func(c *pvetest.Cluster) { c.AddVM("pve", 100, "m") })
	ctx := t.Context()
	for _, pool := range []string{"a", "b"} {
		if err := c.CreatePool(ctx, pool, ""); err != nil {
			t.Fatal(err)
		}
	}
	members := func(pool string) int {
		p, err := c.Pool(ctx, pool)
		if err != nil {
			t.Fatal(err)
		}
		return len(p.Members)
	}
	if err := c.AddToPool(ctx, "a", 100); err != nil || members("a") != 1 {
		t.Errorf("added: %v", err)
	}
	if err := c.AddToPool(ctx, "b", 100); err != nil || members("a") != 0 || members("b") != 1 {
		t.Errorf("moved: %v", err)
	}
	if err := c.RemoveFromPool(ctx, "b", 100); err != nil || members("b") != 0 {
		t.Errorf("removed: %v", err)
	}
	if pools, err := c.Pools(ctx); err != nil || len(pools) != 2 {
		t.Errorf("pools %v, %v", pools, err)
	}
	if _, err := c.Pool(ctx, "nosuch"); !errors.Is(err, pve.NotFound) {
		t.Errorf("a missing pool: %v", err)
	}
	if _, err := c.Bridges(ctx, "pve"); err != nil {
		t.Error(err)
	}
	if _, err := c.ClusterOptions(ctx); err != nil {
		t.Error(err)
	}
	if list, err := c.Resources(ctx, ""); err != nil || len(list) < 4 {
		t.Errorf("resources %v, %v", list, err)
	}
}

func TestTokens(t *testing.T) {
	c, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api2/json/access/users/agentlab@pve/token" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		exchange{Status: 200, Reason: "OK", Body: `{"data":[{"tokenid":"t1","privsep":"1","expire":0}]}`}.write(w)
	})
	got, err := c.Tokens(t.Context(), "agentlab@pve")
	if diff := cmp.Diff([]pve.Token{{Name: "t1", Privsep: true}}, got); diff != "" || err != nil {
		t.Errorf("tokens (-want +got), error %v:\n%s", err, diff)
	}
}
