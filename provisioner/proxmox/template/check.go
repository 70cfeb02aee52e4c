package template

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/names"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

var (
	validPackage = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	validSize    = regexp.MustCompile(`^[1-9][0-9]{0,5}[MGT]$`)
)

// Limits of a machine that builds.
const (
	minMemoryMB = 512 // apt needs as much
	maxCores    = 128
	firstVMID   = 9000 // where a free one is looked for
)

// Validate says what of the spec besides the image can't be, each field by the
// name of its flag, and fills in what needs no look at the node. It makes no calls.
func (s *Spec) Validate() error {
	s.Cores, s.MemoryMB, s.Size = cmp.Or(s.Cores, 2), cmp.Or(s.MemoryMB, 2048), cmp.Or(s.Size, "8G")
	var errs []error
	need := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	need(names.Template.Match(s.Name) && len(s.Name) <= 253, "name: got %q, want a DNS name: letters, digits, '-' and '.'", s.Name)
	for _, n := range []struct {
		field, name string
		form        names.Form
	}{{"node", s.Node, names.Node}, {"storage", s.Storage, names.Storage}, {"image-storage", s.ImageStorage, names.Storage}, {"bridge", s.Bridge, names.Bridge}} {
		need(n.name == "" || n.form.Match(n.name), "%s: got %q, want %s", n.field, n.name, n.form.Want)
	}
	for _, p := range s.Packages {
		need(validPackage.MatchString(p), "packages: got %q, want names of Debian packages", p)
	}
	need(s.VMID == 0 || s.VMID >= 100 && s.VMID <= 999999999, "vmid: got %d, want 100 to 999999999", s.VMID)
	need(s.Cores > 0 && s.Cores <= maxCores, "cores: got %d, want 1 to %d", s.Cores, maxCores)
	need(s.MemoryMB >= minMemoryMB, "memory: got %d MB, want at least %d", s.MemoryMB, minMemoryMB)
	need(validSize.MatchString(s.Size), "size: got %q, want a number and M, G or T, such as 8G", s.Size)
	return errors.Join(errs...)
}

// check finds out whether what is wanted can be built, before anything is made.
func (r *build) check(ctx context.Context) (string, error) {
	if err := errors.Join(r.spec.Validate(), r.spec.Image.Validate()); err != nil {
		return "", err
	}
	var err error
	if r.recipe, err = recipeOf(r.spec); err != nil {
		return "", err
	}
	if r.version, err = r.Client.Version(ctx); err != nil {
		return "", err
	}
	if !r.version.AtLeast(8, 4) {
		return "", fmt.Errorf("this is Proxmox VE %v: an image can be had over the API from 8.4 on; upgrade, or make the template by hand as docs/proxmox.md says", r.version)
	}
	if r.spec.Node == "" {
		if r.spec.Node, err = r.Client.LocalNode(ctx); err != nil {
			return "", fmt.Errorf("%w; say which node is to build", err)
		}
	}
	for _, choose := range []func(context.Context) error{r.chooseStorages, r.chooseBridge, r.checkPrivileges} {
		if err := choose(ctx); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("Proxmox VE %v, node %s, disk on %s, image on %s, drive on %s, bridge %s",
		r.version, r.spec.Node, r.disk.Name, r.files.Name, r.isos.Name, r.spec.Bridge), nil
}

// onFiles are the types of storage that keep files, and so may take any content.
// No other takes a download, also if it has images to import as an ESXi has
// (PVE/API2/Storage/Status.pm).
var onFiles = []string{"dir", "nfs", "cifs", "cephfs", "btrfs", "glusterfs"}

func (r *build) chooseStorages(ctx context.Context) error {
	all, err := r.Client.Storages(ctx, r.spec.Node)
	if err != nil {
		return fmt.Errorf("list the storages of node %s: %w", r.spec.Node, err)
	}
	all = slices.DeleteFunc(all, func(s pve.Storage) bool { return !bool(s.Active) || !bool(s.Enabled) })
	slices.SortStableFunc(all, func(a, b pve.Storage) int {
		if links := pve.Linkable(a.Type); links != pve.Linkable(b.Type) {
			return map[bool]int{true: -1, false: 1}[links]
		}
		return cmp.Compare(b.Avail, a.Avail)
	})
	if r.disk, err = r.chooseStorage(all, "images", r.spec.Storage); err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(s pve.Storage) bool { return !slices.Contains(onFiles, s.Type) })
	if r.files, err = r.chooseStorage(all, "import", r.spec.ImageStorage); err != nil {
		return err
	}
	if r.isos = r.files; !r.files.Holds("iso") {
		r.isos, err = r.chooseStorage(all, "iso", "")
	}
	r.spec.Storage, r.spec.ImageStorage = r.disk.Name, r.files.Name
	return err
}

// chooseStorage returns the one of this name, or the first, that takes content.
func (r *build) chooseStorage(all []pve.Storage, content, name string) (pve.Storage, error) {
	var candidate pve.Storage // that could take it
	for _, s := range all {
		if name != "" && s.Name != name {
			continue
		}
		if s.Holds(content) {
			return s, nil
		}
		if candidate.Name == "" && slices.Contains(onFiles, s.Type) {
			candidate = s
		}
	}
	what := "no storage of node " + r.spec.Node
	switch {
	case name != "" && !slices.ContainsFunc(all, func(s pve.Storage) bool { return s.Name == name }):
		return pve.Storage{}, fmt.Errorf("there is no storage %s on node %s that is active, can hold content %s and may be seen by us", name, r.spec.Node, content)
	case name != "":
		what = "storage " + name
	}
	mend := "add a storage for files"
	if candidate.Name != "" {
		mend = fmt.Sprintf("run on a node: pvesm set %s --content %s,%s", candidate.Name, candidate.Content, content)
	}
	return pve.Storage{}, fmt.Errorf("%s takes content %q; %s", withNot(what), content, mend)
}

// withNot makes a sentence about one storage a negative one.
func withNot(what string) string {
	if strings.HasPrefix(what, "no ") {
		return what
	}
	return what + " is not one that"
}

func (r *build) chooseBridge(ctx context.Context) error {
	all, err := r.Client.Bridges(ctx, r.spec.Node)
	if err != nil {
		return fmt.Errorf("list the bridges of node %s: %w", r.spec.Node, err)
	}
	slices.SortFunc(all, func(a, b pve.Bridge) int { return cmp.Compare(a.Name, b.Name) })
	var names []string
	for _, b := range all {
		if b.Name == r.spec.Bridge || r.spec.Bridge == "" && bool(b.Active) {
			r.spec.Bridge = b.Name
			return nil
		}
		names = append(names, b.Name)
	}
	if len(names) == 0 {
		return fmt.Errorf("node %s has no bridge that we may use: the privilege SDN.Use is needed on one", r.spec.Node)
	}
	return fmt.Errorf("node %s has no bridge %q that we may use, but %s", r.spec.Node, r.spec.Bridge, strings.Join(names, ", "))
}

// Grant is what must be allowed on a path.
type Grant struct {
	Path  string
	Privs []string
}

// Grants returns the least that a build needs to be allowed (measured on 8.4).
// pool is empty if no sandbox is to be made.
func Grants(v pve.Version, node, disk, files, isos, bridge, pool string) []Grant {
	agent := "VM.Monitor" // gone since 9.0
	if v.AtLeast(9, 0) {
		agent = "VM.GuestAgent.Unrestricted"
	}
	vm := []string{"VM.Allocate", "VM.Audit", "VM.Clone", "VM.Config.CDROM", "VM.Config.CPU", "VM.Config.Cloudinit", "VM.Config.Disk", "VM.Config.HWType",
		"VM.Config.Memory", "VM.Config.Network", "VM.Config.Options", "VM.PowerMgmt", agent}
	file := []string{"Datastore.Allocate", "Datastore.AllocateTemplate", "Datastore.Audit"}
	grants := []Grant{
		{"/nodes/" + node, []string{"Sys.AccessNetwork"}},
		{"/sdn/zones/localnetwork/" + bridge, []string{"SDN.Use"}},
		{"/storage/" + disk, []string{"Datastore.AllocateSpace", "Datastore.Audit"}},
		{"/storage/" + files, file},
		{"/storage/" + isos, file},
		{"/vms", vm},
	}
	if pool != "" {
		grants = append(grants, Grant{"/pool/" + pool, []string{"Pool.Allocate", "Pool.Audit"}})
	}
	return grants
}

// checkPrivileges says all at once what we may not.
func (r *build) checkPrivileges(ctx context.Context) error {
	pool := r.Pool
	if r.Try == nil {
		pool = ""
	}
	var lacks []string
	for _, g := range Grants(r.version, r.spec.Node, r.disk.Name, r.files.Name, r.isos.Name, r.spec.Bridge, pool) {
		perms, err := r.Client.Permissions(ctx, g.Path)
		if err != nil {
			return fmt.Errorf("look what we may do: %w", err)
		}
		missing := slices.DeleteFunc(slices.Clone(g.Privs), func(p string) bool {
			below, ok := perms[g.Path][p]
			return ok && (g.Path != "/vms" || bool(below))
		})
		lack := strings.Join(missing, ", ") + " on " + g.Path
		if g.Path == "/vms" {
			lack += " and below (propagate)"
		}
		if len(missing) > 0 && !strings.HasPrefix(g.Path, "/sdn/") && !slices.Contains(lacks, lack) { // bridges are listed only if we may use them
			lacks = append(lacks, lack)
		}
	}
	if len(lacks) > 0 {
		return fmt.Errorf("to build a template, privileges are missing: %s; docs/proxmox.md says what a token for it needs, or log in as root@pam", strings.Join(lacks, "; "))
	}
	return nil
}
