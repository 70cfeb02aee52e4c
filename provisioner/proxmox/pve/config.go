package pve

import (
	"context"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Config is the options of a machine by PVE's names for them: cores, net0,
// description... Numbers are written as text.
type Config map[string]string

// Digest identifies this state of the config, for [Change]. It is a hash of the
// content: a config that was changed there and back has the old one.
func (c Config) Digest() string { return c["digest"] }

// Int returns an option as a number, 0 if it is none.
func (c Config) Int(option string) int {
	n, _ := strconv.Atoi(c[option])
	return n
}

// Template reports whether the machine is a template.
func (c Config) Template() bool { return c["template"] == "1" }

// AgentEnabled reports whether the guest agent is switched on ("1",
// "enabled=1,type=virtio").
func (c Config) AgentEnabled() bool {
	v := ParseProperties(c["agent"]).Get("enabled")
	if v == "" {
		v = ParseProperties(c["agent"]).First()
	}
	var on Bool
	return on.UnmarshalJSON([]byte(strconv.Quote(v))) == nil && bool(on)
}

// Tags returns the tags. PVE stores "no tags" as " " (measured).
func (c Config) Tags() []string { return SplitTags(c["tags"]) }

// SplitTags splits tags as PVE does.
func SplitTags(tags string) []string {
	return strings.FieldsFunc(tags, func(r rune) bool { return r == ';' || r == ',' || r == ' ' })
}

// Config returns the config with changes that only a restart will apply.
func (c *Client) Config(ctx context.Context, vm VM) (Config, error) {
	var raw map[string]json.RawMessage
	if err := c.call(ctx, getConfig, vm.args(), nil, &raw); err != nil {
		return nil, err
	}
	cfg := make(Config, len(raw))
	for k, v := range raw {
		var text Text
		if text.UnmarshalJSON(v) == nil { // no option is a list or an object, but other keys may be
			cfg[k] = string(text)
		}
	}
	return cfg, nil
}

// Change is a change of a config.
type Change struct {
	Set    map[string]string
	Delete []string
	// Digest makes the change fail with Modified unless the config still has
	// this digest.
	Digest string
}

func (ch Change) params() url.Values {
	params := url.Values{}
	for k, v := range ch.Set {
		params.Set(k, v)
	}
	if len(ch.Delete) > 0 {
		params.Set("delete", strings.Join(slices.Sorted(slices.Values(ch.Delete)), ","))
	}
	if ch.Digest != "" {
		params.Set("digest", ch.Digest)
	}
	return params
}

// SetConfig changes the config and returns when that is done. It waits up to
// 10 s for another task that holds the machine. A refused change may have left
// the value as pending (measured for an unknown bridge on a running machine).
func (c *Client) SetConfig(ctx context.Context, vm VM, ch Change) error {
	return c.call(ctx, putConfig, vm.args(), ch.params(), nil)
}

// StartSetConfig is SetConfig as a task, for what takes long, such as importing
// a disk: pveproxy gives up on a call after 30 s.
func (c *Client) StartSetConfig(ctx context.Context, vm VM, ch Change) (UPID, error) {
	return c.task(ctx, postConfig, vm.args(), ch.params())
}

// SSHKeys encodes authorized keys as the value of the option sshkeys, which is
// percent-encoded before any encoding of the call, with %20 and not + for a
// space (PVE/QemuServer.pm, format urlencoded).
func SSHKeys(keys ...string) string {
	return strings.ReplaceAll(url.QueryEscape(strings.Join(keys, "\n")), "+", "%20")
}

// Properties is an option of several parts: "virtio=BC:24:..,bridge=vmbr0".
type Properties []Property

// Property is one part. Key is empty for a leading value without one, as in
// "local:100/vm-100-disk-0.qcow2,size=2G".
type Property struct{ Key, Value string }

// ParseProperties splits an option into its parts.
func ParseProperties(option string) Properties {
	var ps Properties
	for part := range strings.SplitSeq(option, ",") {
		if part == "" {
			continue
		}
		k, v, ok := strings.Cut(part, "=")
		if !ok {
			k, v = "", part
		}
		ps = append(ps, Property{k, v})
	}
	return ps
}

// Get returns the value of a key, "" if it is not there.
func (ps Properties) Get(key string) string {
	for _, p := range ps {
		if p.Key == key {
			return p.Value
		}
	}
	return ""
}

// First returns the leading value, with or without a key: a drive's volume, a
// network card's MAC address (its key is the model).
func (ps Properties) First() string {
	if len(ps) == 0 {
		return ""
	}
	return ps[0].Value
}

// With returns a copy with key set to value, or removed if value is "".
func (ps Properties) With(key, value string) Properties {
	out := slices.DeleteFunc(slices.Clone(ps), func(p Property) bool { return value == "" && p.Key == key })
	if value == "" {
		return out
	}
	for i := range out {
		if out[i].Key == key {
			out[i].Value = value
			return out
		}
	}
	return append(out, Property{key, value})
}

// String joins the parts again.
func (ps Properties) String() string {
	parts := make([]string, len(ps))
	for i, p := range ps {
		parts[i] = p.Value
		if p.Key != "" {
			parts[i] = p.Key + "=" + p.Value
		}
	}
	return strings.Join(parts, ",")
}

// Volumes returns what the drives name, such as local:100/vm-100-disk-0.qcow2.
func (c Config) Volumes() (ids []string) {
	for _, option := range c.Drives() {
		if id := ParseProperties(c[option]).First(); strings.Contains(id, ":") {
			ids = append(ids, id)
		}
	}
	return ids
}

// Storages returns the storages of all that the drives name, each once.
func (c Config) Storages() (names []string) {
	for _, id := range c.Volumes() {
		name, _, _ := strings.Cut(id, ":")
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Drives returns the options that name a volume, in order: ide2, scsi0...
func (c Config) Drives() []string {
	var names []string
	for _, k := range slices.Sorted(maps.Keys(c)) {
		bus := strings.TrimRight(k, "0123456789")
		if bus != k && slices.Contains([]string{"ide", "sata", "scsi", "virtio", "efidisk", "tpmstate", "unused"}, bus) {
			names = append(names, k)
		}
	}
	return names
}
