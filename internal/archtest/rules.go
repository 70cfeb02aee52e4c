package archtest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Rules say who may import what.
type Rules struct {
	// Layers are our packages, from the bottom up: a package may import those
	// that its layer names, and these stand above it in the list.
	Layers []Layer
	// Owned are third parties that only some packages may import.
	Owned []Owned
}

// Layer is one of our packages.
type Layer struct {
	Pkg string
	May string // packages of ours, separated by spaces; "*" is all that stand above
}

// Fields returns the packages of May.
func (l Layer) Fields() []string { return strings.Fields(l.May) }

// Owned is a third party that belongs to some of our packages.
type Owned struct {
	Import string // a path, which stands for those below it too
	By     string // packages of ours, separated by spaces
	Why    string
}

// Fields returns the packages of By.
func (o Owned) Fields() []string { return strings.Fields(o.By) }

// Architecture is AgentLab's.
func Architecture() Rules {
	return Rules{
		Layers: []Layer{
			{"internal/archtest", ""},
			{"internal/durable", ""},
			{"internal/hosttree", ""},
			{"internal/keylock", ""},
			{"internal/redact", ""},
			{"internal/reference", ""}, // whose tests know all that has a reference
			{"internal/release", ""},
			{"internal/remote", "internal/redact internal/release"}, // and nothing that is Linux
			{"cmd/agentlab-remote", "internal/remote"},
			{"internal/turns", ""},
			{"provisioner/guest", ""},
			{"internal/span", "provisioner/guest"},
			{"internal/otlp", "internal/redact internal/span"},
			{"provisioner/guest/wire", "provisioner/guest"},
			{"cmd/agentlab-guest/internal/proc", "provisioner/guest"},
			{"cmd/agentlab-guest/internal/confine", "cmd/agentlab-guest/internal/proc provisioner/guest"},
			{"cmd/agentlab-guest/internal/files", "provisioner/guest provisioner/guest/wire"},
			{"cmd/agentlab-guest/internal/keep", "cmd/agentlab-guest/internal/proc provisioner/guest provisioner/guest/wire"},
			{"cmd/agentlab-guest/internal/serve", "*"},
			{"cmd/agentlab-guest", "*"},
			{"provisioner", "provisioner/guest internal/redact"},
			{"provisioner/guest/guesttest", "provisioner/guest"},
			{"provisioner/provisionertest", "provisioner provisioner/guest provisioner/guest/guesttest internal/redact"},
			{"provisioner/guest/sshguest", "provisioner/guest provisioner/guest/wire internal/redact"},
			{"provisioner/guest/sshboot", "provisioner/guest provisioner/guest/wire provisioner/guest/sshguest"},
			{"provisioner/local", "provisioner provisioner/guest provisioner/guest/sshguest internal/durable internal/redact internal/keylock"},
			{"provisioner/proxmox/names", ""},
			{"provisioner/proxmox/pve", "internal/redact"},
			{"provisioner/proxmox/pvetest", ""}, // one misreading of the API must not be made twice
			{"provisioner/proxmox/pvetest/qemuguest", "provisioner/proxmox/pvetest"},
			{"provisioner/proxmox/agentconn", "provisioner/guest provisioner/proxmox/pve internal/redact"},
			{"provisioner/proxmox", "provisioner provisioner/guest provisioner/guest/sshboot provisioner/proxmox/pve provisioner/proxmox/agentconn internal/redact internal/keylock"},
			{"provisioner/proxmox/setup", "provisioner/proxmox/names provisioner/proxmox/pve internal/redact"},
			{"provisioner/proxmox/template", "provisioner provisioner/proxmox/names provisioner/proxmox/pve"},
			{"provisioner/proxmox/doctor", "provisioner provisioner/guest provisioner/proxmox provisioner/proxmox/pve provisioner/proxmox/setup"},
			{"provisioner/proxmox/pvecontract", "provisioner provisioner/guest provisioner/guest/guesttest provisioner/provisionertest provisioner/proxmox provisioner/proxmox/agentconn provisioner/proxmox/pve internal/redact"},
			{"sessions", "internal/redact internal/turns internal/keylock internal/span provisioner provisioner/guest"},
			{"internal/auth", "internal/redact sessions"},
			{"store", "internal/auth internal/durable sessions provisioner"},
			{"internal/failpoint", "internal/auth provisioner provisioner/guest provisioner/proxmox/pve sessions"},
			{"internal/config", "internal/durable internal/redact provisioner provisioner/proxmox/names sessions"},
			{"internal/obs", "sessions"},
			{"internal/terminal", ""},
			{"tools", "internal/terminal internal/auth internal/redact internal/hosttree internal/keylock sessions provisioner/guest"},
			{"mcpserver", "internal/terminal internal/auth internal/redact internal/hosttree internal/span tools sessions"},
			{"internal/pvesim", "provisioner/proxmox/pvetest provisioner/proxmox/pvetest/qemuguest"},
			{"cmd/agentlab/internal/sshd", "internal/terminal provisioner/guest/wire"},
			{"cmd/agentlab/internal/cli", "cmd/agentlab/internal/sshd internal/terminal mcpserver tools"},
			{"cmd/agentlab", "*"},
			// What drives the built program from outside, as a user would.
			{"internal/dist", "sessions tools"},
			{"internal/stage", ""},
			{"internal/e2e", "internal/stage internal/pvesim provisioner/proxmox/pvetest"},
			{"internal/crashtest", "internal/failpoint internal/stage internal/pvesim provisioner provisioner/proxmox/pvetest sessions store"},
			{"internal/histories", "internal/failpoint internal/pvesim internal/redact internal/stage provisioner provisioner/guest provisioner/proxmox provisioner/proxmox/pve provisioner/proxmox/pvetest sessions store"},
			{"internal/soak", "internal/stage internal/pvesim provisioner/proxmox/pvetest"},
			{"internal/demo", "internal/stage internal/pvesim provisioner/proxmox/pvetest"},
			{"internal/bench", "internal/config internal/stage internal/pvesim internal/redact mcpserver tools sessions store provisioner provisioner/guest provisioner/guest/sshguest provisioner/local provisioner/proxmox provisioner/proxmox/pve provisioner/proxmox/pvetest"},
		},
		Owned: []Owned{
			{"github.com/mark3labs/mcp-go", "mcpserver internal/bench", "MCP stays one package, so that a change of library is a change of one package; bench has its bare handler as the floor below mcpserver"},
			{"github.com/modelcontextprotocol/go-sdk", "cmd/agentlab cmd/agentlab/internal/cli cmd/agentlab-remote internal/stage internal/demo internal/bench", "it is the client; the server is mcpserver's"},
			{"github.com/mattn/go-sqlite3", "store", "SQL stays in store"},
			{"modernc.org/sqlite", "store", "SQL stays in store"},
			{"database/sql", "store", "SQL stays in store"},
			{"golang.org/x/crypto/ssh", "provisioner/guest/sshguest provisioner/guest/sshboot provisioner/local provisioner/proxmox provisioner/proxmox/pve provisioner/proxmox/pvetest cmd/agentlab-guest/internal/serve cmd/agentlab/internal/sshd internal/bench", "SSH is how a guest is reached, and nobody above guest.Conn may know; sshd speaks to clients of others"},
			{"github.com/pkg/sftp", "provisioner/guest/sshguest cmd/agentlab-guest cmd/agentlab-guest/internal/serve", "SFTP is how a guest is reached, and nobody above guest.Conn may know"},
			{"github.com/opencontainers/runtime-spec", "provisioner/local internal/bench", "containers are the local backend's"},
			{"github.com/goccy/go-yaml", "internal/config", "files are decoded strictly, in one place"},
			{"github.com/golang-jwt/jwt", "internal/auth", "who asks is found out in one place"},
			{"github.com/MicahParks", "internal/auth", "who asks is found out in one place"},
			{"github.com/prometheus/client_golang", "internal/obs", "what is measured is called by its name, not by a library's"},
			{"go.opentelemetry.io/otel", "internal/span internal/otlp", "what is traced is told by span, and whoever traces needs no library"},
			{"github.com/prometheus/procfs", "internal/obs internal/stage", "only what measures reads what the kernel counts"},
			{"pgregory.net/rapid", "internal/histories", "what is random is told and shrunk in one place"},
			{"github.com/schollz/progressbar", "cmd/agentlab/internal/cli", "what is copied is shown in one way"},
			{"github.com/spf13/cobra", "cmd/agentlab cmd/agentlab/internal/cli", "only the command line has a command line"},
		},
	}
}

// forbid says why the package in dir must not import imp; empty is that it may.
func (r Rules) forbid(dir, imp string) string {
	if dep, ok := strings.CutPrefix(imp, Module+"/"); ok {
		return r.forbidOurs(dir, dep)
	}
	for _, o := range r.Owned {
		if (imp == o.Import || strings.HasPrefix(imp, o.Import+"/")) && !slices.Contains(o.Fields(), dir) {
			return fmt.Sprintf("only %s may: %s", o.By, o.Why)
		}
	}
	return ""
}

func (r Rules) forbidOurs(dir, dep string) string {
	from, to := r.index(dir), r.index(dep)
	switch {
	case from < 0: // Check says so once
		return ""
	case to < 0:
		return "the architecture has no " + dep
	case to >= from:
		return "it stands below in the list, and arrows go one way"
	case r.Layers[from].May == "*", slices.Contains(r.Layers[from].Fields(), dep):
		return ""
	}
	return fmt.Sprintf("%s may import of ours: %s", dir, cmp.Or(r.Layers[from].May, "nothing"))
}

func (r Rules) index(dir string) int {
	return slices.IndexFunc(r.Layers, func(l Layer) bool { return l.Pkg == dir })
}
