package agentconn_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/agentconn"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pve"
	"github.com/agentlab-mcp/agentlab/provisioner/proxmox/pvetest"
)

// counting counts calls by their names. A look at a process is answered when it
// has ended, so that what is counted depends on no time.
type counting struct {
	pve.Transport
	mu    sync.Mutex
	calls map[string]int
}

func (c *counting) Do(ctx context.Context, r pve.Request) (json.RawMessage, error) {
	name := path.Base(strings.Join(r.Path, "/"))
	c.mu.Lock()
	c.calls[name]++
	c.mu.Unlock()
	for {
		out, err := c.Transport.Do(ctx, r)
		var s pve.ExecStatus
		if name != "exec-status" || err != nil || json.Unmarshal(out, &s) != nil || bool(s.Exited) {
			return out, err
		}
		time.Sleep(time.Millisecond)
	}
}

// What is short costs one script: a call that starts it and one that has its
// end, with all the output.
func TestCallsOfShortCommands(t *testing.T) {
	m := boot(t, &pvetest.Server{})
	calls := &counting{Transport: m.client.Transport}
	m.client.Transport = calls
	script := guest.Cmd{Args: []string{"sh", "-c", "cat; seq 3000; echo err >&2"}}
	little := strings.Repeat("x", 5000)
	one := map[string]int{"exec": 1, "exec-status": 1}
	for _, tt := range []struct {
		name string
		do   func(c *agentconn.Conn) error
		want map[string]int
	}{
		{"true", func(c *agentconn.Conn) error {
			_, err := c.Run(t.Context(), guest.Cmd{Args: []string{"true"}}, guest.Streams{})
			return err
		}, one},
		{"run", func(c *agentconn.Conn) error {
			_, err := c.Run(t.Context(), guest.Cmd{Args: []string{"seq", "3000"}}, guest.Streams{Stdout: io.Discard})
			return err
		}, one},
		{"start", func(c *agentconn.Conn) error {
			_, out, err := c.Processes().Start(t.Context(), script, guest.StartOptions{Stdin: []byte(little), Wait: time.Minute, Max: 30_000})
			if out.Stdout.Total < 10_000 {
				return fmt.Errorf("output %+v, %w", out.Stdout, err)
			}
			return err
		}, one},
		{"write", func(c *agentconn.Conn) error {
			_, err := c.WriteFile(t.Context(), "/home/f", strings.NewReader(little), guest.WriteOptions{})
			return err
		}, one},
		{"read", func(c *agentconn.Conn) error {
			r, _, err := c.ReadFile(t.Context(), "/home/f", 0, -1)
			if err != nil {
				return err
			}
			b, err := io.ReadAll(r)
			if string(b) != little {
				return fmt.Errorf("%d bytes, %w", len(b), err)
			}
			return err
		}, one},
		{"list", func(c *agentconn.Conn) error {
			_, err := c.ListFiles(t.Context(), "/home", guest.ListOptions{})
			return err
		}, map[string]int{"exec": 2, "exec-status": 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			calls.calls = map[string]int{}
			check(t, tt.do(m.conn(t, ""))) // one that does not know the guest yet
			if diff := cmp.Diff(tt.want, calls.calls); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
		})
	}
}
