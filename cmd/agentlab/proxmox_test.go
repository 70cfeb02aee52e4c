package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/agentlab-mcp/agentlab/internal/pvesim"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// TestScriptsOnProxmox runs scripts of the local backend, unchanged, on
// machines of a Proxmox VE, in each way to reach one.
func TestScriptsOnProxmox(t *testing.T) {
	bin := programs(t)
	for _, tt := range []struct {
		name, version string
		configure     func(*testscript.Env, *pvesim.Sim) (lines string, err error)
	}{
		{"api-8", "8.4.21", overAPI},
		{"api-9", "9.2.11", overAPI},
		{"shell", "8.4.21", overShell},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := params(func(env *testscript.Env) error {
				sim, err := pvesim.New(env.WorkDir, tt.version)
				if err != nil {
					return err
				}
				return useProxmox(env, bin, sim, tt.configure)
			})
			for _, script := range []string{"sandbox", "killdaemon", "timeup"} {
				p.Files = append(p.Files, filepath.Join("testdata", script+".txtar"))
			}
			testscript.Run(t, p)
		})
	}
}

// TestProxmoxScripts runs the scripts of testdata/proxmox. $WORK/proxmox.yaml is
// how to reach the Proxmox that each has.
func TestProxmoxScripts(t *testing.T) {
	bin := programs(t)
	p := params(func(env *testscript.Env) error {
		sim, err := setupProxmox(env, bin, "8.4.21")
		if err != nil {
			return err
		}
		return appendFile(filepath.Join(env.WorkDir, "proxmox.yaml"), sim.Config())
	})
	p.Dir = "testdata/proxmox"
	testscript.Run(t, p)
}

// useProxmox gives an installation a Proxmox as its only backend.
func useProxmox(env *testscript.Env, bin string, sim *pvesim.Sim, configure func(*testscript.Env, *pvesim.Sim) (string, error)) error {
	if err := setupOn(env, bin, sim); err != nil {
		return err
	}
	env.Setenv("SANDBOX_HOME", "/root")
	lines, err := configure(env, sim)
	if err != nil {
		return err
	}
	dir := filepath.Join(env.WorkDir, "config/agentlab")
	if err := appendFile(filepath.Join(dir, "config.yaml"), lines); err != nil {
		return err
	}
	return appendFile(filepath.Join(dir, "profiles/default.yaml"), "backend: proxmox\n")
}

func overAPI(_ *testscript.Env, sim *pvesim.Sim) (string, error) { return sim.Config(), nil }

func overShell(env *testscript.Env, sim *pvesim.Sim) (string, error) {
	lines, variable, err := sim.ShellConfig(filepath.Join(env.WorkDir, "pvesh.sock"))
	env.Vars = append(env.Vars, variable)
	return lines, err
}

// simKey is where a script keeps its Proxmox.
type simKey struct{}

// setupProxmox gives an installation a Proxmox.
func setupProxmox(env *testscript.Env, bin, version string) (*pvesim.Sim, error) {
	sim, err := pvesim.New(env.WorkDir, version)
	if err != nil {
		return nil, err
	}
	return sim, setupOn(env, bin, sim)
}

// setupOn gives an installation a Proxmox, which it closes. At its end nothing
// on it may be other than it was.
func setupOn(env *testscript.Env, bin string, sim *pvesim.Sim) error {
	env.Values[simKey{}] = sim
	env.Defer(func() {
		defer sim.Close()
		if changed := sim.Changed(); len(changed) > 0 {
			env.T().(testing.TB).Errorf("changed on the Proxmox:\n%s", strings.Join(changed, "\n"))
		}
	})
	return setup(env, bin)
}

// appendFile adds to a file that is for us alone.
func appendFile(path, text string) error {
	old, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.WriteFile(path, append(old, text...), 0o600); err != nil {
		return err
	}
	return os.Chmod(path, 0o600)
}

func simOf(ts *testscript.TestScript) *pvesim.Sim {
	sim, _ := ts.Value(simKey{}).(*pvesim.Sim)
	return sim
}

// cmdPVE: "pve down|up" takes the script's Proxmox off the network, or back.
func cmdPVE(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 || args[0] != "down" && args[0] != "up" {
		ts.Fatalf("usage: pve down|up")
	}
	simOf(ts).SetDown(args[0] == "down")
}

// awaitUnchanged waits until the script's Proxmox is as it was.
func awaitUnchanged(ts *testscript.TestScript, sim *pvesim.Sim) {
	for end := time.Now().Add(testPatience); ; time.Sleep(20 * time.Millisecond) {
		changed := sim.Changed()
		if len(changed) == 0 {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("still changed on the Proxmox: %v", changed)
		}
	}
}

// TestDoctorScripts runs the scripts of testdata/doctor.
func TestDoctorScripts(t *testing.T) {
	p := doctorParams(t)
	p.Dir = "testdata/doctor"
	testscript.Run(t, p)
}

// doctorParams are those of scripts that have a Proxmox; $PVE_URL and
// $PVE_FINGERPRINT say where.
func doctorParams(t *testing.T) testscript.Params {
	bin := programs(t)
	return params(func(env *testscript.Env) error {
		sim, err := pvesim.New(env.WorkDir, "9.2.11")
		if err != nil {
			return err
		}
		env.Defer(sim.Close)
		env.Setenv("PVE_URL", sim.Server.Listen(pvesim.Node))
		env.Setenv("PVE_FINGERPRINT", sim.Server.Fingerprint(pvesim.Node))
		if err := setup(env, bin); err != nil {
			return err
		}
		return appendFile(filepath.Join(env.WorkDir, "proxmox.yaml"), sim.Config())
	})
}

// TestTemplateScripts runs the scripts of testdata/template.
func TestTemplateScripts(t *testing.T) {
	p := blankParams(t)
	p.Dir = "testdata/template"
	testscript.Run(t, p)
}

// blankParams are those of scripts that have a Proxmox that nothing was made on for
// AgentLab, and a web server with an image at $IMAGE_URL. A template that a script
// builds is all that may be there at its end.
func blankParams(t *testing.T) testscript.Params {
	image := make([]byte, 512) // docs/interop/qcow2.txt of QEMU
	copy(image, "QFI\xfb\x00\x00\x00\x03")
	image[28] = 0x80 // 2 GiB
	sum := sha256.Sum256(image)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/stock.img" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(image)
	}))
	t.Cleanup(web.Close) // scripts run in parallel, after this function
	bin := programs(t)
	return params(func(env *testscript.Env) error {
		srv, err := blankProxmox(env)
		if err != nil {
			return err
		}
		env.Setenv("PVE_URL", srv.Listen("pve"))
		env.Setenv("PVE_FINGERPRINT", srv.Fingerprint("pve"))
		env.Setenv("IMAGE_URL", web.URL+"/stock.img")
		env.Setenv("IMAGE_SUM", "sha256:"+hex.EncodeToString(sum[:]))
		return setup(env, bin)
	})
}

// blankProxmox puts one up for a script, and looks at its end what is there.
func blankProxmox(env *testscript.Env) (*pvetest.Server, error) {
	guests := filepath.Join(env.WorkDir, "guests")
	if err := os.MkdirAll(guests, 0o711); err != nil {
		return nil, err
	}
	srv := &pvetest.Server{Version: "9.2.11", NewGuest: (&pvetest.ProcessGuests{Dir: guests}).New}
	srv.Edit(func(c *pvetest.Cluster) { c.AddVM("pve", 9000, "of-somebody-else") })
	env.Defer(func() {
		defer srv.Close()
		want := "volumes [local:9000/vm-9000-cloudinit.qcow2 local:9000/vm-9000-disk-0.qcow2 local:9001/base-9001-disk-0.qcow2 local:9001/vm-9001-cloudinit.qcow2]"
		srv.Edit(func(c *pvetest.Cluster) {
			if got := fmt.Sprint("volumes ", slices.Sorted(maps.Keys(c.Volumes))); got != want || len(c.VMs) != 2 {
				env.T().(testing.TB).Errorf("there are %d machines, %s, want %s", len(c.VMs), got, want)
			}
		})
	})
	return srv, nil
}
