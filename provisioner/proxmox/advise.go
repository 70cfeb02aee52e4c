package proxmox

import (
	"errors"
	"fmt"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// advise adds to the error of a Create what mends it, where Proxmox only says
// what is missing.
func advise(err error) error {
	var e *pve.Error
	if !errors.As(err, &e) {
		return err
	}
	advice := ""
	switch name := e.Subject.Name; {
	case e.Kind == pve.NotFound && e.Subject.Type == "storage":
		advice = fmt.Sprintf("make the storage %s, or name another as storage in the profile", name)
	case e.Kind == pve.NotFound && e.Subject.Type == "bridge":
		advice = fmt.Sprintf("make the bridge %s on the node, or set proxmox_bridge to one that is there", name)
	case e.Kind == pve.NotFound && e.Subject.Type == "pool":
		advice = fmt.Sprintf("run agentlab proxmox setup, or on a node: pvesh create /pools --poolid %s", name)
	case e.Kind == pve.NotFound && e.Subject.Type == "volume" && strings.Contains(name, ":snippets/"):
		advice = fmt.Sprintf("the template's cicustom names %s: put that file there on each node, or run on a node: qm set TEMPLATE --delete cicustom", name)
	case e.Kind == pve.NotFound && e.Subject.Type == "volume":
		advice = fmt.Sprintf("a drive of the template is %s: bring it back, or take it out of the template", name)
	case e.Kind == pve.StorageAway:
		advice = fmt.Sprintf("bring the storage %s back, or use a template that is on another", name)
	case e.Kind == pve.Permission && strings.Contains(e.Message, "for modifying tag"): // not the right that it names, which is all of the datacenter's
		advice = "the datacenter does not let the token give machines these tags: agentlab doctor --create shows the command that does"
	case e.Kind == pve.Permission && e.Path != "":
		advice = fmt.Sprintf("give the token %s on %s (agentlab proxmox setup prints how)", e.Privilege, e.Path)
	default:
		return err
	}
	return fmt.Errorf("%w; %s", err, advice)
}
