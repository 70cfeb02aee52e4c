package pve

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/agentlab-mcp/agentlab/internal/redact"
)

// Permissions are privileges by path. The value says whether the privilege
// holds below the path as well.
type Permissions map[string]map[string]Bool

// Permissions returns what the caller may do in effect: of a token with
// privilege separation, the intersection with its user's. path "" is everywhere.
func (c *Client) Permissions(ctx context.Context, path string) (Permissions, error) {
	var p Permissions
	err := c.call(ctx, getPermissions, nil, fields("path", path), &p)
	return p, err
}

// Role is a named set of privileges.
type Role struct {
	ID    string `json:"roleid"`
	Privs string `json:"privs"` // separated by commas
}

// Roles lists all roles.
func (c *Client) Roles(ctx context.Context) ([]Role, error) {
	var list []Role
	err := c.call(ctx, getRoles, nil, nil, &list)
	return list, err
}

// CreateRole makes a role. A privilege that this version does not know is a
// Parameter error.
func (c *Client) CreateRole(ctx context.Context, id string, privs []string) error {
	return c.call(ctx, postRoles, nil, fields("roleid", id, "privs", strings.Join(privs, ",")), nil)
}

// SetRole replaces the privileges of a role.
func (c *Client) SetRole(ctx context.Context, id string, privs []string) error {
	return c.call(ctx, putRole, []any{id}, fields("privs", strings.Join(privs, ",")), nil)
}

// User is an account.
type User struct {
	ID     string `json:"userid"` // name@realm
	Enable Bool   `json:"enable"`
	Expire Int    `json:"expire"` // Unix seconds; 0 is never
}

// UnmarshalJSON implements json.Unmarshaler: what is not said is so, in the
// schema of PVE.
func (u *User) UnmarshalJSON(b []byte) error {
	type plain User
	p := plain{Enable: true}
	err := json.Unmarshal(b, &p)
	*u = User(p)
	return err
}

// Users lists the accounts that the caller may see.
func (c *Client) Users(ctx context.Context) ([]User, error) {
	var list []User
	err := c.call(ctx, getUsers, nil, nil, &list)
	return list, err
}

// CreateUser makes an account without a password: it can only have tokens.
func (c *Client) CreateUser(ctx context.Context, id, comment string) error {
	return c.call(ctx, postUsers, nil, fields("userid", id, "comment", comment), nil)
}

// Token is an API token, without its secret.
type Token struct {
	Name    string `json:"tokenid"`
	Privsep Bool   `json:"privsep"` // has only the privileges given to the token itself
	Expire  Int    `json:"expire"`  // Unix seconds; 0 is never
	Comment Text   `json:"comment"`
}

// UnmarshalJSON implements json.Unmarshaler, as that of [User].
func (t *Token) UnmarshalJSON(b []byte) error {
	type plain Token
	p := plain{Privsep: true}
	err := json.Unmarshal(b, &p)
	*t = Token(p)
	return err
}

// Tokens lists the tokens of a user.
func (c *Client) Tokens(ctx context.Context, user string) ([]Token, error) {
	var list []Token
	err := c.call(ctx, getTokens, []any{user}, nil, &list)
	return list, err
}

// CreateToken makes a token with privilege separation and returns it as
// [HTTPS] takes it. The secret can't be had again. Names have 2 characters at
// least.
func (c *Client) CreateToken(ctx context.Context, user, name, comment string) (redact.String, error) {
	var t struct {
		Value string
		ID    string `json:"full-tokenid"`
	}
	params := fields("privsep", "1", "comment", comment)
	if err := c.call(ctx, postToken, []any{user, name}, params, &t); err != nil {
		return "", err
	}
	return redact.String(t.ID + "=" + t.Value), nil
}

// DeleteToken removes a token at once.
func (c *Client) DeleteToken(ctx context.Context, user, name string) error {
	return c.call(ctx, deleteToken, []any{user, name}, nil, nil)
}

// ACL is one grant.
type ACL struct {
	Path      string `json:"path"`
	Role      string `json:"roleid"`
	Type      string `json:"type"` // user, group or token
	Holder    string `json:"ugid"`
	Propagate Bool   `json:"propagate"`
}

// UnmarshalJSON implements json.Unmarshaler, as that of [User].
func (a *ACL) UnmarshalJSON(b []byte) error {
	type plain ACL
	p := plain{Propagate: true}
	err := json.Unmarshal(b, &p)
	*a = ACL(p)
	return err
}

// ACLs lists the grants that the caller may see.
func (c *Client) ACLs(ctx context.Context) ([]ACL, error) {
	var list []ACL
	err := c.call(ctx, getACL, nil, nil, &list)
	return list, err
}

// Grant gives a role on a path and below to a user and his token. Both need
// it: what a token may do is the intersection.
func (c *Client) Grant(ctx context.Context, path, role, user, token string) error {
	full := ""
	if token != "" {
		full = user + "!" + token
	}
	return c.call(ctx, putACL, nil, fields("path", path, "roles", role, "users", user, "tokens", full, "propagate", "1"), nil)
}
