package pve

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/url"
	"strconv"
)

// Limits of one call to the guest agent.
const (
	// MaxInput is how many bytes a command can be given (PVE/API2/Qemu/Agent.pm).
	MaxInput = 65536
	// MaxWrite is how many bytes one write can carry: 61440 characters of base64.
	MaxWrite = 46080
	// MaxRead is how many bytes one read returns at most.
	MaxRead = 16 << 20
)

// Calls to an agent that does not answer hold one of the node's three API
// workers for 3 to 5 s, for all users of that Proxmox (measured): make at most
// two at a time per node.

// AgentPing returns nil if the guest agent answers.
func (c *Client) AgentPing(ctx context.Context, vm VM) error {
	return c.call(ctx, postAgentPing, vm.args(), nil, nil)
}

// AgentExec starts a command in the guest, without a shell, and returns its
// process ID. Arguments must be ASCII. Input of at most MaxInput bytes is given
// to the command as it is.
//
// A program that is missing makes the API worker die (Interrupted, after 5 s;
// the agent quotes its name in typographic quotes): run /bin/sh -c instead.
func (c *Client) AgentExec(ctx context.Context, vm VM, argv []string, input []byte) (int, error) {
	call := postAgentExec.request(vm.args(), nil).String()
	if len(argv) == 0 || argv[0] == "" {
		return 0, &Error{Kind: Parameter, Call: call, Message: "the command is empty"}
	}
	for _, arg := range argv {
		if err := requireASCII(call, arg); err != nil {
			return 0, err
		}
	}
	if len(input) > MaxInput {
		return 0, &Error{Kind: TooLarge, Call: call, Message: fmt.Sprintf("input has %d bytes, at most %d can be given", len(input), MaxInput)}
	}
	params := url.Values{"command": argv}
	if len(input) > 0 {
		params.Set("input-data", latin1(input))
	}
	var p struct{ PID Int }
	err := c.call(ctx, postAgentExec, vm.args(), params, &p)
	return int(p.PID), err
}

func requireASCII(call, s string) error {
	if isASCII(s) {
		return nil
	}
	return &Error{Kind: NotASCII, Call: call, Message: fmt.Sprintf(
		"%.60q would make the guest agent deaf; pass text that is not ASCII as input", s)}
}

// ExecStatus is the state of a command in the guest.
type ExecStatus struct {
	Exited       Bool  `json:"exited"`
	ExitCode     Int   `json:"exitcode"`
	Signal       Int   `json:"signal"` // that ended it, 0 if none
	Out          Bytes `json:"out-data"`
	Err          Bytes `json:"err-data"`
	OutTruncated Bool  `json:"out-truncated"` // there was more than the agent keeps, 16 MiB
	ErrTruncated Bool  `json:"err-truncated"`
}

// AgentExecStatus returns the state of a command. Output comes only with the
// end, and the end is told once: after that the process is NotFound, and also
// if the answer was lost. So it must be asked for from one place only.
func (c *Client) AgentExecStatus(ctx context.Context, vm VM, pid int) (ExecStatus, error) {
	var s ExecStatus
	err := c.call(ctx, getAgentExecStatus, vm.args(), url.Values{"pid": {strconv.Itoa(pid)}}, &s)
	return s, err
}

// FileContent is what a read of a guest's file returned.
type FileContent struct {
	Data      []byte
	Truncated bool // there may be more
}

// AgentReadFile reads the first MaxRead bytes of a file in the guest.
func (c *Client) AgentReadFile(ctx context.Context, vm VM, path string) (FileContent, error) {
	return c.readFile(ctx, vm, url.Values{"file": {path}})
}

// AgentReadFileAt reads n bytes of a file from off on. Before PVE 9 there is
// no such call: Parameter.
func (c *Client) AgentReadFileAt(ctx context.Context, vm VM, path string, off int64, n int) (FileContent, error) {
	return c.readFile(ctx, vm, url.Values{
		"file": {path}, "offset": {strconv.FormatInt(off, 10)}, "count": {strconv.Itoa(min(n, MaxRead))},
	})
}

func (c *Client) readFile(ctx context.Context, vm VM, params url.Values) (FileContent, error) {
	r := getAgentFileRead.request(vm.args(), params)
	if err := requireASCII(r.String(), params.Get("file")); err != nil {
		return FileContent{}, err
	}
	var f struct {
		Content   Bytes
		Truncated Bool
	}
	err := c.call(ctx, getAgentFileRead, vm.args(), params, &f)
	return FileContent{f.Content, bool(f.Truncated)}, err
}

// AgentWriteFile replaces a file in the guest by at most MaxWrite bytes. A new
// file has mode 0666 whatever the umask (measured); its directory must exist.
func (c *Client) AgentWriteFile(ctx context.Context, vm VM, path string, data []byte) error {
	call := postAgentFileWrite.request(vm.args(), nil).String()
	if err := requireASCII(call, path); err != nil {
		return err
	}
	if len(data) > MaxWrite {
		return &Error{Kind: TooLarge, Call: call, Message: fmt.Sprintf("%d bytes, at most %d can be written at once", len(data), MaxWrite)}
	}
	params := url.Values{"file": {path}, "content": {base64.StdEncoding.EncodeToString(data)}, "encode": {"0"}}
	return c.call(ctx, postAgentFileWrite, vm.args(), params, nil)
}

// Interface is a network interface of the guest.
type Interface struct {
	Name string `json:"name"`
	MAC  string `json:"hardware-address"` // in lower case, unlike the config's
	// Addresses may be missing right after boot.
	Addresses []struct {
		Type   string `json:"ip-address-type"` // ipv4 or ipv6
		IP     string `json:"ip-address"`
		Prefix Int    `json:"prefix"`
	} `json:"ip-addresses"`
}

// AgentInterfaces returns the guest's network interfaces, lo included.
func (c *Client) AgentInterfaces(ctx context.Context, vm VM) ([]Interface, error) {
	var r struct{ Result []Interface }
	err := c.call(ctx, getAgentInterfaces, vm.args(), nil, &r)
	return r.Result, err
}

// OSInfo is the guest's /etc/os-release.
type OSInfo struct {
	ID         string `json:"id"`
	PrettyName string `json:"pretty-name"`
	VersionID  string `json:"version-id"`
	Kernel     string `json:"kernel-release"`
	Machine    string `json:"machine"`
}

// AgentOSInfo returns what the guest runs.
func (c *Client) AgentOSInfo(ctx context.Context, vm VM) (OSInfo, error) {
	var r struct{ Result OSInfo }
	err := c.call(ctx, getAgentOSInfo, vm.args(), nil, &r)
	return r.Result, err
}
