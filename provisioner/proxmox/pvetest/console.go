package pvetest

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strconv"
	"time"
)

// firstConsole is the first of the ports that VNC proxies listen on.
const firstConsole = 5900

func consoleRoutes() []*route {
	const perm = "/vms/{vmid} VM.Console"
	return []*route{
		{method: "POST", path: vmPath + "/vncproxy", call: openConsole, daemon: true, perm: perm, params: "generate-password=bool websocket=bool"},
		{method: "GET", path: vmPath + "/vncwebsocket", call: consoleSocket, perm: perm, params: "port!=int,min=5900,max=5999 vncticket!=string,len=512"},
	}
}

// openConsole gives a ticket and a port also for a VM that is stopped
// (measured). Nobody listens there: there is no screen.
func openConsole(c *call) (any, error) {
	if _, err := c.vm(); err != nil {
		return nil, err
	}
	port := firstConsole
	for _, t := range c.s.c.tasks {
		if t.typ == "vncproxy" && t.running() {
			port++
		}
	}
	ticket := fmt.Sprintf("%s:PVEVNC:%08X::%s", c.who.name, time.Now().Unix(), base64.StdEncoding.EncodeToString([]byte(newUUID())))
	c.s.c.consoles[ticket] = c.vmid()
	upid, err := c.fork("vncproxy", strconv.Itoa(c.vmid()), func(j *job) error { return j.spend() })
	if err != nil {
		return nil, err
	}
	var cert string
	if l := c.s.listeners[c.node.Name]; l != nil {
		cert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.cert.Certificate[0]}))
	}
	password := ticket
	if c.p.flag("generate-password") {
		password = newUUID()[:8]
	}
	return map[string]any{"user": c.who.name, "ticket": ticket, "port": strconv.Itoa(port), "cert": cert, "upid": upid, "password": password}, nil
}

// consoleSocket is what is checked before the connection becomes a WebSocket.
func consoleSocket(c *call) (any, error) {
	if id, ok := c.s.c.consoles[c.p.str("vncticket")]; !ok || id != c.vmid() {
		return nil, unauthorized("permission denied - invalid PVEVNC ticket")
	}
	return map[string]any{"port": c.p.str("port")}, nil
}
