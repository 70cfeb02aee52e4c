package setup

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// Setup makes what is wanted over the API. All fields but Secret and Report are
// required.
type Setup struct {
	// Client is that of root@pam by ticket, or of whoever may change users,
	// roles, pools and permissions.
	Client *pve.Client
	Want   Want
	// Secret is the file that gets a new token as USER@REALM!NAME=SECRET. It is
	// made, for its owner only, and never overwritten. It may be empty if there
	// is a token already.
	Secret string
	// Report is told each change when it is made.
	Report func(change string)
}

// Apply makes what is missing, and returns whether anything was. A second call
// changes nothing. When a step fails, the error says what was not done; those
// before it stay done, and a repeat goes on from there.
func (s *Setup) Apply(ctx context.Context) (changed bool, err error) {
	if err := s.Want.Validate(); err != nil {
		return false, err
	}
	v, err := s.Client.Version(ctx)
	if err != nil {
		return false, err
	}
	if !v.AtLeast(8, 2) {
		return false, fmt.Errorf("this Proxmox VE is %v: upgrade to 8.2 or later", v)
	}
	if err := s.checkNames(ctx); err != nil {
		return false, err
	}
	want, err := s.resolve(ctx)
	if err != nil {
		return false, err
	}
	have, err := s.look(ctx, want)
	if err != nil {
		return false, err
	}
	secret, err := openSecret(s.Secret, want.TokenID(), have.Token)
	if err != nil {
		return false, err
	}
	defer secret.close()
	steps := Plan(v, want, have)
	for i, step := range steps {
		if err := s.take(ctx, step, want, secret); err != nil {
			return i > 0, fmt.Errorf("%s: %w%s", step.Name, err, notDone(steps[i+1:]))
		}
		if s.Report != nil {
			s.Report(step.Name)
		}
	}
	return len(steps) > 0, nil
}

func notDone(rest []Step) string {
	if len(rest) == 0 {
		return ""
	}
	names := make([]string, len(rest))
	for i, s := range rest {
		names[i] = s.Name
	}
	return "; not done: " + strings.Join(names, ", ")
}

// take takes one step. A token whose secret can't be kept is of no use to
// anybody, and is removed again.
func (s *Setup) take(ctx context.Context, step Step, want Want, secret *secretFile) error {
	value, err := step.call(ctx, s.Client)
	if err != nil || !step.token {
		return err
	}
	if err := secret.write(value); err != nil {
		if derr := s.Client.DeleteToken(context.WithoutCancel(ctx), want.User, want.Token); derr != nil {
			return fmt.Errorf("%w; it could not be removed again: %w", err, derr)
		}
		return fmt.Errorf("%w; the token was removed again", err)
	}
	return nil
}

// checkNames looks whether there is what is named: Proxmox takes grants on what
// does not exist.
func (s *Setup) checkNames(ctx context.Context) error {
	storages, err := s.names(ctx, "storage")
	if err != nil {
		return err
	}
	errs := unknown("storage", s.Want.Storages, storages)
	if len(s.Want.Bridges) > 0 {
		bridges, err := s.names(ctx, "node")
		if err != nil {
			return err
		}
		var wanted []string
		for _, b := range s.Want.Bridges {
			wanted = append(wanted, path.Base(b))
		}
		errs = append(errs, unknown("bridge", wanted, bridges)...)
	}
	return errors.Join(errs...)
}

// names are those of the storages that there are or, for kind node, of the
// bridges that nodes have which can be asked.
func (s *Setup) names(ctx context.Context, kind string) ([]string, error) {
	list, err := s.Client.Resources(ctx, kind)
	if err != nil {
		return nil, fmt.Errorf("look what there is of kind %s: %w", kind, err)
	}
	var names []string
	for _, r := range list {
		switch {
		case r.Type == "storage":
			names = append(names, r.Storage)
		case r.Status == "online":
			bridges, err := s.Client.Bridges(ctx, r.Node)
			if err != nil {
				return nil, fmt.Errorf("list the bridges of node %s: %w", r.Node, err)
			}
			for _, b := range bridges {
				names = append(names, b.Name)
			}
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(names))), nil
}

func unknown(field string, wanted, there []string) (errs []error) {
	for _, name := range wanted {
		if !slices.Contains(there, name) {
			errs = append(errs, fmt.Errorf("%s: there is no %q, but %s", field, name, strings.Join(there, ", ")))
		}
	}
	return errs
}

// resolve replaces the names of templates by their VMIDs, and adds the storages
// and bridges that their clones need.
func (s *Setup) resolve(ctx context.Context) (Want, error) {
	want := s.Want
	want.Templates, want.Storages, want.Bridges = nil, slices.Clone(want.Storages), slices.Clone(want.Bridges)
	vms, err := s.Client.Resources(ctx, "vm")
	if err != nil {
		return want, fmt.Errorf("look for templates: %w", err)
	}
	for _, t := range s.Want.Templates {
		found := slices.DeleteFunc(slices.Clone(vms), func(r pve.Resource) bool {
			return r.Type != "qemu" || string(r.Name) != t && strconv.Itoa(int(r.VMID)) != t
		})
		if len(found) == 0 {
			return want, fmt.Errorf("template: there is no machine %q; docs/proxmox.md says how to make one", t)
		}
		for _, r := range found {
			if !r.Template { // the token could clone, and so read, somebody's machine
				return want, fmt.Errorf("template: %s is an ordinary machine; if it is meant, run on a node: pvesh create /nodes/%s/qemu/%d/template", r.VM(), r.Node, r.VMID)
			}
			want.Templates = append(want.Templates, strconv.Itoa(int(r.VMID)))
			cfg, err := s.Client.Config(ctx, r.VM())
			if err != nil {
				return want, fmt.Errorf("read template %s: %w", r.VM(), err)
			}
			want.needs(cfg)
		}
	}
	for _, list := range []*[]string{&want.Templates, &want.Storages, &want.Bridges} {
		*list = slices.Compact(slices.Sorted(slices.Values(*list)))
	}
	return want, nil
}

// needs adds what clones of a machine with this config are on and connected to.
func (w *Want) needs(cfg pve.Config) {
	for _, option := range cfg.Drives() {
		props := pve.ParseProperties(cfg[option])
		storage, volume, ok := strings.Cut(props.First(), ":")
		image := props.Get("media") == "cdrom" && !strings.Contains(volume, "cloudinit") // clones share it
		if ok && !image && !strings.HasPrefix(option, "unused") {
			w.Storages = append(w.Storages, storage)
		}
	}
	for option, value := range cfg {
		bridge := pve.ParseProperties(value).Get("bridge")
		known := slices.ContainsFunc(w.Bridges, func(b string) bool { return b == bridge || strings.HasSuffix(b, "/"+bridge) })
		if strings.HasPrefix(option, "net") && bridge != "" && !known {
			w.Bridges = append(w.Bridges, bridge)
		}
	}
}

// look finds out what there is of what is wanted.
func (s *Setup) look(ctx context.Context, want Want) (Have, error) {
	var have Have
	var err error
	if have.Roles, err = s.Client.Roles(ctx); err != nil {
		return have, err
	}
	if have.ACLs, err = s.Client.ACLs(ctx); err != nil {
		return have, err
	}
	if err := s.lookForPool(ctx, want, &have); err != nil {
		return have, err
	}
	users, err := s.Client.Users(ctx)
	if err != nil {
		return have, err
	}
	i := slices.IndexFunc(users, func(u pve.User) bool { return u.ID == want.User })
	if have.User = i >= 0; !have.User {
		return have, nil
	}
	if !users[i].Enable {
		return have, fmt.Errorf("user %s is disabled; run on a node: pvesh set /access/users/%s --enable 1", want.User, want.User)
	}
	tokens, err := s.Client.Tokens(ctx, want.User)
	if err != nil {
		return have, err
	}
	for _, t := range tokens {
		if t.Name == want.Token {
			have.Token = true
			if !t.Privsep {
				return have, fmt.Errorf("token %s has no privilege separation, so that it may do all that its user may; run on a node: pvesh set /access/users/%s/token/%s --privsep 1",
					want.TokenID(), want.User, want.Token)
			}
		}
	}
	return have, nil
}

// lookForPool refuses a pool of others: whoever has our role on it may destroy
// what is in it.
func (s *Setup) lookForPool(ctx context.Context, want Want, have *Have) error {
	pool, err := s.Client.Pool(ctx, want.Pool)
	if errors.Is(err, pve.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	have.Pool = true
	ours := holds(have.ACLs, Grant{"/pool/" + want.Pool, PoolRole}, "user", want.User)
	if len(pool.Members) > 0 && !ours {
		return fmt.Errorf("pool %s has members already (%s), which the token could then destroy: choose another pool, or empty this one",
			want.Pool, pool.Members[0].ID)
	}
	return nil
}
