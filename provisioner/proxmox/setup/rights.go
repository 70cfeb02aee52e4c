// Package setup gives AgentLab what it needs of a Proxmox VE and no more: a
// pool, roles with the least privileges, a user without a password, a token
// with privilege separation, and grants to both.
//
// What is to be done is decided by comparing what is wanted with what there
// is, so that doing it again changes nothing. [Script] shows the same steps as
// commands, [Setup.Apply] takes them.
package setup

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/names"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// Roles that setup makes.
const (
	PoolRole     = "AgentLabPool"     // on the pool: make, change, use and destroy machines
	TemplateRole = "AgentLabTemplate" // on a template: clone it
	StorageRole  = "AgentLabStorage"  // on a storage of its disks: have disks there
	NetworkRole  = "AgentLabNetwork"  // on a bridge: connect machines to it
	NodeRole     = "AgentLabNode"     // on nodes: see how much memory they have free
)

// Role is a named set of privileges, in alphabetical order.
type Role struct {
	Name  string
	Privs []string
}

// Roles returns the least that the roles must hold on this version, with which
// a machine lives from clone to delete (measured on 8.4.21; on 9.2.11 for the
// guest agent, whose privilege has another name there). VM.Config.Cloudinit
// gives nothing that VM.Config.Network does not (PVE/API2/Qemu.pm), but is the
// one that the options of cloud-init are meant to need.
func Roles(v pve.Version) []Role {
	agent := "VM.Monitor" // gone since 9.0: such a role is refused (measured)
	if v.AtLeast(9, 0) {
		agent = "VM.GuestAgent.Unrestricted" // implies the others of VM.GuestAgent
	}
	pool := []string{
		"Pool.Audit", "VM.Allocate", "VM.Audit", "VM.Config.CPU", "VM.Config.Cloudinit", "VM.Config.Disk", "VM.Config.Memory",
		"VM.Config.Network", "VM.Config.Options", "VM.PowerMgmt", agent,
	}
	slices.Sort(pool)
	return []Role{
		{PoolRole, pool},
		{TemplateRole, []string{"VM.Audit", "VM.Clone"}},
		{StorageRole, []string{"Datastore.AllocateSpace", "Datastore.Audit"}},
		{NetworkRole, []string{"SDN.Use"}},
		{NodeRole, []string{"Sys.Audit"}},
	}
}

// Privileges returns what a role holds on this version.
func Privileges(v pve.Version, role string) []string {
	for _, r := range Roles(v) {
		if r.Name == role {
			return r.Privs
		}
	}
	return nil
}

// Grant is a role on a path.
type Grant struct{ Path, Role string }

// Want is what AgentLab is to be given.
type Want struct {
	Pool      string
	Templates []string // VMIDs or, for [Setup.Apply], names
	Storages  []string // that the disks of the templates are on; Apply adds those it finds
	Bridges   []string // vmbr0, or ZONE/VNET of an SDN; Apply adds those it finds
	Nodes     bool     // memory of nodes is to be seen: in a cluster, machines go where most is free
	User      string   // name@realm
	Token     string   // name of a token of the user
}

// TokenID returns USER!TOKEN.
func (w Want) TokenID() string { return w.User + "!" + w.Token }

var (
	userForm  = regexp.MustCompile(`^[^\s@!=:/]+@[A-Za-z][A-Za-z0-9._-]+$`)
	tokenForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]+$`) // one letter is refused (measured)
)

// Validate says what can't be, each field by the name of its flag. It makes no
// calls.
func (w Want) Validate() error {
	var errs []error
	check := func(ok bool, field, got, want string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s: got %q, want %s", field, got, want))
		}
	}
	check(names.Pool.Match(w.Pool), "pool", w.Pool, names.Pool.Want)
	for _, of := range []struct {
		field  string
		values []string
		form   names.Form
	}{{"template", w.Templates, names.Template}, {"storage", w.Storages, names.Storage}, {"bridge", w.Bridges, names.Network}} {
		for _, v := range of.values {
			check(of.form.Match(v), of.field, v, of.form.Want)
		}
	}
	check(userForm.MatchString(w.User), "user", w.User, "NAME@REALM such as agentlab@pve")
	check(tokenForm.MatchString(w.Token), "token", w.Token, "a letter and at least one more letter, digit, '.', '-' or '_'")
	return errors.Join(errs...)
}

// Grants returns what the user and the token must have. Templates must be VMIDs.
func (w Want) Grants() []Grant {
	grants := []Grant{{"/pool/" + w.Pool, PoolRole}}
	for _, id := range w.Templates {
		grants = append(grants, Grant{"/vms/" + id, TemplateRole})
	}
	for _, s := range w.Storages {
		grants = append(grants, Grant{"/storage/" + s, StorageRole})
	}
	for _, b := range w.Bridges {
		grants = append(grants, Grant{bridgePath(b), NetworkRole})
	}
	if w.Nodes {
		grants = append(grants, Grant{"/nodes", NodeRole})
	}
	return grants
}

// bridgePath: bridges of nodes are in the zone localnetwork (PVE/GuestHelpers.pm
// check_vnet_access).
func bridgePath(bridge string) string {
	if !strings.Contains(bridge, "/") {
		bridge = "localnetwork/" + bridge
	}
	return "/sdn/zones/" + bridge
}

func isID(template string) bool {
	_, err := strconv.Atoi(template)
	return err == nil
}
