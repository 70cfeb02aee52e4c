package doctor

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// ourTags begin the tags of our machines. Each machine has one of its own, too,
// so that no list of tags that are allowed has them all.
const ourTags = "agentlab"

// checkTags looks whether the datacenter lets the token give machines their tags.
func (d *Proxmox) checkTags(ctx context.Context) {
	if d.Token == "" {
		return
	}
	may, err := d.may(ctx, "/")
	if err != nil {
		d.failed("tags", err)
		return
	}
	options, err := d.client().ClusterOptions(ctx)
	if err != nil {
		d.failed("tags", err)
		return
	}
	isOurs := func(t string) bool { return strings.HasPrefix(t, ourTags) }
	_, modifies := may["Sys.Modify"]
	_, seen := may["Sys.Audit"]
	switch mode := options.UserTagAccess.Allow; {
	case modifies:
		d.ok("tags", "the token may give any")
	case !seen: // it need not be allowed to (measured)
		d.ok("tags", "the token can't see which it may give; --create shows it")
	case mode != "" && mode != "free":
		d.add(Result{Check: "tags", Status: Failed, Detail: fmt.Sprintf("the datacenter (user-tag-access: user-allow=%s) does not let the token give machines tags of ours", mode), Run: []string{freeTags()}})
	case slices.ContainsFunc(options.RegisteredTags, isOurs):
		rest := slices.DeleteFunc(slices.Clone(options.RegisteredTags), isOurs)
		d.add(Result{Check: "tags", Status: Failed, Detail: "the datacenter (registered-tags) keeps tags of ours for those who may change it", Run: []string{registerTags(rest)}})
	default:
		d.ok("tags", "the token may give those of ours")
	}
}

// tagsRefused says what mends it if a machine could not be made since its tags
// are not allowed. The words are PVE's (measured).
func tagsRefused(err error) (run []string, do string) {
	if !strings.Contains(err.Error(), "for modifying tag") {
		return nil, ""
	}
	return []string{freeTags()}, "and leave tags that begin with " + ourTags + " out of registered-tags, which this shows: pvesh get /cluster/options"
}

// freeTags returns the command that lets whoever may configure a machine tag it,
// which is so unless it is set otherwise.
func freeTags() string { return setOptions(url.Values{"user-tag-access": {"user-allow=free"}}) }

func registerTags(tags []string) string {
	if len(tags) == 0 {
		return setOptions(url.Values{"delete": {"registered-tags"}})
	}
	return setOptions(url.Values{"registered-tags": {strings.Join(tags, ";")}})
}

func setOptions(options url.Values) string {
	return pve.Request{Method: http.MethodPut, Path: []string{"cluster", "options"}, Params: options}.Command()
}
