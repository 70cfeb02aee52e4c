package pve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// Version is PVE's version.
type Version struct{ Major, Minor, Patch int }

// String returns "8.4.21".
func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// AtLeast reports whether v is major.minor or later.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// Version returns the version of PVE that answers, e.g. 8.4.21 or 9.0.0~11.
func (c *Client) Version(ctx context.Context) (Version, error) {
	var v struct{ Version, Release Text }
	if err := c.call(ctx, getVersion, nil, nil, &v); err != nil {
		return Version{}, err
	}
	text := string(v.Version)
	if text == "" {
		text = string(v.Release)
	}
	var n [3]int
	parts := strings.FieldsFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	for i := range min(len(parts), len(n)) {
		n[i], _ = strconv.Atoi(parts[i])
	}
	if n[0] == 0 {
		return Version{}, &Error{Kind: BadAnswer, Call: "GET /version", Message: fmt.Sprintf("%q is not a version", text)}
	}
	return Version{n[0], n[1], n[2]}, nil
}

// Node is a member of the cluster. Fields other than the first two are zero
// without Sys.Audit on the node.
type Node struct {
	Name   string `json:"node"`
	Status string `json:"status"` // online, offline, unknown
	CPU    Float  `json:"cpu"`    // 0 to 1
	MaxCPU Int    `json:"maxcpu"`
	Mem    Int    `json:"mem"`    // bytes in use
	MaxMem Int    `json:"maxmem"` // bytes
}

// Online reports whether the node takes part in the cluster.
func (n Node) Online() bool { return n.Status == "online" }

// Nodes lists all nodes. Their numbers are up to 10 s old.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	var nodes []Node
	err := c.call(ctx, getNodes, nil, nil, &nodes)
	return nodes, err
}

// LocalNode returns the name of the node that answers. Without Sys.Audit on /
// it can be told only if there is no other; else the error is Permission.
func (c *Client) LocalNode(ctx context.Context) (string, error) {
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return "", err
	}
	if len(nodes) == 1 {
		return nodes[0].Name, nil
	}
	var status []struct {
		Name  string
		Type  string
		Local Bool
	}
	if err := c.call(ctx, getClusterStatus, nil, nil, &status); err != nil {
		return "", fmt.Errorf("find out which of %d nodes answers: %w", len(nodes), err)
	}
	for _, s := range status {
		if s.Type == "node" && bool(s.Local) {
			return s.Name, nil
		}
	}
	return "", errors.New("find out which node answers: cluster status names none as local")
}

// NodeStatus is the load of a node as of now.
type NodeStatus struct {
	Uptime Int `json:"uptime"` // seconds
	Memory struct {
		Free  Int `json:"free"`  // bytes
		Total Int `json:"total"` // bytes
		Used  Int `json:"used"`  // bytes
	} `json:"memory"`
	CPUInfo struct {
		CPUs Int `json:"cpus"`
	} `json:"cpuinfo"`
}

// NodeStatus needs Sys.Audit on the node.
func (c *Client) NodeStatus(ctx context.Context, node string) (NodeStatus, error) {
	var s NodeStatus
	err := c.call(ctx, getNodeStatus, []any{node}, nil, &s)
	return s, err
}

// Resource is an entry of the cluster's list: a machine, a storage or a node.
// Values come from a broadcast every 10 s: a new machine has an ID, a node and
// the status "unknown" first, and its name and tags up to 10 s later.
type Resource struct {
	Type       string `json:"type"` // qemu, lxc, storage, node
	ID         string `json:"id"`   // qemu/100
	Node       string `json:"node"`
	Status     string `json:"status"`
	VMID       Int    `json:"vmid"`
	Name       Text   `json:"name"`
	Pool       Text   `json:"pool"`
	Tags       Text   `json:"tags"`
	Lock       string `json:"lock"`
	Template   Bool   `json:"template"`
	Uptime     Int    `json:"uptime"`  // seconds
	CPU        Float  `json:"cpu"`     // cores in use by a machine; 0 to 1 of a node
	MaxCPU     Float  `json:"maxcpu"`  // cores
	Mem        Int    `json:"mem"`     // bytes
	MaxMem     Int    `json:"maxmem"`  // bytes
	Disk       Int    `json:"disk"`    // bytes
	MaxDisk    Int    `json:"maxdisk"` // bytes
	Storage    string `json:"storage"`
	Content    string `json:"content"`
	PluginType string `json:"plugintype"` // dir, lvmthin, zfspool, rbd...
	Shared     Bool   `json:"shared"`
}

// VM returns the name of a machine's entry.
func (r Resource) VM() VM { return VM{r.Node, int(r.VMID)} }

// Resources lists everything of a type (vm, storage, node; "" is all) that
// the token may see, in one call.
func (c *Client) Resources(ctx context.Context, kind string) ([]Resource, error) {
	var list []Resource
	err := c.call(ctx, getResources, nil, fields("type", kind), &list)
	return list, err
}

// NextID returns the lowest free VMID. It reserves nothing: others get the
// same one until a machine is made.
func (c *Client) NextID(ctx context.Context) (int, error) {
	var id Int
	err := c.call(ctx, getNextID, nil, nil, &id)
	return int(id), err
}

// IDFree returns nil if no machine in the cluster has this ID, and an error
// that is Exists if one has it. That a machine is gone is believed on the
// strength of it, so PVE must say so by naming the ID: a proxy that answers
// anything to everything does not count.
func (c *Client) IDFree(ctx context.Context, vmid int) error {
	var id Int
	if err := c.call(ctx, getNextID, nil, url.Values{"vmid": {strconv.Itoa(vmid)}}, &id); err != nil {
		return err
	}
	if int(id) != vmid {
		return &Error{Kind: BadAnswer, Call: "GET /cluster/nextid", Message: fmt.Sprintf("asked whether %d is free, it says %d", vmid, id)}
	}
	return nil
}

// Bridge is a network that a machine can be connected to.
type Bridge struct {
	Name   string `json:"iface"`
	Type   string `json:"type"` // bridge, OVSBridge, vnet
	Active Bool   `json:"active"`
	CIDR   string `json:"cidr"`
}

// Bridges lists the networks of a node for which the token has SDN.Use or
// SDN.Audit.
func (c *Client) Bridges(ctx context.Context, node string) ([]Bridge, error) {
	var list []Bridge
	err := c.call(ctx, getBridges, []any{node}, fields("type", "any_bridge"), &list)
	return list, err
}

// ClusterOptions are the settings of the datacenter that matter here.
type ClusterOptions struct {
	// UserTagAccess and RegisteredTags say which tags may be given without the
	// right to change the datacenter. Who lacks Sys.Audit on / sees neither.
	UserTagAccess struct {
		Allow string `json:"user-allow"` // none, list, existing or free; empty is free
	} `json:"user-tag-access"`
	RegisteredTags TagList `json:"registered-tags"`
	NextID         struct {
		Lower Int `json:"lower"`
		Upper Int `json:"upper"`
	} `json:"next-id"`
}

// TagList are tags, which come as a list or, as they were set, as a text
// (PVE/DataCenterConfig.pm splits it).
type TagList []string

// UnmarshalJSON implements [json.Unmarshaler].
func (l *TagList) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) == nil {
		*l = SplitTags(text)
		return nil
	}
	return json.Unmarshal(data, (*[]string)(l))
}

// ClusterOptions returns the datacenter's settings, as far as the token may see them.
func (c *Client) ClusterOptions(ctx context.Context) (ClusterOptions, error) {
	var o ClusterOptions
	err := c.call(ctx, getClusterOptions, nil, nil, &o)
	return o, err
}
