package proxmox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/sshboot"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

const (
	sshPort = "22"
	// addressTime is what connecting to one address may take.
	addressTime = 2 * time.Second
	// maxAddresses is how many of a guest's addresses are tried.
	maxAddresses = 4
	// sshPause is between tries of a guest that is still setting itself up.
	sshPause = time.Second
	// defaultAskAgain is the least time between two questions for the addresses
	// of a guest: an agent that is gone holds an API worker.
	defaultAskAgain = 30 * time.Second
	// askTime is what such a question may take of the time to log in.
	askTime = 5 * time.Second
)

// errNoWay: packets to the guest's addresses lead nowhere, which waiting does not mend.
var errNoWay = errors.New("no way to the guest's network from here")

// hostKeyFiles are where OpenSSH keeps the public halves of its host keys, the
// one we like best first.
var hostKeyFiles = []string{
	"/etc/ssh/ssh_host_ed25519_key.pub", "/etc/ssh/ssh_host_ecdsa_key.pub", "/etc/ssh/ssh_host_rsa_key.pub",
}

// sshGuest is a guest's SSH server, as its agent tells of it.
type sshGuest struct {
	p  *Provisioner
	vm pve.VM
	m  live

	mu        sync.Mutex
	addresses []netip.Addr // the one that was reached last first
	asked     time.Time
	first     net.Conn // made to see whether there is a way, for the first dial
}

// enterBySSH tries SSH until it works or patience is over. With success a
// command has run.
func (p *Provisioner) enterBySSH(ctx context.Context, m live, patience time.Duration) (guest.Conn, error) {
	if len(macs(m.cfg)) == 0 {
		return nil, errors.New("the machine has no network card: set network: internet or channel: agent in the profile")
	}
	program, err := provisioner.FindTool(p.Guest, "agentlab-guest")
	if err != nil {
		return nil, err
	}
	trying, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	g := &sshGuest{p: p, m: m, vm: m.vm}
	var last error
	for {
		conn, err := g.try(trying, program)
		if err == nil {
			return conn, nil
		}
		if last == nil || trying.Err() == nil { // that time is over says less than why
			last = err
		}
		if errors.Is(err, errNoWay) || sleep(trying, sshPause) != nil {
			return nil, fmt.Errorf("%w (or set channel: agent in the profile)", last)
		}
	}
}

// try opens a channel and runs a command over it.
func (g *sshGuest) try(ctx context.Context, program string) (guest.Conn, error) {
	if err := g.ask(ctx); err != nil {
		return nil, err
	}
	first, err := g.dial(ctx)
	if err != nil {
		return nil, err
	}
	keys, err := g.hostKeys(ctx)
	if err != nil {
		return nil, errors.Join(err, first.Close())
	}
	g.mu.Lock()
	g.first = first
	g.mu.Unlock()
	defer g.drop()
	signer, err := g.p.clientKey(g.m.papers.Sandbox, g.m.papers.Keys)
	if err != nil {
		return nil, err
	}
	own, err := g.p.Key.Derive("guest " + provisioner.OfGeneration(g.m.papers.Sandbox, g.m.papers.Keys))
	if err != nil {
		return nil, err
	}
	conn, err := sshboot.New(sshboot.Config{
		Dial: g.dial, User: g.p.userOn(g.m), HostKeys: keys, Signer: signer, GuestKey: own,
		Program: program, Home: home(g.p.userOn(g.m)),
	})
	if err != nil {
		return nil, err
	}
	if _, err := conn.Run(ctx, guest.Cmd{Args: []string{"true"}, Dir: "/"}, guest.Streams{}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// ask reads the guest's addresses from its agent.
func (g *sshGuest) ask(ctx context.Context) error {
	release, err := g.p.agents.Acquire(ctx, g.vm.Node)
	if err != nil {
		return err
	}
	defer release()
	all, err := g.p.Client.AgentInterfaces(ctx, g.vm)
	if err != nil {
		return fmt.Errorf("read the guest's addresses: %w", err)
	}
	found := addresses(all, macs(g.m.cfg))
	if len(found) == 0 {
		return errors.New("the guest has no address yet on the cards of its machine")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.addresses, g.asked = found, time.Now()
	return nil
}

// macs are the addresses of a machine's network cards, in lower case as the
// agent has them.
func macs(cfg pve.Config) (all []string) {
	for option, value := range cfg {
		if mac := macAddress.FindString(value); mac != "" && netOption.MatchString(option) {
			all = append(all, strings.ToLower(mac))
		}
	}
	return all
}

var (
	netOption  = regexp.MustCompile(`^net[0-9]+$`)
	macAddress = regexp.MustCompile(`\b(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}\b`)
)

// addresses are those at which a guest may be reached from elsewhere, IPv4
// first. Bridges of its own containers are not: their addresses may be ours, too.
func addresses(all []pve.Interface, macs []string) (found []netip.Addr) {
	for _, i := range all {
		if !slices.Contains(macs, strings.ToLower(i.MAC)) {
			continue
		}
		for _, a := range i.Addresses {
			ip, err := netip.ParseAddr(a.IP)
			if ip = ip.Unmap(); err == nil && ip.IsGlobalUnicast() && !slices.Contains(found, ip) {
				found = append(found, ip)
			}
		}
	}
	slices.SortStableFunc(found, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return found[:min(len(found), maxAddresses)]
}

// hostKeys reads from its agent which keys the guest's SSH server may show.
func (g *sshGuest) hostKeys(ctx context.Context) ([]ssh.PublicKey, error) {
	for _, path := range hostKeyFiles {
		text, err := g.p.readGuest(ctx, g.vm, path)
		if errors.Is(err, pve.NotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the guest's host key: %w", err)
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey(text)
		if err != nil {
			return nil, fmt.Errorf("read the guest's host key: %s: %w", path, err)
		}
		return []ssh.PublicKey{key}, nil
	}
	return nil, errors.New("the guest has no SSH host key yet; is openssh-server in its template?")
}

// readGuest reads a small file by the guest's agent.
func (p *Provisioner) readGuest(ctx context.Context, vm pve.VM, path string) ([]byte, error) {
	release, err := p.agents.Acquire(ctx, vm.Node)
	if err != nil {
		return nil, err
	}
	defer release()
	f, err := p.Client.AgentReadFile(ctx, vm, path)
	return f.Data, err
}

// dial connects to the guest's SSH server, where its agent says it is or, if the
// agent says nothing, where it was last. At an address that the guest has no
// more there may be nobody, or another machine that lets us connect, too.
func (g *sshGuest) dial(ctx context.Context) (net.Conn, error) {
	g.mu.Lock()
	old, first := time.Since(g.asked) > g.p.askAgain, g.first
	g.first = nil
	g.mu.Unlock()
	if first != nil {
		return first, nil
	}
	var unanswered error
	if old {
		asking, cancel := context.WithTimeout(ctx, askTime)
		unanswered = g.ask(asking)
		cancel()
	}
	g.mu.Lock()
	known := g.addresses
	if unanswered != nil {
		g.asked = time.Now()
	}
	g.mu.Unlock()
	nc, err := g.dialAny(ctx, known)
	if err != nil && unanswered != nil {
		err = fmt.Errorf("%w, and %w", err, unanswered)
	}
	return nc, err
}

// drop closes the first connection if it was not used.
func (g *sshGuest) drop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.first != nil {
		_ = g.first.Close()
		g.first = nil
	}
}

func (g *sshGuest) dialAny(ctx context.Context, known []netip.Addr) (net.Conn, error) {
	var errs []error
	lost := true
	for i, ip := range known {
		one, cancel := context.WithTimeout(ctx, addressTime)
		nc, err := g.p.DialSSH(one, ip)
		cancel()
		if err == nil {
			g.mu.Lock()
			g.addresses = slices.Concat(known[i:i+1], known[:i], known[i+1:])
			g.mu.Unlock()
			g.p.ways.setIP(g.m.papers.Sandbox, ip.String())
			return nc, nil
		}
		lost = lost && !errors.Is(err, syscall.ECONNREFUSED)
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	if lost {
		err = fmt.Errorf("%w: %w", errNoWay, err)
	}
	return nil, err
}

// dialSSH connects to port 22 of a guest.
func dialSSH(ctx context.Context, ip netip.Addr) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", net.JoinHostPort(ip.String(), sshPort))
}
