package mcpserver

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// What is answered of tokens that are none, of one address.
const (
	strikesAtOnce = 20              // with what is wrong
	strikeEvery   = 3 * time.Second // and then one in each time; others are told to wait
	maxStrikers   = 4096            // addresses that are remembered
)

// strikes limit how often an address may show tokens that are none. It is only
// asked of those: whoever has a token that is one gets through, also from behind
// the same proxy, whose address is all that we can go by. What clients say of
// where they are (X-Forwarded-For) anybody can say.
type strikes struct {
	mu     sync.Mutex
	byAddr map[netip.Prefix]*rate.Limiter
}

// strike notes a token that is none. It returns how long the address must wait
// with the next one, 0 if not at all.
func (s *strikes) strike(remote string) time.Duration {
	r := s.of(network(remote)).Reserve()
	wait := r.Delay()
	if wait > 0 {
		r.Cancel()
	}
	return wait
}

// of returns what limits the addresses of a network. When there are too many to
// remember, those that are new share one.
func (s *strikes) of(from netip.Prefix) *rate.Limiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byAddr == nil {
		s.byAddr = map[netip.Prefix]*rate.Limiter{}
	}
	if s.byAddr[from] == nil && len(s.byAddr) >= maxStrikers {
		from = netip.Prefix{}
	}
	l := s.byAddr[from]
	if l == nil {
		l = rate.NewLimiter(rate.Every(strikeEvery), strikesAtOnce)
		s.byAddr[from] = l
	}
	return l
}

// sweep forgets the addresses that may show as many again as any other.
func (s *strikes) sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for from, l := range s.byAddr {
		if l.Tokens() >= strikesAtOnce {
			delete(s.byAddr, from)
		}
	}
}

// network is what one host has of addresses: one of IPv4, and 64 bits of IPv6
// (RFC 6177 gives a site no less). The zero Prefix is for what is no address.
func network(remote string) netip.Prefix {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{}
	}
	bits := 32
	if addr = addr.Unmap().WithZone(""); addr.Is6() {
		bits = 64
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
