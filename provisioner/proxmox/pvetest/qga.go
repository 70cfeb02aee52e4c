package pvetest

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// qga is a guest agent as qemu-ga is one: it reads JSON from the channel and
// answers a line for each. What it can't do by itself is in its functions.
type qga struct {
	name     string
	mac, ip  string
	run      *runner // nil can't run or open anything
	shutdown func(mode string)

	mu     sync.Mutex
	frozen bool
}

type qgaArgs struct {
	ID       int64    `json:"id"`
	Path     string   `json:"path"`
	Arg      []string `json:"arg"`
	Env      []string `json:"env"`
	Input    *string  `json:"input-data"`
	PID      int      `json:"pid"`
	Mode     string   `json:"mode"`
	Handle   int      `json:"handle"`
	Count    *int     `json:"count"`
	Buf      string   `json:"buf-b64"`
	Offset   int64    `json:"offset"`
	Whence   int      `json:"whence"`
	Username string   `json:"username"`
}

// serve answers until the channel ends.
func (q *qga) serve(rw io.ReadWriter) error {
	var st streamer
	buf := make([]byte, 64<<10)
	for {
		n, err := rw.Read(buf)
		for _, b := range buf[:n] {
			msg, bad := st.feed(b)
			var reply any
			switch {
			case bad:
				reply = qgaError("JSON parse error, stray input")
			case msg != nil:
				reply = q.handle(msg)
			default:
				continue
			}
			if reply == nil {
				continue
			}
			if _, err := rw.Write(append(encode(reply), '\n')); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

func qgaError(format string, args ...any) map[string]any {
	return map[string]any{"error": map[string]any{"class": "GenericError", "desc": fmt.Sprintf(format, args...)}}
}

func (q *qga) handle(msg []byte) any {
	var cmd struct {
		Execute   string  `json:"execute"`
		Arguments qgaArgs `json:"arguments"`
	}
	if err := json.Unmarshal(msg, &cmd); err != nil {
		return qgaError("JSON parse error, %v", err)
	}
	out, err := q.execute(cmd.Execute, cmd.Arguments)
	if err != nil {
		return qgaError("%s", err.Error())
	}
	if out == nil {
		out = map[string]any{}
	}
	if _, silent := out.(noReply); silent {
		return nil
	}
	return map[string]any{"return": out}
}

// noReply is the answer of commands that have none when they succeed.
type noReply struct{}

func (q *qga) execute(name string, a qgaArgs) (any, error) {
	switch name {
	case "guest-sync", "guest-sync-delimited":
		return a.ID, nil
	case "guest-ping", "guest-fstrim":
		return nil, nil
	case "guest-shutdown":
		q.shutdown(a.Mode)
		return noReply{}, nil
	case "guest-fsfreeze-status", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw":
		return q.freeze(name), nil
	case "guest-set-user-password":
		return nil, fmt.Errorf("child process has failed to set user password")
	}
	if out, ok := q.facts(name); ok {
		return out, nil
	}
	if q.run != nil {
		if out, ok, err := q.run.execute(name, a); ok {
			return out, err
		}
	}
	return nil, fmt.Errorf("The command %s has not been found", name) //nolint:staticcheck // qemu-ga's words
}

func (q *qga) freeze(name string) any {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch name {
	case "guest-fsfreeze-freeze":
		q.frozen = true
		return 1
	case "guest-fsfreeze-thaw":
		q.frozen = false
		return 1
	}
	if q.frozen {
		return "frozen"
	}
	return "thawed"
}

// facts are what the agent says of its machine.
func (q *qga) facts(name string) (any, bool) {
	switch name {
	case "guest-info":
		var cmds []map[string]any
		for _, c := range []string{"guest-exec", "guest-exec-status", "guest-file-open", "guest-file-read", "guest-file-write", "guest-ping", "guest-sync"} {
			cmds = append(cmds, map[string]any{"name": c, "enabled": q.run != nil || c == "guest-ping" || c == "guest-sync", "success-response": true})
		}
		return map[string]any{"version": "7.2.22", "supported_commands": cmds}, true
	case "guest-get-osinfo":
		return map[string]any{"id": "debian", "name": "Debian GNU/Linux", "version": "12 (bookworm)", "version-id": "12", "machine": "x86_64",
			"pretty-name": "Debian GNU/Linux 12 (bookworm)", "kernel-release": "6.1.0-56-cloud-amd64", "kernel-version": "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)"}, true
	case "guest-get-host-name":
		return map[string]any{"host-name": q.name}, true
	case "guest-get-time":
		return time.Now().UnixNano(), true
	case "guest-get-timezone":
		return map[string]any{"zone": "UTC", "offset": 0}, true
	case "guest-get-users":
		return []any{}, true
	case "guest-get-vcpus":
		return []map[string]any{{"logical-id": 0, "online": true, "can-offline": false}}, true
	case "guest-get-memory-blocks":
		return []map[string]any{{"phys-index": 0, "online": true, "can-offline": true}}, true
	case "guest-get-memory-block-info":
		return map[string]any{"size": 134217728}, true
	case "guest-get-fsinfo":
		return []map[string]any{{"name": "sda1", "mountpoint": "/", "type": "ext4", "used-bytes": 540000256, "total-bytes": 2040373248, "disk": []any{}}}, true
	case "guest-network-get-interfaces":
		return q.interfaces(), true
	}
	return nil, false
}

// leaseFile holds the address of a process guest when it is another than at its boot.
const leaseFile = "/run/address"

func (q *qga) interfaces() []map[string]any {
	zero := map[string]any{}
	for _, k := range []string{"rx-bytes", "rx-packets", "rx-errs", "rx-dropped", "tx-bytes", "tx-packets", "tx-errs", "tx-dropped"} {
		zero[k] = 0
	}
	addr := func(family, ip string, prefix int) map[string]any {
		return map[string]any{"ip-address-type": family, "ip-address": ip, "prefix": prefix}
	}
	eth := map[string]any{"name": "eth0", "hardware-address": q.mac, "statistics": zero}
	ip := q.ip
	if q.run != nil {
		if lease, err := os.ReadFile(leaseFile); err == nil {
			ip = string(lease)
		}
	}
	if ip != "" { // without an address the key is missing (measured)
		eth["ip-addresses"] = []any{addr("ipv4", ip, 24), addr("ipv6", "fe80::be24:11ff:fe00:1", 64)}
	}
	return []map[string]any{
		{"name": "lo", "hardware-address": "00:00:00:00:00:00", "statistics": zero, "ip-addresses": []any{addr("ipv4", "127.0.0.1", 8), addr("ipv6", "::1", 128)}},
		eth,
	}
}

// streamer is QEMU's JSON message parser (qobject/json-streamer.c): it collects
// until all brackets are closed. A control character within a string is an
// error that makes it begin anew, and so is a byte 0xFF; brackets that stay
// open make it wait for ever.
type streamer struct {
	buf      []byte
	depth    int
	inString bool
	escaped  bool
}

// feed takes a byte; it returns a whole message, or that there was an error.
func (st *streamer) feed(b byte) (msg []byte, bad bool) {
	if b == 0xff || st.inString && b < 0x20 || st.depth < 0 {
		was := len(st.buf) > 0
		*st = streamer{}
		return nil, was
	}
	if len(st.buf) == 0 && !st.inString && (b == '\n' || b == ' ' || b == '\r' || b == '\t') {
		return nil, false
	}
	st.buf = append(st.buf, b)
	switch {
	case st.escaped:
		st.escaped = false
	case st.inString && b == '\\':
		st.escaped = true
	case b == '"':
		st.inString = !st.inString
	case st.inString:
	case b == '{' || b == '[':
		st.depth++
	case b == '}' || b == ']':
		st.depth--
	}
	if st.depth == 0 && !st.inString && (b == '}' || b == ']') {
		msg = st.buf
		*st = streamer{}
		return msg, false
	}
	return nil, false
}

// hostError is an error of the operating system without what we did.
func hostError(err error) string {
	if pe, ok := err.(*os.PathError); ok { //nolint:errorlint // straight from os
		err = pe.Err
	}
	return capitalized(err.Error())
}

func capitalized(s string) string {
	if s == "" {
		return s
	}
	return string(s[0]-'a'+'A') + s[1:]
}
