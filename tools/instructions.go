package tools

import (
	"fmt"
	"slices"
	"strings"

	"github.com/agentlab-mcp/agentlab/sessions"
)

// Instructions is what a server tells a model about all tools together, of
// which the profiles are a part. Some clients show a model no more than this
// and the tools' names, so it has to carry the way of working. It has at most
// 1,500 characters.
func Instructions(profiles []sessions.Profile) string {
	return fmt.Sprintf(`AgentLab gives you disposable Linux machines (sandboxes). Use one to run code, builds, tests or anything you would not run on the user's own machine; work inside it with these tools and not with the host's.

create_sandbox -> exec, read_file, write_file, edit_file, list_files -> destroy when you are done. Keep the sandbox_id: it stays valid after a reconnect or restart until expires_at, when the sandbox and all its files are gone; extend_ttl moves that. list_sandboxes finds yours again.

%s Files stay in the sandbox: pass paths between commands rather than contents. exec runs a shell command and waits up to wait_seconds; what takes longer goes on, and read_process gets its output and exit code by process_id (it blocks, so don't poll). For servers and watchers use exec with wait_seconds=0, read_process with until, control_process for input and signals. timeout_seconds is when a process is killed. A non-zero exit code is a normal result.`, network(profiles))
}

// network says what can be reached from sandboxes.
func network(profiles []sessions.Profile) string {
	const nothing = "nothing can be downloaded into it, so bring what you need with write_file."
	var modes []string
	var about []string
	for _, p := range profiles {
		if p.Problem != "" {
			continue
		}
		if !slices.Contains(modes, p.Network) {
			modes = append(modes, p.Network)
		}
		about = append(about, p.Name+" "+p.Network)
	}
	switch most := 5; {
	case slices.Equal(modes, []string{"none"}):
		return "A sandbox has no network: " + nothing
	case len(about) == 0:
		return "Its network is what the profile says; with none, " + nothing
	case len(about) > most:
		return "Its network is what the profile says (see create_sandbox); with none, " + nothing
	}
	return fmt.Sprintf("Its network is what the profile says (%s); with none, %s", strings.Join(about, ", "), nothing)
}
