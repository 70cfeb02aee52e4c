package sessions

import (
	"cmp"
	"crypto/rand"
	"slices"
	"strings"
	"time"
)

// draft returns the sandbox that a request asks for, or what is wrong with it.
func (m *Manager) draft(who Principal, req CreateRequest) (Sandbox, error) {
	p, err := m.Profile(req.Profile)
	if err != nil {
		return Sandbox{}, err
	}
	if _, ok := m.Backends[p.Backend]; !ok {
		return Sandbox{}, Errorf(Unavailable, "profile %s can't be used now: %s", p.Name, p.homeless())
	}
	if err := req.validate(p); err != nil {
		return Sandbox{}, err
	}
	now := m.now()
	return Sandbox{
		ID:       newID(),
		Name:     req.Name,
		Owner:    who.Name,
		Profile:  p.Name,
		Backend:  p.Backend,
		State:    Requested,
		Created:  now,
		End:      now.Add(cmp.Or(req.TTL, p.TTL)),
		MaxEnd:   now.Add(p.MaxTTL),
		Cores:    cmp.Or(req.Cores, p.Cores),
		MemoryMB: cmp.Or(req.MemoryMB, p.MemoryMB),
		DiskMB:   cmp.Or(req.DiskMB, p.DiskMB),
		Network:  cmp.Or(req.Network, p.Network),
	}, nil
}

func newID() string { return idPrefix + strings.ToLower(rand.Text()[:20]) } // 5 bits a character

// validate compares the fields that are set with what the profile allows.
func (r CreateRequest) validate(p Profile) error {
	if r.Name != "" && !validName.MatchString(r.Name) {
		return Errorf(Invalid, "name is %q, allowed: %s", clip(r.Name, 64), nameRule)
	}
	for _, f := range []struct {
		name              string
		value, least, max int
	}{
		{"cpu", r.Cores, 1, p.MaxCores},
		{"memory_mb", r.MemoryMB, minMemoryMB, p.MaxMemoryMB},
	} {
		if f.value != 0 && (f.value < f.least || f.value > f.max) {
			return Errorf(Invalid, "%s is %d, allowed: %d to %d", f.name, f.value, f.least, f.max)
		}
	}
	if mb := r.DiskMB; mb != 0 && (mb < minDiskMB || mb > p.MaxDiskMB) {
		return Errorf(Invalid, "disk_gb is %.3g, allowed: %.3g to %.3g", gigabytes(mb), gigabytes(minDiskMB), gigabytes(p.MaxDiskMB))
	}
	if r.Network != "" {
		allowed := networks[:slices.Index(networks, p.Network)+1]
		if !slices.Contains(allowed, r.Network) {
			return Errorf(Invalid, "network is %q, allowed by profile %s: %s", clip(r.Network, 64), p.Name, strings.Join(allowed, ", "))
		}
	}
	if r.TTL != 0 {
		return validTTL(r.TTL, p.MinTTL, p.MaxTTL)
	}
	return nil
}

func gigabytes(mb int) float64 { return float64(mb) / 1024 }

func validTTL(ttl, least, most time.Duration) error {
	if ttl < least || ttl > most {
		return Errorf(Invalid, "ttl_seconds is %d, allowed: %d to %d", int64(ttl/time.Second), int64(least/time.Second), int64(most/time.Second))
	}
	return nil
}
