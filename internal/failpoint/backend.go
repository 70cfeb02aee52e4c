package failpoint

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
)

// Backend returns b with points around each of its methods and those of the
// channels that it opens.
func (p *Points) Backend(name string, b provisioner.Provisioner) provisioner.Provisioner {
	if p == nil {
		return b
	}
	return backend{b, name + " ", p}
}

type backend struct {
	provisioner.Provisioner
	name   string
	points *Points
}

// Unwrap lets the other abilities of the backend be found.
func (b backend) Unwrap() provisioner.Provisioner { return b.Provisioner }

func (b backend) Create(ctx context.Context, spec provisioner.Spec) (provisioner.Machine, error) {
	return around(b.points, b.name+"create", func() (provisioner.Machine, error) { return b.Provisioner.Create(ctx, spec) })
}

func (b backend) Destroy(ctx context.Context, ref provisioner.Ref) error {
	return b.points.Around(b.name+"destroy", func() error { return b.Provisioner.Destroy(ctx, ref) })
}

func (b backend) List(ctx context.Context) ([]provisioner.Machine, error) {
	return around(b.points, b.name+"list", func() ([]provisioner.Machine, error) { return b.Provisioner.List(ctx) })
}

func (b backend) Dial(ctx context.Context, ref provisioner.Ref) (guest.Conn, error) {
	c, err := around(b.points, b.name+"dial", func() (guest.Conn, error) { return b.Provisioner.Dial(ctx, ref) })
	if err != nil {
		return nil, err
	}
	return conn{c, b.points}, nil
}

// Relabel implements [provisioner.Relabeler], which every backend does.
func (b backend) Relabel(ctx context.Context, ref provisioner.Ref, papers provisioner.Papers) error {
	r, ok := provisioner.As[provisioner.Relabeler](b.Provisioner)
	if !ok {
		return fmt.Errorf("%T can't change papers", b.Provisioner)
	}
	return b.points.Around(b.name+"relabel", func() error { return r.Relabel(ctx, ref, papers) })
}

// pooler returns the ability of the backend, which every one has.
func (b backend) pooler() (provisioner.Pooler, error) {
	p, ok := provisioner.As[provisioner.Pooler](b.Provisioner)
	if !ok {
		return nil, fmt.Errorf("%T can't hand over machines", b.Provisioner)
	}
	return p, nil
}

// Recipe implements [provisioner.Pooler]. It has no points: it changes nothing.
func (b backend) Recipe(ctx context.Context, spec provisioner.Spec) (string, error) {
	p, err := b.pooler()
	if err != nil {
		return "", err
	}
	return p.Recipe(ctx, spec)
}

// Rekey implements [provisioner.Pooler].
func (b backend) Rekey(ctx context.Context, ref provisioner.Ref, spec provisioner.Spec, old guest.Conn) (guest.Conn, error) {
	p, err := b.pooler()
	if err != nil {
		return nil, err
	}
	c, err := around(b.points, b.name+"rekey", func() (guest.Conn, error) { return p.Rekey(ctx, ref, spec, old) })
	if err != nil {
		return nil, err
	}
	return conn{c, b.points}, nil
}

// Transport returns t with points around each call.
func (p *Points) Transport(t pve.Transport) pve.Transport {
	if p == nil {
		return t
	}
	return transport{t, p}
}

type transport struct {
	pve.Transport
	points *Points
}

func (t transport) Do(ctx context.Context, r pve.Request) (json.RawMessage, error) {
	return around(t.points, "pve "+r.Name(), func() (json.RawMessage, error) { return t.Transport.Do(ctx, r) })
}
