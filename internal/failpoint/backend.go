package failpoint

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

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

func (b backend) Create(ctx context.Context, spec provisioner.Spec) (m provisioner.Machine, err error) {
	err = b.points.Around(b.name+"create", func() (err error) {
		m, err = b.Provisioner.Create(ctx, spec)
		return err
	})
	return m, err
}

func (b backend) Destroy(ctx context.Context, ref provisioner.Ref) error {
	return b.points.Around(b.name+"destroy", func() error { return b.Provisioner.Destroy(ctx, ref) })
}

func (b backend) List(ctx context.Context) (all []provisioner.Machine, err error) {
	err = b.points.Around(b.name+"list", func() (err error) {
		all, err = b.Provisioner.List(ctx)
		return err
	})
	return all, err
}

func (b backend) Dial(ctx context.Context, ref provisioner.Ref) (c guest.Conn, err error) {
	err = b.points.Around(b.name+"dial", func() (err error) {
		c, err = b.Provisioner.Dial(ctx, ref)
		return err
	})
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

func (t transport) Do(ctx context.Context, r pve.Request) (data json.RawMessage, err error) {
	err = t.points.Around("pve "+callName(r), func() (err error) {
		data, err = t.Transport.Do(ctx, r)
		return err
	})
	return data, err
}

// callName names a call without what differs from one run to the next: nodes,
// the ids of machines, tasks and volumes.
func callName(r pve.Request) string {
	var words []string
	for i, word := range r.Path {
		switch {
		case i > 0 && r.Path[i-1] == "nodes", strings.Trim(word, "0123456789") == "", strings.Contains(word, ":"):
		default:
			words = append(words, word)
		}
	}
	return r.Method + " " + strings.Join(words, "/")
}
