package pvetest

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func accessRoutes() []*route {
	const tokenPath = "/access/users/{userid}/token/{tokenid}"
	const tokenParams = "comment expire=int,min=0 privsep=bool"
	return []*route{
		{method: "POST", path: "/access/ticket", call: login, daemon: true,
			params: "username!=string,len=64 password! realm=string,len=32 new-format=bool otp path=string,len=64,needs=privs privs=priv-list,len=64,needs=path tfa-challenge"},
		{method: "GET", path: "/access/ticket", call: func(*call) (any, error) { return nil, nil }}, // for login pages
		{method: "GET", path: "/access/users", call: listUsers, daemon: true, params: "enabled=bool full=bool"},
		{method: "POST", path: "/access/users", call: addUser, daemon: true, perm: "/access/groups User.Modify",
			params: "userid!=userid,len=64 comment=string,len=2048 email=email-opt,len=254 enable=bool expire=int,min=0 firstname=string,len=1024" +
				" groups=groupid-list keys lastname=string,len=1024 password=string,len=64,least=8"},
		{method: "DELETE", path: "/access/users/{userid}", call: deleteUser, daemon: true, perm: "/access/groups User.Modify"},
		{method: "GET", path: "/access/users/{userid}/token", call: listTokens, perm: "!token"},
		{method: "GET", path: tokenPath, call: getToken, perm: "!token"},
		{method: "POST", path: tokenPath, call: addToken, daemon: true, perm: "!token", params: tokenParams},
		{method: "PUT", path: tokenPath, call: editToken, daemon: true, perm: "!token", params: tokenParams, params9: "delete=configid-list regenerate=bool"},
		{method: "DELETE", path: tokenPath, call: deleteToken, daemon: true, perm: "!token"},
		{method: "GET", path: "/access/roles", call: listRoles},
		{method: "POST", path: "/access/roles", call: addRole, daemon: true, perm: "/access Sys.Modify", params: "roleid!=roleid privs=priv-list"},
		{method: "PUT", path: "/access/roles/{roleid}", call: editRole, daemon: true, perm: "/access Sys.Modify", params: "privs=priv-list append=bool,needs=privs"},
		{method: "DELETE", path: "/access/roles/{roleid}", call: deleteRole, daemon: true, perm: "/access Sys.Modify"},
		{method: "GET", path: "/access/acl", call: listACL},
		{method: "PUT", path: "/access/acl", call: editACL, daemon: true, perm: "!acl",
			params: "path! roles!=roleid-list users=userid-list tokens=tokenid-list groups=groupid-list propagate=bool delete=bool"},
		{method: "GET", path: "/access/permissions", call: getPermissions, params: "path userid"},
	}
}

func listUsers(c *call) (any, error) {
	out := []map[string]any{}
	for _, id := range slices.Sorted(maps.Keys(c.s.c.Users)) {
		if id != c.who.name && !c.allowed("/access/groups", "User.Modify", "Sys.Audit") {
			continue
		}
		u := c.s.c.Users[id]
		e := map[string]any{"userid": id, "enable": number(!u.Disabled), "expire": u.Expire, "realm-type": "pve"}
		if u.Comment != "" {
			e["comment"] = u.Comment
		}
		out = append(out, e)
	}
	return out, nil
}

func addUser(c *call) (any, error) {
	id := c.p.str("userid")
	if c.s.c.Users[id] != nil {
		return nil, die("create user failed: user '%s' already exists", id)
	}
	c.s.c.Users[id] = &User{
		Password: c.p.str("password"), Comment: c.p.str("comment"), Expire: int64(c.p.num("expire")),
		Disabled: c.p.has("enable") && !c.p.flag("enable"),
	}
	return nil, nil
}

func deleteUser(c *call) (any, error) {
	id := c.p.str("userid")
	if c.s.c.Users[id] == nil {
		return nil, die("delete user failed: user '%s' does not exist", id)
	}
	delete(c.s.c.Users, id)
	gone := func(who string) bool { user, _, _ := cutToken(who); return user == id }
	maps.DeleteFunc(c.s.c.Tokens, func(t string, _ *Token) bool { return gone(t) })
	c.s.c.ACL = slices.DeleteFunc(c.s.c.ACL, func(a ACL) bool { return gone(a.Who) })
	return nil, nil
}

func (c *call) tokenID() string { return c.p.str("userid") + "!" + c.p.str("tokenid") }

func (t *Token) info() map[string]any {
	out := map[string]any{"privsep": number(t.PrivSep), "expire": t.Expire}
	if t.Comment != "" {
		out["comment"] = t.Comment
	}
	return out
}

func listTokens(c *call) (any, error) {
	out := []map[string]any{}
	for _, id := range slices.Sorted(maps.Keys(c.s.c.Tokens)) {
		if user, name, _ := cutToken(id); user == c.p.str("userid") {
			e := c.s.c.Tokens[id].info()
			e["tokenid"] = name
			out = append(out, e)
		}
	}
	return out, nil
}

func getToken(c *call) (any, error) {
	t := c.s.c.Tokens[c.tokenID()]
	if t == nil {
		return nil, badParam("tokenid", "no such token '%s' for user '%s'", c.p.str("tokenid"), c.p.str("userid"))
	}
	return t.info(), nil
}

func addToken(c *call) (any, error) {
	id := c.tokenID()
	if c.s.c.Users[c.p.str("userid")] == nil {
		return nil, die("no such user ('%s')", c.p.str("userid"))
	}
	if c.s.c.Tokens[id] != nil {
		return nil, badParam("tokenid", "Token already exists.")
	}
	t := &Token{
		Secret: newUUID(), PrivSep: !c.p.has("privsep") || c.p.flag("privsep"), Comment: c.p.str("comment"), Expire: int64(c.p.num("expire")),
	}
	c.s.c.Tokens[id] = t
	info := map[string]any{"privsep": strconv.Itoa(number(t.PrivSep))}
	for _, k := range []string{"comment", "expire"} {
		if c.p.has(k) {
			info[k] = c.p[k]
		}
	}
	return map[string]any{"full-tokenid": id, "value": t.Secret, "info": info}, nil
}

func editToken(c *call) (any, error) {
	t := c.s.c.Tokens[c.tokenID()]
	if t == nil {
		return nil, badParam("tokenid", "no such token '%s' for user '%s'", c.p.str("tokenid"), c.p.str("userid"))
	}
	if c.p.has("comment") {
		t.Comment = c.p.str("comment")
	}
	if c.p.has("expire") {
		t.Expire = int64(c.p.num("expire"))
	}
	if c.p.has("privsep") {
		t.PrivSep = c.p.flag("privsep")
	}
	out := t.info()
	if c.p.flag("regenerate") {
		t.Secret = newUUID()
		out["value"], out["full-tokenid"] = t.Secret, c.tokenID()
	}
	return out, nil
}

func deleteToken(c *call) (any, error) {
	id := c.tokenID()
	if c.s.c.Tokens[id] == nil {
		return nil, badParam("tokenid", "no such token '%s' for user '%s'", c.p.str("tokenid"), c.p.str("userid"))
	}
	delete(c.s.c.Tokens, id)
	c.s.c.ACL = slices.DeleteFunc(c.s.c.ACL, func(a ACL) bool { return a.Who == id })
	return nil, nil
}

func listRoles(c *call) (any, error) {
	out := []map[string]any{}
	for id, r := range c.s.c.Roles {
		privs := slices.Sorted(slices.Values(r.Privs))
		out = append(out, map[string]any{"roleid": id, "privs": strings.Join(privs, ","), "special": number(r.Special)})
	}
	return out, nil
}

// privs reads and checks the list of privileges of a role.
func (c *call) privs() ([]string, error) {
	known := privileges(c.s.release())
	list := c.p.list("privs")
	for _, p := range list {
		if !slices.Contains(known, p) {
			return nil, badParam("privs", "invalid format - invalid privilege '%s'\n", p)
		}
	}
	return list, nil
}

func addRole(c *call) (any, error) {
	id := c.p.str("roleid")
	privs, err := c.privs()
	if err != nil {
		return nil, err
	}
	if c.s.c.Roles[id] != nil {
		return nil, die("create role failed: role '%s' already exists", id)
	}
	c.s.c.Roles[id] = &Role{Privs: privs}
	return nil, nil
}

func editRole(c *call) (any, error) {
	id := c.p.str("roleid")
	privs, err := c.privs()
	if err != nil {
		return nil, err
	}
	r := c.s.c.Roles[id]
	switch {
	case r == nil:
		return nil, die("role '%s' does not exist", id)
	case r.Special:
		return nil, die("auto-generated role '%s' cannot be modified", id)
	case c.p.flag("append"):
		privs = append(slices.Clone(r.Privs), privs...)
	}
	r.Privs = slices.Compact(slices.Sorted(slices.Values(privs)))
	return nil, nil
}

func deleteRole(c *call) (any, error) {
	id := c.p.str("roleid")
	r := c.s.c.Roles[id]
	switch {
	case r == nil:
		return nil, die("role '%s' does not exist", id)
	case r.Special:
		return nil, die("auto-generated role '%s' can not be deleted", id)
	}
	delete(c.s.c.Roles, id)
	c.s.c.ACL = slices.DeleteFunc(c.s.c.ACL, func(a ACL) bool { return a.Role == id })
	return nil, nil
}

func listACL(c *call) (any, error) {
	out := []map[string]any{}
	for _, a := range c.s.c.ACL {
		if !c.allowed("/access", "Sys.Audit") && !c.allowed(a.Path, "Permissions.Modify") {
			continue
		}
		_, _, isToken := cutToken(a.Who)
		typ := "user"
		if isToken {
			typ = "token"
		}
		out = append(out, map[string]any{"path": a.Path, "roleid": a.Role, "type": typ, "ugid": a.Who, "propagate": number(a.Propagate)})
	}
	return out, nil
}

var aclPath = regexp.MustCompile(`^/(access|mapping|nodes|pool|sdn|storage|vms)?(/.*)?$`)

func editACL(c *call) (any, error) {
	path := "/" + strings.Trim(c.p.str("path"), "/")
	if !aclPath.MatchString(path) {
		return nil, badParam("path", "invalid ACL path '%s'", path)
	}
	whos := append(c.p.list("users"), c.p.list("tokens")...)
	if len(whos) == 0 {
		return nil, badParam("users", "missing 'users', 'groups' or 'tokens' parameter")
	}
	for _, role := range c.p.list("roles") {
		if c.s.c.Roles[role] == nil {
			return nil, die("ACL update failed: role '%s' does not exist", role)
		}
		for _, who := range whos {
			_, _, isToken := cutToken(who)
			if isToken && c.s.c.Tokens[who] == nil {
				return nil, die("ACL update failed: no such token '%s'", who)
			}
			if !isToken && c.s.c.Users[who] == nil {
				return nil, die("ACL update failed: no such user ('%s')", who)
			}
			c.s.c.ACL = slices.DeleteFunc(c.s.c.ACL, func(a ACL) bool { return a.Path == path && a.Role == role && a.Who == who })
			if !c.p.flag("delete") {
				c.s.c.ACL = append(c.s.c.ACL, ACL{path, role, who, !c.p.has("propagate") || c.p.flag("propagate")})
			}
		}
	}
	return nil, nil
}

// getPermissions lists every path on which something is allowed.
func getPermissions(c *call) (any, error) {
	who := c.who.name
	if id := c.p.str("userid"); id != "" && id != who {
		if err := c.check("/access", "Sys.Audit"); err != nil {
			return nil, err
		}
		who = id
	}
	paths := []string{c.p.str("path")}
	if paths[0] == "" {
		paths = []string{"/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms"}
		for _, a := range c.s.c.ACL {
			paths = append(paths, a.Path)
			if pool := c.s.c.Pools[strings.TrimPrefix(a.Path, "/pool/")]; pool != nil {
				for id := range pool.VMs {
					paths = append(paths, "/vms/"+strconv.Itoa(id))
				}
			}
		}
	}
	out := map[string]any{}
	for _, path := range paths {
		have := map[string]int{}
		for p, propagate := range c.s.c.permissions(who, path) {
			have[p] = number(propagate)
		}
		if len(have) > 0 {
			out[path] = have
		}
	}
	return out, nil
}

// number is how PVE says true and false.
func number(b bool) int {
	if b {
		return 1
	}
	return 0
}
