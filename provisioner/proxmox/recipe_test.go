package proxmox

import (
	"errors"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// A recipe changes with what clones are made of, and with nothing else; to see
// that takes a call for each template.
func TestRecipe(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	p := l.provisioner()
	recipe := func(root string) string {
		t.Helper()
		spec := testSpec(1)
		spec.Root = root
		word, err := p.Recipe(t.Context(), spec)
		if err != nil || word == "" {
			t.Fatalf("Recipe of %q: %q, %v", root, word, err)
		}
		return word
	}
	template := func(change func(map[string]string)) {
		l.srv.Edit(func(c *pvetest.Cluster) { change(c.VMs[9000].Config) })
	}
	was := recipe("9000")
	if got := recipe(""); got != was {
		t.Errorf("the same template by its name: %s, not %s", got, was)
	}
	for option, value := range map[string]string{"description": "a note", "tags": "a;b", "name": "renamed", "protection": "1", "onboot": "1"} {
		template(func(cfg map[string]string) { cfg[option] = value })
		if recipe("9000") != was {
			t.Errorf("another %s makes no other machine", option)
		}
	}
	for name, change := range map[string]func(map[string]string){
		"rebuilt":  func(cfg map[string]string) { cfg["meta"] = "creation-qemu=9.2.0,ctime=1800000000" },
		"new_disk": func(cfg map[string]string) { cfg["scsi0"] = "local:9000/base-9000-disk-7.qcow2,size=2G" },
		"cpu":      func(cfg map[string]string) { cfg["cpu"] = "host" },
	} {
		var before map[string]string
		template(func(cfg map[string]string) { before = maps.Clone(cfg); change(cfg) })
		if recipe("9000") == was {
			t.Errorf("%s: the recipe is the same", name)
		}
		template(func(cfg map[string]string) { clear(cfg); maps.Copy(cfg, before) })
	}
	if recipe("9000,full=1") == was {
		t.Error("a full clone is as a linked one")
	}
	online := testSpec(1)
	online.Network = "internet"
	first, err := p.Recipe(t.Context(), online)
	p.Bridge = "vmbr9"
	if second, serr := p.Recipe(t.Context(), online); err != nil || serr != nil || first == second {
		t.Errorf("on another bridge: %s and %s, %v, %v", first, second, err, serr)
	}
	if recipe("9000") != was {
		t.Error("a machine without a network is another on another bridge")
	}
	l.onCall(nil)
	recipe("9000")
	got := l.counted()
	delete(got, "GET resources") // one, if all this took more than a second
	if diff := cmp.Diff(map[string]int{"GET config": 1}, got); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// A node that is down is no reason to make the machines of all others anew.
func TestRecipeWhileANodeIsDown(t *testing.T) {
	l := newLab(t, &pvetest.Server{})
	l.srv.Edit(func(c *pvetest.Cluster) {
		c.AddNode("two")
		c.AddTemplate("two", 9001, "debian")
	})
	down := func(is bool) {
		l.srv.Edit(func(c *pvetest.Cluster) {
			for _, n := range c.Nodes {
				n.Down = is && n.Name == "two"
			}
		})
	}
	p := l.provisioner()
	was, err := p.Recipe(t.Context(), testSpec(1))
	if err != nil {
		t.Fatal(err)
	}
	down(true)
	if got, err := p.Recipe(t.Context(), testSpec(1)); got != was || err != nil {
		t.Errorf("Recipe: %s, %v, not %s", got, err, was)
	}
	p = l.provisioner()                               // which knows of no template yet
	for _, root := range []string{"9001", "debian"} { // the latter names another one as well
		spec := testSpec(1)
		spec.Root = root
		if word, err := p.Recipe(t.Context(), spec); !errors.Is(err, provisioner.ErrUnavailable) {
			t.Errorf("Recipe of %s, of which nobody has read a template: %q, %v", root, word, err)
		}
	}
}

// A daemon that starts while a node says nothing of its machines can't tell what
// of them is a template, and so not what a machine is made of; one that knows
// their names goes on.
func TestRecipeWithANamelessNode(t *testing.T) {
	for name, down := range map[string]bool{"mute": false, "down": true} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, &pvetest.Server{})
			l.srv.Edit(func(c *pvetest.Cluster) {
				c.AddNode("two")
				c.AddTemplate("two", 9001, "debian")
			})
			spec := testSpec(1)
			spec.Root = "debian"
			before := l.provisioner()
			was, err := before.Recipe(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			l.srv.Edit(func(c *pvetest.Cluster) {
				for _, n := range c.Nodes {
					n.Mute, n.Down = n.Name == "two", down && n.Name == "two"
				}
			})
			if got, err := before.Recipe(t.Context(), spec); err != nil || got != was {
				t.Errorf("who knows their names: %s, %v, want %s", got, err, was)
			}
			if got, err := l.provisioner().Recipe(t.Context(), spec); !errors.Is(err, provisioner.ErrUnavailable) {
				t.Errorf("who does not: %s, %v", got, err)
			}
			spec.Root = "9001"
			if _, err := before.Recipe(t.Context(), spec); err != nil {
				t.Errorf("by its number: %v", err)
			}
			spec.Root = "9000"
			if _, err := l.provisioner().Recipe(t.Context(), spec); err != nil {
				t.Errorf("of another node's, by its number: %v", err)
			}
		})
	}
}
