package pve_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/internal/redact"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// Of a node's three workers two are ours at most. What pveproxy answers itself
// is not held up, nor are other nodes.
func TestWorkersAreLeftToOthers(t *testing.T) {
	var puts atomic.Int32
	held, release := make(chan struct{}, 8), make(chan struct{})
	srv := &pvetest.Server{Hold: func(r *http.Request) func() {
		if r.Method == http.MethodPut {
			puts.Add(1)
			held <- struct{}{}
			<-release
		}
		return func() {}
	}}
	t.Cleanup(srv.Close)
	var secret string
	srv.Edit(func(c *pvetest.Cluster) {
		c.AddVM("pve", 100, "a")
		c.AddNode("pve2")
		secret = c.AddToken("root@pam!t1", false)
	})
	h, err := pve.NewHTTPS(srv.Listen("pve"), pve.Auth{Token: redact.String("root@pam!t1=" + secret)}, pve.Trust{Fingerprint: srv.Fingerprint("pve")})
	if err != nil {
		t.Fatal(err)
	}
	c := &pve.Client{Transport: h}
	vm := pve.VM{Node: "pve", ID: 100}
	set := func(ctx context.Context) error {
		return c.SetConfig(ctx, vm, pve.Change{Set: map[string]string{"cores": "1"}})
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if err := set(t.Context()); err != nil {
				t.Error(err)
			}
		})
		<-held
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := set(ctx); !errors.Is(err, context.DeadlineExceeded) || puts.Load() != 2 {
		t.Errorf("a third call: %v; %d were made", err, puts.Load())
	}
	if _, err := c.Config(t.Context(), vm); err != nil {
		t.Error(err)
	}
	if _, err := c.Status(t.Context(), pve.VM{Node: "pve2", ID: 100}); !errors.Is(err, pve.NotFound) {
		t.Errorf("another node: %v", err)
	}
	close(release)
	wg.Wait()
	if err := set(t.Context()); err != nil {
		t.Error(err)
	}
}
