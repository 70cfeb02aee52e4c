package pvetest

import (
	"regexp"
	"strconv"
	"strings"
)

// How a directory storage names volumes (pve-storage Storage/Plugin.pm
// parse_volname).
var (
	imageVolume = regexp.MustCompile(`^(?:\d+/[^/\s]+/)?(\d+)/([^/\s]+)$`)
	imageFile   = regexp.MustCompile(`\.(raw|qcow2|vmdk|subvol)$`)
	otherVolume = regexp.MustCompile(`^(iso|vztmpl|import|snippets|backup|rootdir)/[^/]+$`)
)

// volumeType reads the name of a volume: what it holds, and the VM it belongs
// to, 0 if none.
func volumeType(name string) (content string, vmid int, err error) {
	if m := otherVolume.FindStringSubmatch(name); m != nil {
		return m[1], 0, nil
	}
	m := imageVolume.FindStringSubmatch(name)
	switch {
	case m == nil:
		return "", 0, die("unable to parse directory volume name '%s'", name)
	case !imageFile.MatchString(m[2]):
		return "", 0, die("unable to parse volume filename '%s'", m[2])
	}
	vmid, _ = strconv.Atoi(m[1])
	return "images", vmid, nil
}

// volumeAccessible says whether the caller may use a volume for a VM, or look at
// it if vmid is 0; it need not exist (Storage.pm check_volume_access).
func (c *call) volumeAccessible(vmid int, id string) error {
	store, name := cutVolume(id)
	if name == "" {
		if c.who.name != "root@pam" {
			return onlyRootPaths()
		}
		return nil
	}
	if c.s.c.storage(store) == nil {
		return die("storage '%s' does not exist", store)
	}
	content, owner, err := volumeType(name)
	path := "/storage/" + store
	switch {
	case err != nil:
		return err
	case c.allowed(path, "Datastore.Allocate"):
		return nil
	case content == "iso" || content == "vztmpl" || content == "import":
		return c.permitted(path + " Datastore.AllocateSpace|Datastore.Audit")
	case owner == 0:
		return die("missing privileges to access %s", id)
	case owner == vmid:
		return nil
	}
	if err := c.check(path, "Datastore.Audit"); err != nil {
		return err
	}
	return c.check("/vms/"+strconv.Itoa(owner), "VM.Config.Disk")
}

// volume is the one the path names, nil if there is none, and its id. A linked
// clone may be named without its base.
func (c *call) volume() (*Volume, string) {
	id := c.p.str("volume")
	if !strings.Contains(id, ":") {
		id = c.p.str("storage") + ":" + id
	}
	if v := c.s.c.Volumes[id]; v != nil {
		return v, id
	}
	store, name := cutVolume(id)
	for _, v := range c.s.c.Volumes {
		if v.Parent != "" && v.Storage == store && strings.HasSuffix(v.ID, "/"+name) {
			return v, id
		}
	}
	return nil, id
}
