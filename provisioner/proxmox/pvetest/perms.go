package pvetest

import (
	"maps"
	"slices"
	"strings"
)

// privileges are all there are before 9.0 (pve-access-control AccessControl.pm).
const privileges8 = `Datastore.Allocate Datastore.AllocateSpace Datastore.AllocateTemplate Datastore.Audit
	Group.Allocate Mapping.Audit Mapping.Modify Mapping.Use Permissions.Modify Pool.Allocate Pool.Audit
	Realm.Allocate Realm.AllocateUser SDN.Allocate SDN.Audit SDN.Use Sys.AccessNetwork Sys.Audit Sys.Console
	Sys.Incoming Sys.Modify Sys.PowerMgmt Sys.Syslog User.Modify VM.Allocate VM.Audit VM.Backup VM.Clone
	VM.Config.CDROM VM.Config.CPU VM.Config.Cloudinit VM.Config.Disk VM.Config.HWType VM.Config.Memory
	VM.Config.Network VM.Config.Options VM.Console VM.Migrate VM.Monitor VM.PowerMgmt VM.Snapshot VM.Snapshot.Rollback`

// Since 9.0 VM.Monitor is gone, and these are there (measured).
const privileges9 = `VM.GuestAgent.Audit VM.GuestAgent.FileRead VM.GuestAgent.FileSystemMgmt
	VM.GuestAgent.FileWrite VM.GuestAgent.Unrestricted VM.Replicate`

// privileges of a release, sorted.
func privileges(release int) []string {
	all := strings.Fields(privileges8)
	if release >= 900 {
		all = slices.DeleteFunc(all, func(p string) bool { return p == "VM.Monitor" })
		all = append(all, strings.Fields(privileges9)...)
	}
	slices.Sort(all)
	return all
}

// builtinRoles have the privileges that were recorded on 8.4.21 and 9.2.11.
func builtinRoles(release int) map[string]*Role {
	all := privileges(release)
	with := func(keep func(p string) bool) *Role {
		return &Role{Special: true, Privs: slices.DeleteFunc(slices.Clone(all), func(p string) bool { return !keep(p) })}
	}
	of := func(names ...string) *Role {
		return with(func(p string) bool { return slices.Contains(names, p) })
	}
	under := func(prefix string) *Role { return with(func(p string) bool { return strings.HasPrefix(p, prefix) }) }
	not := []string{"Mapping.Modify", "Permissions.Modify", "Realm.Allocate", "Sys.AccessNetwork", "Sys.Incoming", "Sys.Modify", "Sys.PowerMgmt"}
	return map[string]*Role{
		"Administrator":     with(func(string) bool { return true }),
		"NoAccess":          of(),
		"PVEAdmin":          with(func(p string) bool { return !slices.Contains(not, p) }),
		"PVEAuditor":        with(func(p string) bool { return strings.HasSuffix(p, ".Audit") }),
		"PVEDatastoreAdmin": under("Datastore."),
		"PVEDatastoreUser":  of("Datastore.AllocateSpace", "Datastore.Audit"),
		"PVEMappingAdmin":   under("Mapping."),
		"PVEMappingUser":    of("Mapping.Audit", "Mapping.Use"),
		"PVEPoolAdmin":      under("Pool."),
		"PVEPoolUser":       of("Pool.Audit"),
		"PVESDNAdmin":       under("SDN."),
		"PVESDNUser":        of("SDN.Audit", "SDN.Use"),
		"PVESysAdmin":       of("Sys.Audit", "Sys.Console", "Sys.Syslog"),
		"PVETemplateUser":   of("VM.Audit", "VM.Clone"),
		"PVEUserAdmin":      of("Group.Allocate", "Realm.AllocateUser", "User.Modify"),
		"PVEVMAdmin":        under("VM."),
		"PVEVMUser": of("VM.Audit", "VM.Backup", "VM.Config.CDROM", "VM.Config.Cloudinit", "VM.Console", "VM.PowerMgmt",
			"VM.GuestAgent.Audit", "VM.GuestAgent.FileRead", "VM.GuestAgent.FileSystemMgmt", "VM.GuestAgent.FileWrite"),
	}
}

// rights are the privileges someone has on a path; the value says whether they
// propagate to what is below.
type rights map[string]bool

// permissions are the effective rights: those of a token with privilege
// separation are what it and its user both have.
func (c *Cluster) permissions(who, path string) rights {
	user, token, isToken := cutToken(who)
	if isToken && c.Tokens[who] == nil {
		return rights{}
	}
	own := c.userRights(user, path)
	if token == "" || !c.Tokens[who].PrivSep {
		return own
	}
	mine := c.userRights(who, path)
	maps.DeleteFunc(mine, func(p string, _ bool) bool { _, ok := own[p]; return !ok })
	return mine
}

// userRights are those ACLs give, and for a VM those on its pool.
func (c *Cluster) userRights(who, path string) rights {
	if who == "root@pam" {
		all := rights{}
		for _, p := range c.Roles["Administrator"].Privs {
			all[p] = true
		}
		return all
	}
	out := c.aclRights(who, path)
	if pool := c.poolOfPath(path); pool != "" {
		for p := range c.aclRights(who, "/pool/"+pool) {
			if _, ok := out[p]; !ok {
				out[p] = false
			}
		}
	}
	return out
}

// aclRights: the entries on the longest path win over those above it.
func (c *Cluster) aclRights(who, path string) rights {
	best, out := "", rights{}
	for _, a := range c.ACL {
		exact := a.Path == path
		if a.Who != who || !exact && (!a.Propagate || !below(path, a.Path)) || len(a.Path) < len(best) {
			continue
		}
		if len(a.Path) > len(best) {
			best, out = a.Path, rights{}
		}
		role := c.Roles[a.Role]
		if role == nil {
			continue
		}
		if a.Role == "NoAccess" {
			return rights{}
		}
		for _, p := range role.Privs {
			out[p] = out[p] || a.Propagate
		}
	}
	return out
}

func below(path, root string) bool {
	return root == "/" || strings.HasPrefix(path, root+"/")
}

// poolOfPath is the pool of the VM that an ACL path names.
func (c *Cluster) poolOfPath(path string) string {
	id, ok := strings.CutPrefix(path, "/vms/")
	if !ok {
		return ""
	}
	return c.poolOf(params{"id": id}.num("id"))
}

// allowed says whether who has any of the privileges on path.
func (c *call) allowed(path string, anyOf ...string) bool {
	have := c.s.c.permissions(c.who.name, path)
	return slices.ContainsFunc(anyOf, func(p string) bool { _, ok := have[p]; return ok })
}

// check is PVE::RPCEnvironment::check: the 403 names path and privileges.
func (c *call) check(path, priv string) error {
	if c.allowed(path, priv) {
		return nil
	}
	return denied(path + ", " + priv)
}

func denied(what string) *apiError {
	msg := "Permission check failed"
	if what != "" {
		msg += " (" + what + ")"
	}
	return &apiError{status: 403, message: msg}
}

// permitted checks "PATH PRIV|PRIV": any of them is enough. A "&" between
// several such means all. "!name" is a rule of permissionRules.
func (c *call) permitted(rule string) error {
	if name, ok := strings.CutPrefix(rule, "!"); ok {
		return permissionRule(c, name)
	}
	if rule == "" {
		return nil
	}
	path, privs, _ := strings.Cut(rule, " ")
	path = c.fill(path)
	if pool, ok := strings.CutPrefix(path, "/pool/"); ok && checkFormat("poolid", "", pool) != "" {
		return denied(", " + privs) // a path that is none has no rights, and no name (measured)
	}
	if c.allowed(path, strings.Split(privs, "|")...) {
		return nil
	}
	return denied(path + ", " + privs)
}

// fill puts parameters in the place of {name}.
func (c *call) fill(path string) string {
	for seg := range strings.SplitSeq(path, "/") {
		if name, ok := pathParam(seg); ok {
			path = strings.ReplaceAll(path, seg, c.p.str(name))
		}
	}
	return path
}

// permissionRule is for calls whose permission is no single check.
func permissionRule(c *call, name string) error {
	switch name {
	case "clone": // Qemu.pm clone_vm: the or has no path to name
		if err := c.permitted("/vms/{vmid} VM.Clone"); err != nil {
			return err
		}
		if c.allowed("/vms/"+c.p.str("newid"), "VM.Allocate") || c.p.has("pool") && c.allowed("/pool/"+c.p.str("pool"), "VM.Allocate") {
			return nil
		}
		return denied("")
	case "acl":
		return c.permitted("{path} Permissions.Modify")
	case "token": // of oneself, or with User.Modify
		if c.who.user() == c.p.str("userid") || c.allowed("/access/groups", "User.Modify") {
			return nil
		}
		return denied("/access/groups, User.Modify")
	case "network": // download-url and query-url-metadata
		if c.p.has("filename") {
			if err := c.permitted("/storage/{storage} Datastore.AllocateTemplate"); err != nil {
				return err
			}
		}
		if c.allowed("/", "Sys.Audit") && c.allowed("/", "Sys.Modify") || c.allowed("/nodes/"+c.p.str("node"), "Sys.AccessNetwork") {
			return nil
		}
		return denied("")
	}
	return denied("unknown rule " + name)
}
