package proxmox

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// advise adds to an error what mends it, where Proxmox only says what is missing.
func (p *Provisioner) advise(err error) error {
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
	case e.Kind == pve.Permission && e.Subject.Type == "tag": // Sys.Modify, which it names, would be too much
		advice = fmt.Sprintf("the datacenter does not let the token give the tag %s; agentlab doctor prints the command that does", name)
	case e.Kind == pve.Permission:
		advice = p.lacking(e) + "; agentlab doctor prints the command that grants it"
	default:
		return err
	}
	return fmt.Errorf("%w; %s", err, advice)
}

// lacking says which privilege is missing where it is to be granted, which for
// machines of ours is the pool.
func (p *Provisioner) lacking(e *pve.Error) string {
	if e.Path == "" {
		return "the token or its user lacks a privilege that Proxmox does not name"
	}
	where := e.Path
	if id, err := strconv.Atoi(strings.TrimPrefix(where, "/vms/")); err == nil && p.VMIDs.has(id) {
		where = "/pool/" + p.Pool
	}
	return fmt.Sprintf("the token or its user lacks %s on %s", strings.ReplaceAll(e.Privilege, "|", " or "), where)
}

// unreached is the error of who wants into a guest. That the token may not is
// said as such: trying again does not mend it.
func (p *Provisioner) unreached(err error) error {
	if errors.Is(err, pve.Permission) {
		return fmt.Errorf("%w: %w", p.advise(err), provisioner.ErrUnavailable)
	}
	return fmt.Errorf("%w: %w", err, guest.ErrUnreachable)
}
