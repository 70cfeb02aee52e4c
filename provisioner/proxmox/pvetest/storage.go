package pvetest

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

func storageRoutes() []*route {
	const one = "/nodes/{node}/storage/{storage}"
	const seen = "/storage/{storage} Datastore.Audit|Datastore.AllocateSpace"
	return []*route{
		{method: "GET", path: "/nodes/{node}/storage", call: listStorages, daemon: true,
			params: "content=content-list enabled=bool format=bool storage=storage-id target=node"},
		{method: "PUT", path: "/storage/{storage}", call: editStorage, daemon: true, perm: "/storage Datastore.Allocate", params: "content=content-list nodes disable=bool delete=configid-list digest=string,len=64"},
		{method: "GET", path: one + "/status", call: storageStatus, daemon: true, perm: seen},
		{method: "GET", path: one + "/content", call: listVolumes, daemon: true, perm: seen, params: "content vmid=vmid"},
		{method: "POST", path: one + "/content", call: addVolume, daemon: true, perm: "/storage/{storage} Datastore.AllocateSpace",
			params: `vmid!=vmid filename! size!=re:\d+[MG]? format=enum:raw/qcow2/subvol/vmdk,needs=size`},
		{method: "GET", path: one + "/content/{volume}", call: getVolume, daemon: true},
		{method: "DELETE", path: one + "/content/{volume}", call: deleteVolume, daemon: true, params: "delay=int,min=1,max=30"},
		{method: "POST", path: one + "/upload", call: uploadFile, daemon: true, perm: "/storage/{storage} Datastore.AllocateTemplate",
			params: "content!=enum:iso/vztmpl/import filename!=string,len=255 checksum=string,needs=checksum-algorithm" +
				` checksum-algorithm=enum:md5/sha1/sha224/sha256/sha384/sha512,needs=checksum tmpfilename=re:/var/tmp/pveupload-[0-9a-f]+`},
		{method: "GET", path: "/nodes/{node}/query-url-metadata", call: urlMetadata, perm: "!network", params: "url!=re:https?://.* verify-certificates=bool"},
		{method: "POST", path: one + "/download-url", call: downloadURL, daemon: true, perm: "!network",
			params: `url!=re:https?://.* content!=enum:iso/vztmpl/import filename!=string,len=255 checksum=string,needs=checksum-algorithm` +
				" checksum-algorithm=enum:md5/sha1/sha224/sha256/sha384/sha512,needs=checksum compression=string verify-certificates=bool"},
	}
}

func (st *Storage) on(node string) bool { return len(st.Nodes) == 0 || slices.Contains(st.Nodes, node) }

// activate is PVE/Storage.pm activate_storage.
func (st *Storage) activate() error {
	if st.Away {
		return die("storage '%s' is not online", st.ID)
	}
	return nil
}

// plugin is the type of the storage.
func (st *Storage) plugin() string { return cmp.Or(st.Type, "dir") }

func (st *Storage) figures() map[string]any {
	avail := st.Size - st.Used
	if st.Full {
		avail = 0
	}
	return map[string]any{
		"content": st.Content, "type": st.plugin(), "active": 1, "enabled": 1, "shared": number(st.Shared),
		"total": st.Size, "used": st.Size - avail, "avail": avail,
	}
}

func listStorages(c *call) (any, error) {
	out := []map[string]any{}
	for _, st := range c.s.c.Storages {
		if !st.on(c.node.Name) || !c.allowed("/storage/"+st.ID, "Datastore.Audit", "Datastore.AllocateSpace") {
			continue
		}
		if id := c.p.str("storage"); id != "" && id != st.ID {
			continue
		}
		if want := c.p.list("content"); len(want) > 0 && !slices.ContainsFunc(want, func(w string) bool { return slices.Contains(splitList(st.Content), w) }) {
			continue
		}
		e := st.figures()
		e["storage"] = st.ID
		e["used_fraction"] = round15(float64(e["used"].(int64)) / float64(st.Size))
		out = append(out, e)
	}
	return out, nil
}

func (c *call) storageResources() []map[string]any {
	var out []map[string]any
	for _, n := range c.s.c.Nodes {
		for _, st := range c.s.c.Storages {
			if !st.on(n.Name) || !c.allowed("/storage/"+st.ID, "Datastore.Audit", "Datastore.AllocateSpace") {
				continue
			}
			f := st.figures()
			e := map[string]any{"id": "storage/" + n.Name + "/" + st.ID, "storage": st.ID, "node": n.Name, "type": "storage", "plugintype": st.plugin(),
				"content": st.Content, "shared": number(st.Shared), "status": "available", "disk": f["used"], "maxdisk": f["total"]}
			if n.Down || n.Mute || st.Away {
				e["status"] = "unknown"
			}
			out = append(out, e)
		}
	}
	return out
}

// editStorage changes which content a storage takes; its other options are not
// simulated.
func editStorage(c *call) (any, error) {
	st := c.s.c.storage(c.p.str("storage"))
	if st == nil {
		return nil, die("update storage failed: storage '%s' does not exist", c.p.str("storage"))
	}
	if c.p.has("content") {
		st.Content = c.p.str("content")
	}
	return map[string]any{"storage": st.ID, "type": st.plugin()}, nil
}

// store is the storage the path names.
func (c *call) store() (*Storage, error) {
	return c.storageHere(c.p.str("storage"))
}

// storageHere is a storage that the node has (Storage.pm storage_check_enabled).
func (c *call) storageHere(id string) (*Storage, error) {
	st := c.s.c.storage(id)
	switch {
	case st == nil:
		return nil, die("storage '%s' does not exist", id)
	case !st.on(c.node.Name):
		return nil, die("storage '%s' is not available on node '%s'", id, c.node.Name)
	}
	return st, st.activate()
}

func storageStatus(c *call) (any, error) {
	st, err := c.store()
	if err != nil {
		return nil, err
	}
	return st.figures(), nil
}

func (v *Volume) entry() map[string]any {
	e := map[string]any{"volid": v.ID, "size": v.Size, "format": v.Format, "content": v.Content, "ctime": v.CTime.Unix()}
	if v.Content == "images" {
		e["used"] = v.Size / 8
		e["vmid"], e["parent"] = v.VMID, nil
		if v.Parent != "" {
			e["parent"] = "../" + v.Parent[strings.Index(v.Parent, ":")+1:]
		}
	}
	return e
}

// listVolumes hides images of VMs the caller has no right on.
func listVolumes(c *call) (any, error) {
	st, err := c.store()
	if err != nil {
		return nil, err
	}
	held := map[string]*Volume{}
	for id, v := range c.s.c.Volumes {
		switch {
		case v.Storage != st.ID, !st.Shared && v.Node != "" && v.Node != c.node.Name:
		case c.p.has("content") && v.Content != c.p.str("content"):
		case c.p.has("vmid") && v.VMID != c.vmid():
		case c.volumeAccessible(0, v.ID) != nil:
		default:
			held[id] = v
		}
	}
	out := make([]map[string]any, 0, len(held))
	for _, id := range slices.Sorted(maps.Keys(held)) {
		out = append(out, held[id].entry())
	}
	return out, nil
}

// addVolume is synchronous and asks nothing of the VM.
func addVolume(c *call) (any, error) {
	st, err := c.store()
	if err != nil {
		return nil, err
	}
	if st.Full {
		return nil, die("unable to create image: No space left on device")
	}
	if m := imageFile.FindStringSubmatch(c.p.str("filename")); m != nil && c.p.has("format") && c.p.str("format") != m[1] {
		return nil, badParam("format", "different storage formats (%s != %s)", c.p.str("format"), m[1])
	}
	size := c.p.str("size")
	if strings.IndexByte("0123456789", size[len(size)-1]) >= 0 {
		size += "K"
	}
	id := fmt.Sprintf("%s:%d/%s", st.ID, c.vmid(), c.p.str("filename"))
	if c.s.c.Volumes[id] != nil {
		return nil, die("disk image '/var/lib/vz/images/%d/%s' already exists", c.vmid(), c.p.str("filename"))
	}
	c.s.c.addVolume(id, c.node.Name, c.vmid(), parseSize(size), "")
	return id, nil
}

func getVolume(c *call) (any, error) {
	if _, err := c.store(); err != nil {
		return nil, err
	}
	v, id := c.volume()
	if err := c.volumeAccessible(0, id); err != nil {
		return nil, err
	}
	if v == nil {
		return nil, die("volume_size_info on '%s' failed - no format", id)
	}
	return map[string]any{"path": volumePath(id), "size": v.Size, "used": v.Size / 8, "format": v.Format}, nil
}

// deleteVolume does not ask whether a configuration names the volume; only
// base images with clones are refused (measured). With a delay it answers null
// if it is done by then.
func deleteVolume(c *call) (any, error) {
	st, err := c.store()
	if err != nil {
		return nil, err
	}
	v, id := c.volume()
	_, name := cutVolume(id)
	_, owner, err := volumeType(name)
	if err != nil {
		return nil, err
	}
	if err := c.check("/storage/"+st.ID, "Datastore.Allocate"); err != nil {
		return nil, err
	}
	task := st.ID
	if owner != 0 {
		task = fmt.Sprintf("%d@%s", owner, st.ID)
	}
	return c.forkAwaited("delay", "imgdel", task, func(j *job) error {
		if err := j.spend(); err != nil {
			return err
		}
		if v == nil {
			return nil
		}
		if err := c.s.c.unlinked(v); err != nil {
			return err
		}
		c.s.c.freeVolume(v.ID)
		j.printf("Removed volume '%s'", id)
		return nil
	})
}

var (
	importName = regexp.MustCompile(`\.(qcow2|raw|vmdk|ova)$`)
	isoName    = regexp.MustCompile(`\.(iso|img)$`)
	unsafeName = regexp.MustCompile(`[^-a-zA-Z0-9_.]`)
)

// downloadURL fetches a file in a task.
func downloadURL(c *call) (any, error) {
	st, name, err := c.newFile()
	if err != nil {
		return nil, err
	}
	return c.fork("download", name, func(j *job) error { return c.download(j, st, c.p.str("content"), name) })
}

// uploadFile keeps what came with the request; what is there under its name is
// overwritten.
func uploadFile(c *call) (any, error) {
	st, name, err := c.newFile()
	if err != nil {
		return nil, err
	}
	return c.fork("imgcopy", "", func(j *job) error {
		f := inspect(c.file, c.p.str("checksum-algorithm"))
		if want := strings.ToLower(c.p.str("checksum")); want != "" && f.sum != want {
			return die("checksum mismatch: got '%s' != expect '%s'", f.sum, want)
		}
		if err := f.check(c.p.str("content"), name, "/var/tmp/pveupload-"+f.sum[:32]); err != nil {
			return err
		}
		if err := j.spend(); err != nil {
			return err
		}
		if st.Full {
			return die("import failed: cp: error writing '/var/lib/vz/%s': No space left on device", name)
		}
		c.keep(st, name, f).Data = c.file
		return nil
	})
}

// newFile is where a file that comes from outside goes, under a name that is
// made harmless.
func (c *call) newFile() (*Storage, string, error) {
	st, err := c.store()
	if err != nil {
		return nil, "", err
	}
	content, name := c.p.str("content"), c.p.str("filename")
	name = unsafeName.ReplaceAllString(name[strings.LastIndex(name, "/")+1:], "_")
	switch {
	case st.plugin() == "lvm" || st.plugin() == "esxi":
		return nil, "", die("can't upload to storage type '%s', not a file based storage!", st.plugin())
	case !slices.Contains(splitList(st.Content), content):
		return nil, "", die("storage '%s' is not configured for content-type '%s'", st.ID, content)
	case content == "import" && !importName.MatchString(name):
		return nil, "", badParam("filename", "invalid filename or wrong extension")
	case content == "iso" && !isoName.MatchString(name):
		return nil, "", badParam("filename", "wrong file extension")
	}
	return st, name, nil
}

// keep makes a volume of a file.
func (c *call) keep(st *Storage, name string, f fetched) *Volume {
	id := fmt.Sprintf("%s:%s/%s", st.ID, c.p.str("content"), name)
	c.s.c.addVolume(id, c.node.Name, 0, f.size, "")
	v := c.s.c.Volumes[id]
	v.Content, v.Format, v.Stock = c.p.str("content"), formatOf(name), c.p.str("content") == "import"
	if v.Content == "iso" {
		v.Format = "iso"
	}
	return v
}
