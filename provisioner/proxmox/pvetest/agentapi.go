package pvetest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// How long PVE waits for the agent (QMPClient.pm:138-140).
const (
	agentPing     = 3 * time.Second
	agentPatience = 5 * time.Second
)

// brokenPipe is how long pveproxy takes to notice that pvedaemon died (measured).
const brokenPipe = 5 * time.Second

func agentRoutes() []*route {
	const path = vmPath + "/agent"
	const audit9 = "/vms/{vmid} VM.GuestAgent.Audit|VM.GuestAgent.Unrestricted"
	const fs9 = "/vms/{vmid} VM.GuestAgent.FileSystemMgmt|VM.GuestAgent.Unrestricted"
	const power9 = "/vms/{vmid} VM.PowerMgmt|VM.GuestAgent.Unrestricted"
	const all9 = "/vms/{vmid} VM.GuestAgent.Unrestricted"
	const monitor = "/vms/{vmid} VM.Monitor"
	list := []*route{
		{method: "GET", path: path, call: agentIndex},
		{method: "POST", path: path, call: legacyAgent, perm: monitor, perm9: "/vms/{vmid} VM.GuestAgent.Unrestricted|VM.GuestAgent.Unrestricted", params: "command!=enum:" + legacyCommands},
		{method: "POST", path: path + "/exec", call: agentExec, perm: monitor, perm9: all9, params: "command!=array input-data=string,len=65536"},
		{method: "GET", path: path + "/exec-status", call: agentExecStatus, perm: monitor, perm9: all9, params: "pid!=int"},
		{method: "GET", path: path + "/file-read", call: agentFileRead, perm: monitor, perm9: "/vms/{vmid} VM.GuestAgent.FileRead|VM.GuestAgent.Unrestricted",
			shows: "content truncated", params: "file!", params9: "count=int,min=1,max=16777216 offset=int,min=0 decode=bool"},
		{method: "POST", path: path + "/file-write", call: agentFileWrite, perm: monitor, perm9: "/vms/{vmid} VM.GuestAgent.FileWrite|VM.GuestAgent.Unrestricted",
			params: "file! content!=string,len=61440 encode=bool"},
		{method: "POST", path: path + "/set-user-password", call: agentPassword, perm: monitor, perm9: all9,
			params: "username! password!=string,len=1024,least=5 crypted=bool"},
	}
	simple := map[string]string{ // command: method and permission since 9.0
		"ping": "POST" + audit9, "info": "GET" + audit9, "network-get-interfaces": "GET" + audit9, "get-fsinfo": "GET" + audit9,
		"get-host-name": "GET" + audit9, "get-memory-block-info": "GET" + audit9, "get-memory-blocks": "GET" + audit9, "get-osinfo": "GET" + audit9,
		"get-time": "GET" + audit9, "get-timezone": "GET" + audit9, "get-users": "GET" + audit9, "get-vcpus": "GET" + audit9,
		"fsfreeze-status": "POST/vms/{vmid} VM.GuestAgent.Audit|VM.GuestAgent.FileSystemMgmt|VM.GuestAgent.Unrestricted",
		"fsfreeze-freeze": "POST" + fs9, "fsfreeze-thaw": "POST" + fs9, "fstrim": "POST" + fs9,
		"shutdown": "POST" + power9, "suspend-disk": "POST" + power9, "suspend-hybrid": "POST" + power9, "suspend-ram": "POST" + power9,
	}
	for cmd, def := range simple {
		method, perm9, _ := strings.Cut(def, "/")
		list = append(list, &route{method: method, path: path + "/" + cmd, perm: monitor, perm9: "/" + perm9,
			call: func(c *call) (any, error) { return c.simpleAgent(cmd) }})
	}
	for _, r := range list {
		r.daemon = r.path != path || r.method != "GET"
	}
	return list
}

const legacyCommands = "fsfreeze-freeze/fsfreeze-status/fsfreeze-thaw/fstrim/get-fsinfo/get-host-name/get-memory-block-info/get-memory-blocks" +
	"/get-osinfo/get-time/get-timezone/get-users/get-vcpus/info/network-get-interfaces/ping/shutdown/suspend-disk/suspend-hybrid/suspend-ram"

func agentIndex(*call) (any, error) {
	out := []map[string]any{}
	for n := range strings.FieldsSeq("exec exec-status file-read file-write " + strings.ReplaceAll(legacyCommands, "/", " ")) {
		if n == "shutdown" {
			out = append(out, map[string]any{"name": "set-user-password"})
		}
		out = append(out, map[string]any{"name": n})
	}
	return out, nil
}

func legacyAgent(c *call) (any, error) { return c.simpleAgent(c.p.str("command")) }

// monitorName is how the error of a timeout calls the channel.
func (s *Server) monitorName() string {
	if s.release() >= 900 {
		return "qga"
	}
	return "qmp"
}

// agentVM is QemuServer/Agent.pm agent_available: what can be wrong, in its
// order. Whether the agent is off, booting or hung can't be told from it.
func (c *call) agentVM() (*VM, error) {
	vm, err := c.vm()
	if err != nil {
		return nil, err
	}
	on, configured := vm.agentEnabled()
	switch {
	case !configured:
		return nil, die("No QEMU guest agent configured")
	case !vm.Running:
		return nil, die("VM %d is not running", vm.ID)
	case !on:
		return nil, die("QEMU guest agent is not running")
	}
	if _, err := c.agentCommand(c.ctx(), vm, "guest-ping", nil, agentPing); err != nil {
		return nil, die("QEMU guest agent is not running")
	}
	return vm, nil
}

// agentCommand sends one command. An agent that can't answer makes it wait the
// time PVE waits, with its worker.
func (c *call) agentCommand(ctx context.Context, vm *VM, execute string, args map[string]any, wait time.Duration) (json.RawMessage, error) {
	s := c.s
	m := s.guests[vm.ID]
	silent := m == nil || m.never || vm.QMPStatus == "paused"
	if !silent && time.Now().Before(m.ready) {
		d := time.Until(m.ready)
		if silent = d > s.scaled(wait); !silent {
			_ = s.sleep(ctx, d)
		}
	}
	if silent {
		_ = s.sleep(ctx, s.scaled(wait))
		return nil, errAgentTimeout
	}
	line := agentLine(execute, args, s.argumentsLast())
	ctx, cancel := context.WithTimeout(ctx, s.patience(wait, 1))
	defer cancel()
	var out json.RawMessage
	var err error
	s.unlocked(func() { out, err = m.command(ctx, line, s.scaled(wait)) })
	if err == nil && s.LoseReply != nil && s.LoseReply(vm.ID, string(out)) {
		_ = s.sleep(ctx, s.scaled(wait))
		return nil, errAgentTimeout
	}
	return out, err
}

func (s *Server) argumentsLast() bool {
	if s.ArgumentsLast != nil {
		return s.ArgumentsLast()
	}
	return time.Now().UnixNano()&1 == 0
}

// agentLine is the JSON of a command; the order of its two keys is Perl's.
func agentLine(execute string, args map[string]any, argumentsLast bool) string {
	if args == nil {
		return string(encode(map[string]any{"execute": execute}))
	}
	name, body := string(encode(execute)), string(encode(args))
	if argumentsLast {
		return `{"execute":` + name + `,"arguments":` + body + `}`
	}
	return `{"arguments":` + body + `,"execute":` + name + `}`
}

// agent is ping and command, with the errors of the API.
func (c *call) agent(execute string, args map[string]any, into any) error {
	vm, err := c.agentVM()
	if err != nil {
		return err
	}
	out, err := c.agentCommand(c.ctx(), vm, execute, args, agentPatience)
	if err != nil {
		return c.agentFailed(vm, execute, err)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(out, into)
}

// agentFailed: an error text with characters beyond Latin-1 kills pvedaemon,
// which can't write them (AnyEvent/Handle.pm:1007, measured).
func (c *call) agentFailed(vm *VM, execute string, err error) error {
	var said *agentError
	if !errors.As(err, &said) {
		return die("VM %d %s command '%s' failed - %v", vm.ID, c.s.monitorName(), execute, err)
	}
	if !isLatin1(said.desc) && c.shell == nil {
		_ = c.s.sleep(c.ctx(), c.s.scaled(brokenPipe))
		return &apiError{status: 596, message: "Broken pipe", bare: true}
	}
	return die("%v", said)
}

func (c *call) simpleAgent(cmd string) (any, error) {
	execute := "guest-" + cmd
	if cmd == "shutdown" {
		execute = "guest-shutdown"
	}
	var result any
	if err := c.agent(execute, nil, &result); err != nil {
		return nil, err
	}
	if m := c.s.guests[c.vmid()]; cmd == "network-get-interfaces" && m != nil && time.Now().Before(m.address) {
		result = withoutAddress(result)
	}
	return map[string]any{"result": result}, nil
}

// withoutAddress is what a guest says of its network before it has got an
// address for it (measured).
func withoutAddress(interfaces any) any {
	list, _ := interfaces.([]any)
	for _, e := range list {
		card, _ := e.(map[string]any)
		addresses, _ := card["ip-addresses"].([]any)
		if card["name"] == "lo" || addresses == nil {
			continue
		}
		card["ip-addresses"] = slices.DeleteFunc(addresses, func(a any) bool { return a.(map[string]any)["ip-address-type"] == "ipv4" })
	}
	return interfaces
}

func agentExec(c *call) (any, error) {
	command := c.p.list("command")
	args := map[string]any{"path": command[0], "arg": append([]string{}, command[1:]...), "capture-output": true}
	if c.p.has("input-data") {
		data, err := latin1(c.p.str("input-data"), "QemuServer/Agent.pm line 82")
		if err != nil {
			return nil, err
		}
		args["input-data"] = base64.StdEncoding.EncodeToString(data)
	}
	var out struct {
		PID int `json:"pid"`
	}
	if err := c.agent("guest-exec", args, &out); err != nil {
		return nil, err
	}
	return map[string]any{"pid": out.PID}, nil
}

// agentExecStatus: one code point for each byte of output, and 0 and 1 instead
// of booleans.
func agentExecStatus(c *call) (any, error) {
	var st map[string]any
	if err := c.agent("guest-exec-status", map[string]any{"pid": c.p.num("pid")}, &st); err != nil {
		return nil, err
	}
	for k, v := range st {
		switch v := v.(type) {
		case bool:
			st[k] = number(v)
		case string:
			b, _ := base64.StdEncoding.DecodeString(v)
			st[k] = fromLatin1(b)
		}
	}
	for _, stream := range []string{"out", "err"} {
		if _, ok := st[stream+"-data"]; ok && st[stream+"-truncated"] == nil {
			st[stream+"-truncated"] = 0
		}
	}
	return st, nil
}

// maxFileRead is API2/Qemu/Agent.pm:17; readChunk is what it asks for at once.
const (
	maxFileRead = 16 << 20
	readChunk   = 1 << 20
)

func agentFileRead(c *call) (any, error) {
	count := maxFileRead
	if c.p.has("count") {
		count = c.p.num("count")
	}
	var handle int
	if err := c.agent("guest-file-open", map[string]any{"path": c.p.str("file"), "mode": "r"}, &handle); err != nil {
		return nil, err
	}
	defer func() { _ = c.agent("guest-file-close", map[string]any{"handle": handle}, nil) }()
	if off := c.p.num("offset"); off > 0 {
		if err := c.agent("guest-file-seek", map[string]any{"handle": handle, "offset": off, "whence": 0}, nil); err != nil {
			return nil, err
		}
	}
	var content []byte
	eof := false
	for !eof && len(content) < count {
		var part struct {
			Count int    `json:"count"`
			Buf   string `json:"buf-b64"`
			EOF   bool   `json:"eof"`
		}
		args := map[string]any{"handle": handle, "count": min(readChunk, count-len(content))}
		if err := c.agent("guest-file-read", args, &part); err != nil {
			return nil, err
		}
		data, _ := base64.StdEncoding.DecodeString(part.Buf)
		content, eof = append(content, data...), part.EOF
	}
	out := map[string]any{"bytes-read": len(content), "content": fromLatin1(content)}
	if c.p.has("decode") && !c.p.flag("decode") {
		out["content"] = base64.StdEncoding.EncodeToString(content)
	}
	if !eof {
		out["truncated"] = 1
	}
	return out, nil
}

// agentFileWrite truncates the file before it finds out that the content is no
// base64 (measured).
func agentFileWrite(c *call) (any, error) {
	content := c.p.str("content")
	if !c.p.has("encode") || c.p.flag("encode") {
		data, err := latin1(content, "API2/Qemu/Agent.pm line 521")
		if err != nil {
			return nil, err
		}
		content = base64.StdEncoding.EncodeToString(data)
	}
	var handle int
	if err := c.agent("guest-file-open", map[string]any{"path": c.p.str("file"), "mode": "wb"}, &handle); err != nil {
		return nil, err
	}
	write := c.agent("guest-file-write", map[string]any{"handle": handle, "buf-b64": content}, nil)
	if err := c.agent("guest-file-close", map[string]any{"handle": handle}, nil); err != nil && write == nil {
		return nil, err
	}
	return nil, write
}

func agentPassword(c *call) (any, error) {
	args := map[string]any{
		"username": c.p.str("username"), "crypted": c.p.flag("crypted"),
		"password": base64.StdEncoding.EncodeToString([]byte(c.p.str("password"))),
	}
	if err := c.agent("guest-set-user-password", args, nil); err != nil {
		return nil, err
	}
	return map[string]any{"result": map[string]any{}}, nil
}

// latin1 makes a byte of every character, as Perl's encode_base64 does, which
// dies of those that do not fit.
func latin1(text, where string) ([]byte, error) {
	out := make([]byte, 0, len(text))
	for _, r := range text {
		if r > 0xff {
			return nil, die("Wide character in subroutine entry at /usr/share/perl5/PVE/%s.", where)
		}
		out = append(out, byte(r))
	}
	return out, nil
}

func isLatin1(text string) bool {
	_, err := latin1(text, "")
	return err == nil
}

func fromLatin1(b []byte) string {
	beyond := 0
	for _, c := range b {
		beyond += int(c >> 7)
	}
	if beyond == 0 {
		return string(b)
	}
	out := make([]byte, 0, len(b)+beyond)
	for _, c := range b {
		out = utf8.AppendRune(out, rune(c))
	}
	return string(out)
}
