package pvetest

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sort"
	"strings"
)

// volatile keys have values that differ with every run; that they are there
// is compared.
var volatile = regexp.MustCompile(`^(cpu|mem|disk|maxdisk|netin|netout|diskread|diskwrite|uptime|pid|pstart|starttime|endtime|upid|digest|ctime|used|avail|total|used_fraction|` +
	`smbios1|vmgenid|meta|snaptime|ssl_fingerprint|loadavg|cpuinfo|kversion|current-kernel|memory|rootfs|statistics|hardware-address|ticket|CSRFPreventionToken|cap|value|` +
	`boot-info|swap|ksm|repoid|nics|maxmem|supported_commands|saved|mhz|size|ip-address|prefix|next-run)$`)

// masks replace what differs with every run within texts.
var masks = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`UPID:[^ ]*`), "UPID"},
	{regexp.MustCompile(`(?i)\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b`), "MAC"},
	{regexp.MustCompile(`\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`), "UUID"},
	{regexp.MustCompile(`\b[0-9a-f]{40}\b`), "SHA1"},
	{regexp.MustCompile(`transferred .*`), "transferred"},
	{regexp.MustCompile(`\.tmp_dwnl\.\d+`), ".tmp_dwnl"},
	{regexp.MustCompile(`'/var\S*upload-[0-9a-f]+'`), "UPLOAD"},
}

func masked(s string) string {
	for _, m := range masks {
		s = m.pattern.ReplaceAllString(s, m.with)
	}
	return s
}

// compare lists how got differs from what was recorded.
func compare(path string, want, got any) []string {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return []string{fmt.Sprintf("%s: want an object, got %s", path, short(got))}
		}
		return compareObjects(path, w, g)
	case []any:
		g, ok := got.([]any)
		if !ok {
			return []string{fmt.Sprintf("%s: want a list, got %s", path, short(got))}
		}
		return compareLists(path, w, g)
	case string:
		if g, ok := got.(string); ok && (w == g || masked(w) == masked(g)) {
			return nil
		}
	default:
		if fmt.Sprint(want) == fmt.Sprint(got) {
			return nil
		}
	}
	if _, ok := got.(float64); ok && path == ".data.result" { // the time
		return nil
	}
	if want == nil && got == "" {
		return nil
	}
	return []string{fmt.Sprintf("%s:\n-%s\n+%s", path, short(want), short(got))}
}

func compareObjects(path string, want, got map[string]any) []string {
	var diffs []string
	for _, k := range slices.Sorted(maps.Keys(want)) {
		v, ok := got[k]
		switch {
		case !ok:
			diffs = append(diffs, fmt.Sprintf("%s.%s is missing, want %s", path, k, short(want[k])))
		case want["cert"] != nil && slices.Contains([]string{"cert", "password", "port"}, k): // of a VNC proxy
		case k == "content" && strings.Contains(fmt.Sprint(want[k]), "snippets"):
			diffs = append(diffs, compare(path+".content", set(want[k]), set(v))...)
		case k == "total" && (strings.Contains(fmt.Sprint(want), "transferred") || strings.Contains(fmt.Sprint(want), "downloading ")), k == "n" && afterwards.MatchString(fmt.Sprint(want["t"])):
		case !volatile.MatchString(k) || path == "" && k == "total" || path == ".errors":
			diffs = append(diffs, compare(path+"."+k, want[k], v)...)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[k]; !ok {
			diffs = append(diffs, fmt.Sprintf("%s.%s is too much: %s", path, k, short(got[k])))
		}
	}
	return diffs
}

// afterwards are lines that come after such whose number differs.
var afterwards = regexp.MustCompile(`^(TASK |calculating checksum|download of )`)

// wgetSays is what wget, and what looks at its file, write into the log of a
// download besides the error.
var wgetSays = regexp.MustCompile(`^(--\d{4}-|Resolving |Connecting to |HTTP request sent|Length: |Saving to: | *\d+K |\d{4}-\d\d-\d\d |GnuTLS: |WARNING: The certificate|ERROR: The certificate|command '/usr/bin/qemu-img info|$)`)

// compareLists takes lists of things that have a name as sets; a task log
// loses the lines that tell of progress.
func compareLists(path string, want, got []any) []string {
	want, got = sorted(want), sorted(got)
	if len(want) != len(got) {
		return []string{fmt.Sprintf("%s: %d elements, want %d\n-%s\n+%s", path, len(got), len(want), short(want), short(got))}
	}
	var diffs []string
	for i := range want {
		diffs = append(diffs, compare(fmt.Sprintf("%s[%d]", path, i), want[i], got[i])...)
	}
	return diffs
}

// set is a comma-separated list in order.
func set(v any) any {
	s := strings.Split(fmt.Sprint(v), ",")
	slices.Sort(s)
	return strings.Join(s, ",")
}

func sorted(list []any) []any {
	out := slices.DeleteFunc(slices.Clone(list), func(v any) bool {
		m, ok := v.(map[string]any)
		return ok && m["t"] != nil && (strings.HasPrefix(fmt.Sprint(m["t"]), "transferred") || wgetSays.MatchString(fmt.Sprint(m["t"])))
	})
	name := func(v any) string {
		m, ok := v.(map[string]any)
		if !ok || m["upid"] != nil {
			return ""
		}
		for _, k := range []string{"key", "roleid", "id", "volid", "name", "path"} {
			if s, ok := m[k].(string); ok {
				return s + fmt.Sprint(m["ugid"], m["starttime"])
			}
		}
		return ""
	}
	sort.SliceStable(out, func(i, j int) bool { return name(out[i]) < name(out[j]) })
	return out
}

func short(v any) string {
	b, _ := json.Marshal(v)
	s := strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace(string(b))
	if len(s) > 600 {
		s = s[:600] + "..."
	}
	return s
}
