package agentconn_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// Of much output both ends come, and how much it was.
func TestEndsOfMuchOutput(t *testing.T) {
	m := boot(t, &pvetest.Server{})
	c := m.conn(t, "")
	_, out, err := c.Processes().Start(t.Context(), guest.Cmd{Args: []string{"seq", "10000000", "11999999"}}, guest.StartOptions{Wait: time.Hour, Max: 1800})
	check(t, err)
	head, tail := string(out.Stdout.Head), string(out.Stdout.Tail)
	if out.Stdout.Total != 18_000_000 || len(head)+len(tail) != 1800 || !strings.HasPrefix(head, "10000000\n10000001\n") || !strings.HasSuffix(tail, "11999998\n11999999\n") {
		t.Errorf("of %d bytes %.20q... and ...%.20q", out.Stdout.Total, head, tail[max(0, len(tail)-20):])
	}
}

// failing takes some output and then no more.
type failing struct{ left int }

var errEnough = errors.New("enough")

func (f *failing) Write(b []byte) (int, error) {
	if f.left -= len(b); f.left < 0 {
		return 0, errEnough
	}
	return len(b), nil
}

// Output that nobody wants any more leaves nothing in the guest, whoever gave up.
func TestGivenUpOutputLeavesNothing(t *testing.T) {
	m := boot(t, &pvetest.Server{})
	c := m.conn(t, "")
	flood := guest.Cmd{Args: []string{"sh", "-c", "cat /dev/urandom; : flood-7361"}}
	for name, giveUp := range map[string]func(ctx context.Context, cancel func()) error{
		"writer fails": func(ctx context.Context, _ func()) error {
			_, err := c.Run(ctx, flood, guest.Streams{Stdout: &failing{6 << 20}})
			return err
		},
		"call is cancelled": func(ctx context.Context, cancel func()) error {
			out, in := io.Pipe()
			go func() {
				_, _ = io.CopyN(io.Discard, out, 6<<20)
				cancel()
				_ = out.Close()
			}()
			_, err := c.Run(ctx, flood, guest.Streams{Stdout: in})
			return err
		},
		"command is killed": func(ctx context.Context, _ func()) error {
			cmd := guest.Cmd{Args: []string{"sh", "-c", "head -c 6000000 /dev/urandom; kill -KILL $$; : flood-7361"}}
			exit, err := c.Run(ctx, cmd, guest.Streams{Stdout: &failing{6_000_000}})
			if exit.Signal != "KILL" {
				t.Errorf("exit %+v", exit)
			}
			return err
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		if err := giveUp(ctx, cancel); err != nil && !errors.Is(err, errEnough) && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
		for end := time.Now().Add(time.Minute); ; {
			left := m.running(t, c, "flood-7361") + m.sh(t, c, `cd /var/lib/agentlab; for r in r_*; do [ $r = "$AGENTLAB_JOB" ] || echo $r; done; find tmp.* -size +100k`)
			if left == "" {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %q is left", name, left)
			}
		}
	}
}
