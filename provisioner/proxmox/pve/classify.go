package pve

import (
	"errors"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// rule maps a message to a kind. A group in the pattern is the subject's name.
type rule struct {
	kind    Kind
	subject string
	pattern *regexp.Regexp
}

func pattern(kind Kind, subject, expr string) rule {
	return rule{kind, subject, regexp.MustCompile(expr)}
}

// rules classify a message, be it the answer of a call or the end of a task.
// The first that matches counts. All but those marked were measured.
var rules = []rule{
	// The agent comes first: its messages quote what the guest said.
	pattern(AgentNotConfigured, "", `^No QEMU guest agent configured`),
	pattern(AgentNotRunning, "", `^QEMU guest agent is not running`),
	pattern(AgentTimeout, "", `^VM \d+ (?:qmp|qga) command 'guest-[a-z-]+' failed - got timeout`),
	pattern(NotFound, "process", `^Agent error: Invalid parameter 'pid'`),
	pattern(NotFound, "file", `^Agent error: failed to open file '(.*)' \(mode: '[a-z+]+'\): No such file or directory`),
	pattern(AgentError, "", `^Agent error: `),
	pattern(NotASCII, "", `^Wide character in `),

	pattern(NotFound, "pool", `^Permission check failed \(pool '([^']+)' does not exist\)`),
	pattern(Permission, "tag", `^(?:\d{3} )?Permission check failed \(/, Sys\.Modify for modifying tag '([^']*)'`),
	pattern(Permission, "", `^(?:\d{3} )?Permission check failed`),
	pattern(Permission, "", `^[Oo]nly root (?:can|may)|^please run as root`),

	pattern(NotFound, "vm", `^Configuration file 'nodes/[^']*/qemu-server/(\d+)\.conf' does not exist`),
	pattern(NotFound, "vm", `^unable to find configuration file for VM (\d+)`),
	pattern(NotFound, "snapshot", `^snapshot '([^']*)' does not exist`),
	pattern(NotFound, "storage", `^storage '([^']*)' does not exist`),
	pattern(StorageAway, "storage", `storage '([^']*)' (?:is not online|is not available|failed)`), // PVE/Storage.pm
	pattern(StorageAway, "storage", `^unable to activate storage '([^']*)'`),                       // PVE/Storage/DirPlugin.pm
	pattern(StorageAway, "storage", `^storage '([^']*)' is disabled`),                              // PVE/Storage.pm
	pattern(StorageAway, "", `^mount error`),                                                       // PVE/Storage/NFSPlugin.pm
	pattern(NotFound, "pool", `pool '([^']*)' does not exist`),
	pattern(NotFound, "volume", `^volume '?([^' ]*)'? does not exist`),
	pattern(NotFound, "disk", `^(?:d|D)isk '([^']*)' (?:for VM '\d+' )?does not exist`),
	pattern(NotFound, "task", `^no such task`),
	pattern(NotFound, "node", `^no such cluster node '([^']*)'`),
	pattern(NotFound, "user", `^no such user|^user '[^']*' does not exist`),        // PVE/AccessControl.pm
	pattern(NotFound, "token", `^no such token`),                                   // PVE/AccessControl.pm
	pattern(NotFound, "role", `^no such role|role '[^']*' does not exist`),         // PVE/AccessControl.pm
	pattern(NotFound, "bridge", `^(?:bridge|interface) '?(\S+?)'? does not exist`), // PVE/Network.pm

	pattern(Exists, "vm", `^unable to create VM (\d+): config file already exists`),
	pattern(Exists, "vm", `^unable to create VM (\d+) - (?:VM|CT) \d+ already exists`),
	pattern(Exists, "vm", `^(?:VM|CT) (\d+) already exists`),                                       // CT: PVE/Cluster.pm
	pattern(Exists, "vm", `^close \(rename\) atomic file '[^']*/(\d+)\.conf' failed: File exists`), // pmxcfs, of an ID on another node
	pattern(Exists, "snapshot", `^snapshot name '([^']*)' already used`),
	pattern(Exists, "pool", `pool '([^']*)' already exists`),
	pattern(Exists, "user", `user '([^']*)' already exists`),
	pattern(Exists, "role", `role '([^']*)' already exists`),
	pattern(Exists, "token", `^Token already exists`),
	pattern(Exists, "file", `^refusing to override existing file '([^']*)'`),
	pattern(Exists, "volume", `^disk image '([^']*)' already exists`),
	pattern(Exists, "member", `VM (\d+) (?:is already a pool member|belongs already to pool)`),

	pattern(Locked, "lock", `^VM is locked \(([a-z-]+)\)`),
	pattern(NoQuorum, "", `no quorum`), // PVE/Cluster.pm: of a call, and of a lock that was asked for
	pattern(LockTimeout, "vm", `^can't lock file '[^']*/lock-(\d+)\.conf' - got timeout`),
	pattern(LockTimeout, "", `^can't lock file '[^']*' - got timeout`),
	pattern(LockTimeout, "", `^cfs-lock '[^']*' error|^(?:error with )?cfs lock '[^']*'(?::| failed)`), // PVE/Cluster.pm
	pattern(LockTimeout, "", `^got lock (?:request )?timeout`),                                         // PVE/Cluster.pm
	pattern(Modified, "", `^checksum mismatch \(file change by other user`),
	pattern(Modified, "", `detected modified configuration - file changed by other user`),

	pattern(Corrupt, "", `^checksum mismatch: got '[0-9a-f]*' != expect`),

	pattern(Running, "vm", `^VM (\d+) (?:is running - destroy failed|already running)`),
	pattern(Running, "vm", `^you can't convert a VM to template if VM is running`),
	pattern(NotRunning, "vm", `^VM (\d+) (?:is )?not running`),
	pattern(Protected, "vm", `^can't remove (?:VM (\d+)|drive '[^']*') - protection mode enabled`),
	pattern(InUse, "volume", `^base volume '([^']*)' is still in use by linked clone`),

	// pmxcfs without quorum is read-only, and without its daemon it is not there.
	pattern(NoQuorum, "", `(?:unable to (?:write|open file|create)|mkdir|close \(rename\) atomic file) '?/etc/pve/[^']*'?.*Permission denied`), // PVE/INotify.pm, PVE/Tools.pm
	pattern(NodeUnreachable, "", `^ipcc_send_rec\[\d+\] failed|^Unable to load access control list|/etc/pve/[^']*'?.*Transport endpoint is not connected`),
	pattern(NodeUnreachable, "node", `^hostname lookup '([^']*)' failed`),
	pattern(NoSpace, "", `No space left on device|[Nn]ot enough free space|insufficient free space|out of space|Disk quota exceeded`), // of the storage tools
	pattern(NoSpace, "", `Cannot allocate memory|cannot set up guest memory`),                                                         // of QEMU
	pattern(TimedOut, "", `^VM quit/powerdown failed - got timeout`),
	pattern(TimedOut, "", `^start failed: .*got timeout`), // PVE/QemuServer.pm
	pattern(Aborted, "", `interrupted by signal|^unexpected status$|^broken pipe|^received interrupt`),
	pattern(TooLarge, "", `^for data too large`),
	pattern(NotImplemented, "", `^Method '.*' not implemented|^No '\w+' handler defined for`),
	pattern(Parameter, "", `^Parameter verification failed|^too many arguments|^unable to parse option|^duplicate parameter`),
}

// byStatus decides where the text says nothing.
var byStatus = map[int]Kind{
	http.StatusBadRequest:            Parameter,
	http.StatusUnauthorized:          Unauthorized,
	http.StatusForbidden:             Permission,
	http.StatusRequestEntityTooLarge: TooLarge,
	http.StatusNotImplemented:        NotImplemented,
	http.StatusBadGateway:            Interrupted, // these three come from a proxy before PVE
	http.StatusServiceUnavailable:    Interrupted,
	http.StatusGatewayTimeout:        Interrupted,
	595:                              NodeUnreachable, // AnyEvent::HTTP: no connection to the other node
	596:                              Interrupted,     // AnyEvent::HTTP: connection to the worker broke
	597:                              Interrupted,     // AnyEvent::HTTP: the same, within the body
	599:                              Interrupted,
}

var permission = regexp.MustCompile(`Permission check failed \(([^,()]*), ([^ )]+)`)

// classify fills in what the message says: kind, subject, path and privilege.
// It is the only place that reads Proxmox's texts.
func classify(e *Error) *Error {
	e.Message = short(strings.TrimSpace(e.Message))
	if e.Message == "" {
		e.Message = http.StatusText(e.Status)
	}
	if e.Message == "" {
		e.Message = "no reason given"
	}
	if e.Status == http.StatusUnauthorized {
		e.Kind = Unauthorized
		return e
	}
	e.Kind = Failed
	if k, ok := byStatus[e.Status]; ok {
		e.Kind = k
	}
	e.match(e.Message)
	// Some answers hide what matters in the text about a parameter:
	// nextid's "VM 100 already exists".
	for _, name := range slices.Sorted(maps.Keys(e.Params)) {
		if e.Kind == Parameter {
			e.match(e.Params[name])
		}
	}
	if m := permission.FindStringSubmatch(e.Message); m != nil {
		e.Path, e.Privilege = m[1], m[2]
	}
	return e
}

// maxMessage is how much of a message is kept, in bytes: it ends in logs and
// before agents, and a server may send megabytes.
const maxMessage = 4 << 10

func short(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage], "") + "..."
}

func (e *Error) match(text string) {
	for _, r := range rules {
		if m := r.pattern.FindStringSubmatch(text); m != nil {
			e.Kind, e.Subject = r.kind, Subject{Type: r.subject}
			if len(m) > 1 {
				e.Subject.Name = m[1]
			}
			return
		}
	}
}

var statusPrefix = regexp.MustCompile(`^(\d{3}) `)

// taskError turns the exit status of a failed task into an error.
func taskError(id UPID, exit string) *Error {
	e := &Error{Task: id, Message: exit}
	// An exception keeps its HTTP status as a prefix: "403 Permission check failed".
	if m := statusPrefix.FindStringSubmatch(exit); m != nil {
		e.Status, _ = strconv.Atoi(m[1])
		e.Message = exit[len(m[0]):]
	}
	return classify(e)
}

// Explain adds to the error of a task the lines of its log. If one of these is a
// message that we know, the error becomes one of its kind: QEMU's own words are
// only there (measured: "start failed: QEMU exited with code 1").
func Explain(err error, log []string) error {
	var task *Error
	if !errors.As(err, &task) || len(log) == 0 {
		return err
	}
	whole := *task
	for _, line := range log {
		if said := classify(&Error{Message: line}); said.Kind != Failed {
			whole.Kind, whole.Subject = said.Kind, said.Subject
			break
		}
	}
	whole.Message = short(whole.Message + ": " + strings.Join(log, "; "))
	return &whole
}

func about(err error, kind Kind, s Subject) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == kind && e.Subject == s
}
