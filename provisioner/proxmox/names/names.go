// Package names says what Proxmox VE allows for the names that people set here
// and that end up in paths of its API and of its permissions. It is asked before
// the first call: a path with a part such as ".." would reach another thing than
// the one meant.
package names

import "regexp"

// Form is what a kind of name looks like.
type Form struct {
	Want string // for people: what is allowed
	expr *regexp.Regexp
}

// Match reports whether a name has the form.
func (f Form) Match(name string) bool { return f.expr.MatchString(name) }

func form(expr, want string) Form { return Form{want, regexp.MustCompile(`^(?:` + expr + `)$`)} }

const (
	label   = `[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?`
	segment = `(?:[A-Za-z0-9_-]|\.[A-Za-z0-9_-]|\.{2}[A-Za-z0-9._-])[A-Za-z0-9._-]*`
	sdn     = `[A-Za-z][A-Za-z0-9]{0,6}[A-Za-z0-9]`
	device  = `[A-Za-z0-9_][A-Za-z0-9._-]{0,14}`
)

// The forms. Where Proxmox would take what is no name for a path, "." and "..",
// they don't.
var (
	// Node is pve-node (PVE/JSONSchema.pm), which is a host name.
	Node = form(label, "the name of a node: at most 63 letters, digits and '-'")
	// Pool is pve-poolid (PVE/AccessControl.pm): up to three levels.
	Pool = form(segment+`(?:/`+segment+`){0,2}`, "the name of a pool: letters, digits, '.', '-' and '_', and up to three levels such as a/b/c")
	// Storage is pve-storage-id (PVE/JSONSchema.pm).
	Storage = form(`[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]`, "the name of a storage: a letter, then letters, digits, '.', '-' and '_', a letter or digit at its end")
	// Bridge is pve-bridge-id (PVE/JSONSchema.pm), and what Linux takes for a device.
	Bridge = form(device, "the name of a bridge such as vmbr0: at most 15 letters, digits, '.', '-' and '_'")
	// Network is a bridge, or a VNet in its zone (PVE/Network/SDN/Zones/Plugin.pm
	// and VnetPlugin.pm); those of nodes are in the zone localnetwork.
	Network = form(`(?:localnetwork/)?`+device+`|`+sdn+`/`+sdn, "the name of a bridge such as vmbr0, or ZONE/VNET, each of 2 to 8 letters and digits")
	// Template is the name of a machine, dns-name (PVE/JSONSchema.pm), or its VMID.
	Template = form(label+`(?:\.`+label+`)*`, "the name or the VMID of a template: letters, digits, '-' and '.'")
)
