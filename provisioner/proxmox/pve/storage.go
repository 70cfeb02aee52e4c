package pve

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Storage is a storage as one node sees it.
type Storage struct {
	Name    string `json:"storage"`
	Type    string `json:"type"`    // dir, lvmthin, zfspool, rbd...
	Content string `json:"content"` // images,import,iso,...
	Active  Bool   `json:"active"`
	Enabled Bool   `json:"enabled"`
	Shared  Bool   `json:"shared"`
	Total   Int    `json:"total"` // bytes
	Used    Int    `json:"used"`  // bytes
	Avail   Int    `json:"avail"` // bytes
}

// Holds reports whether the storage may hold a kind of content, such as images
// or import.
func (s Storage) Holds(content string) bool {
	return slices.Contains(strings.Split(s.Content, ","), content)
}

// Linkable reports whether storage of that type makes linked clones
// (PVE/Storage/*Plugin.pm, volume_has_feature clone).
func Linkable(plugin string) bool {
	return !slices.Contains([]string{"lvm", "iscsi", "iscsidirect"}, plugin)
}

// Storages lists the storages of a node for which the token has
// Datastore.Audit or Datastore.AllocateSpace.
func (c *Client) Storages(ctx context.Context, node string) ([]Storage, error) {
	var list []Storage
	err := c.call(ctx, getStorages, []any{node}, nil, &list)
	return list, err
}

// Storage returns one storage of a node.
func (c *Client) Storage(ctx context.Context, node, storage string) (Storage, error) {
	s := Storage{Name: storage}
	err := c.call(ctx, getStorageStatus, []any{node, storage}, nil, &s)
	return s, err
}

// Volume is something that a storage holds.
type Volume struct {
	ID      string `json:"volid"` // local:9000/base-9000-disk-0.qcow2
	Content string `json:"content"`
	Format  string `json:"format"`
	Size    Int    `json:"size"` // bytes
	VMID    Int    `json:"vmid"`
	Parent  Text   `json:"parent"` // of a linked clone
}

// Volumes lists what a storage holds, of one kind and of one machine if vmid
// is not 0. It is slow: PVE looks into each image.
func (c *Client) Volumes(ctx context.Context, node, storage, content string, vmid int) ([]Volume, error) {
	params := fields("content", content)
	if vmid != 0 {
		params.Set("vmid", strconv.Itoa(vmid))
	}
	var list []Volume
	err := c.call(ctx, getContent, []any{node, storage}, params, &list)
	return list, err
}

// DeleteVolume starts to delete a volume by its whole ID. PVE does not ask
// whether a machine uses it. To delete a missing one succeeds.
func (c *Client) DeleteVolume(ctx context.Context, node, storage, volume string) (UPID, error) {
	return c.task(ctx, deleteContent, []any{node, storage, volume}, nil)
}

// Download is a file to fetch from the web into a storage.
type Download struct {
	URL      string // http or https
	Filename string // for content import it must end in .qcow2, .raw, .vmdk or .ova
	Content  string // import or iso
	// Checksum is hex, and Algorithm sha256 or sha512. With it, a file that is
	// there already is kept if it is the right one; without it that is an
	// error of the task.
	Checksum, Algorithm string
}

// DownloadURL makes the node fetch a file. Without a URL that answers, the
// task fails. It needs Datastore.AllocateTemplate on the storage and
// Sys.AccessNetwork on the node.
func (c *Client) DownloadURL(ctx context.Context, node, storage string, d Download) (UPID, error) {
	return c.task(ctx, postDownloadURL, []any{node, storage}, fields(
		"url", d.URL, "filename", d.Filename, "content", d.Content,
		"checksum", d.Checksum, "checksum-algorithm", d.Algorithm))
}

// MaxUpload is how many bytes one upload carries here; Proxmox itself takes any.
const MaxUpload = 16 << 20

// Upload starts to put a file of at most MaxUpload bytes into a storage, as
// content iso or import. One of that name is overwritten, without a word
// (measured). It needs Datastore.AllocateTemplate on the storage, and HTTPS.
func (c *Client) Upload(ctx context.Context, node, storage, content string, f File) (UPID, error) {
	r := postUpload.request([]any{node, storage}, fields("content", content))
	if len(f.Data) > MaxUpload {
		return "", &Error{Kind: TooLarge, Call: r.String(), Message: fmt.Sprintf("%s has %d bytes, at most %d can be uploaded", f.Name, len(f.Data), MaxUpload)}
	}
	r.File = &f
	return c.begin(ctx, postUpload, r)
}

// Pool is a resource pool. Members is filled in by [Client.Pool] only.
type Pool struct {
	ID      string     `json:"poolid"`
	Comment Text       `json:"comment"`
	Members []Resource `json:"members"`
}

// Pools lists the pools that the token may see.
func (c *Client) Pools(ctx context.Context) ([]Pool, error) {
	var list []Pool
	err := c.call(ctx, getPools, nil, nil, &list)
	return list, err
}

// Pool returns one pool with its members.
func (c *Client) Pool(ctx context.Context, id string) (Pool, error) {
	var list []Pool
	if err := c.call(ctx, getPools, nil, url.Values{"poolid": {id}}, &list); err != nil {
		return Pool{}, err
	}
	if len(list) == 0 {
		return Pool{}, &Error{Kind: NotFound, Call: "GET /pools", Subject: Subject{"pool", id}, Message: "pool '" + id + "' does not exist"}
	}
	return list[0], nil
}

// CreatePool makes a pool.
func (c *Client) CreatePool(ctx context.Context, id, comment string) error {
	return c.call(ctx, postPools, nil, fields("poolid", id, "comment", comment), nil)
}

// DeletePool removes a pool that is empty.
func (c *Client) DeletePool(ctx context.Context, id string) error {
	return c.call(ctx, deletePool, nil, fields("poolid", id), nil)
}

// AddToPool makes machines members of a pool, also of ones that have no
// machine yet. One that is in another pool is moved.
func (c *Client) AddToPool(ctx context.Context, id string, vmids ...int) error {
	return c.call(ctx, putPools, nil, fields("poolid", id, "vms", joinIDs(vmids), "allow-move", "1"), nil)
}

// RemoveFromPool ends their membership.
func (c *Client) RemoveFromPool(ctx context.Context, id string, vmids ...int) error {
	return c.call(ctx, putPools, nil, fields("poolid", id, "vms", joinIDs(vmids), "delete", "1"), nil)
}

func joinIDs(vmids []int) string {
	ids := make([]string, len(vmids))
	for i, id := range vmids {
		ids[i] = strconv.Itoa(id)
	}
	return strings.Join(ids, ",")
}
