package pvetest

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
)

// idleGuest answers the agent's questions and can't run anything. It is
// nothing but a goroutine, so that there may be thousands.
type idleGuest struct {
	agent *qga
	host  net.Conn
	done  chan struct{}
	end   func()
}

func newIdleGuest(spec GuestSpec) *idleGuest {
	host, inside := net.Pipe()
	g := &idleGuest{host: host, done: make(chan struct{})}
	g.end = sync.OnceFunc(func() { _ = host.Close(); _ = inside.Close(); close(g.done) })
	g.agent = spec.agent()
	g.agent.shutdown = func(string) { go g.end() }
	if !spec.Stock { // then nobody listens
		go func() { _ = g.agent.serve(inside) }()
	}
	return g
}

func (g *idleGuest) Agent(context.Context) (net.Conn, error) { return g.host, nil }
func (g *idleGuest) Powerdown()                              { g.end() }
func (g *idleGuest) Kill()                                   { g.end() }
func (g *idleGuest) Done() <-chan struct{}                   { return g.done }

// agent knows the network from the VM's configuration: a static address of
// cloud-init, or one of its own.
func (spec GuestSpec) agent() *qga {
	q := &qga{name: spec.Name, ip: fmt.Sprintf("10.77.%d.%d", spec.VMID/250%250, 1+spec.VMID%250)}
	net0, _ := splitProperties(spec.Config["net0"], "model")
	q.mac = strings.ToLower(net0.str("macaddr"))
	ip0, _ := splitProperties(spec.Config["ipconfig0"], "")
	if addr, _, ok := strings.Cut(ip0.str("ip"), "/"); ok {
		q.ip = addr
	}
	return q
}
