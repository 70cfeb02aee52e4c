package crashtest

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/agentlab-mcp/agentlab/internal/stage"
)

// A burst is of so many creates of each of so many principals: the user, over
// the socket, and holders of tokens, over HTTP.
const principals = 5

// crowd are the clients of a site, one of each principal.
type crowd struct {
	clients []*stage.Client
	tokens  []string // of the second on
}

// gather connects the clients, and gives tokens to them the first time.
func (s *site) gather(t *testing.T, c *crowd) {
	t.Helper()
	for i := len(c.tokens) + 1; i < principals; i++ {
		text, err := s.agentlab(t.Context(), "token", "create", fmt.Sprint("user-", i))
		if err != nil {
			t.Fatal(err)
		}
		c.tokens = append(c.tokens, strings.TrimSpace(text))
	}
	first, err := s.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.clients = []*stage.Client{first}
	for _, token := range c.tokens {
		client, err := stage.ConnectHTTP(t.Context(), s.web(t), token)
		if err != nil {
			t.Fatal(err)
		}
		c.clients = append(c.clients, client)
	}
}

func (c *crowd) leave() {
	for _, client := range c.clients {
		_ = client.Close() // whose daemon may be dead
	}
}

// each calls f n times for each client, so many of them at once.
func (c *crowd) each(n, atOnce int, f func(client *stage.Client, who, i int)) {
	var all sync.WaitGroup
	for who, client := range c.clients {
		var next atomic.Int64
		for range min(n, atOnce) {
			all.Go(func() {
				for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
					f(client, who, i)
				}
			})
		}
	}
	all.Wait()
}

// answers are what the creates of a burst are answered with.
type answers struct {
	mu                     sync.Mutex
	ready, making, refused int
}

var (
	waiting = regexp.MustCompile(`\bis (requested, number \d+ in line|requested|provisioning|booting)\b`)
	refusal = regexp.MustCompile(`quota: \d+ of \d+ sandboxes in use|sandboxes (of yours )?wait to be made`)
)

// burst asks for n sandboxes for each client at once, and returns when all are
// answered.
func (c *crowd) burst(ctx context.Context, t *testing.T, n, wait int) *answers {
	t.Helper()
	got := &answers{}
	c.each(n, n, func(client *stage.Client, _, _ int) {
		text, err := client.Call(ctx, "create_sandbox", stage.Args{"wait_seconds": wait}, nil)
		var told stage.ToolError
		got.mu.Lock()
		defer got.mu.Unlock()
		switch {
		case errors.As(err, &told) && refusal.MatchString(told.Error()):
			got.refused++
		case err != nil:
			t.Errorf("create: %v", err)
		case strings.Contains(text, " is ready until "):
			got.ready++
		case waiting.MatchString(text):
			got.making++
		default:
			t.Errorf("create: %q", text)
		}
	})
	return got
}

// listed is a sandbox of a list.
type listed struct {
	ID    string `json:"sandbox_id"`
	State string `json:"state"`
	Place int    `json:"place_in_line"`
}

// lists returns the sandboxes of each client.
func (c *crowd) lists(t *testing.T) (all [][]listed) {
	t.Helper()
	for _, client := range c.clients {
		var out struct{ Sandboxes []listed }
		if _, err := client.Call(t.Context(), "list_sandboxes", nil, &out); err != nil {
			t.Fatal(err)
		}
		all = append(all, out.Sandboxes)
	}
	return all
}

// destroyAll has all destroy what they have.
func (c *crowd) destroyAll(t *testing.T) {
	t.Helper()
	lists := c.lists(t)
	most := 0
	for _, list := range lists {
		most = max(most, len(list))
	}
	const atOnce = 15 // calls that a connection takes for what can't wait
	c.each(most, atOnce, func(client *stage.Client, who, i int) {
		if i >= len(lists[who]) {
			return
		}
		_, err := client.Call(t.Context(), "destroy", stage.Args{"sandbox_id": lists[who][i].ID}, nil)
		if err != nil && !strings.Contains(err.Error(), "The server goes on with it") {
			t.Errorf("destroy: %v", err)
		}
	})
}

// TestBurstOnHost has a burst on real machines: each is answered, and used.
func TestBurstOnHost(t *testing.T) {
	t.Parallel()
	const each = 6
	s := newSite(t, &tally{}, withHTTP(onHost))
	s.world.plant(t)
	var c crowd
	s.gather(t, &c)
	defer c.leave()
	got := c.burst(t.Context(), t, each, 55)
	if n := got.ready + got.making; n != principals*each || got.refused > 0 {
		t.Errorf("answered: %d ready, %d in the making, %d refused", got.ready, got.making, got.refused)
	}
	for who, list := range c.lists(t) {
		if len(list) != each {
			t.Errorf("client %d has %v", who, list)
		}
		for _, sb := range list {
			if _, err := c.clients[who].Call(t.Context(), "exec", stage.Args{"sandbox_id": sb.ID, "command": "true"}, nil); err != nil {
				t.Error(err)
			}
		}
	}
	c.destroyAll(t)
	s.vanish(t)
}

// TestBurstOnCluster has a burst of 500 on a cluster that does not come to make
// any machine, and the daemon killed in the middle of it.
func TestBurstOnCluster(t *testing.T) {
	t.Parallel()
	const (
		each     = 100
		quota    = 90
		parallel = 128 // of a cluster
	)
	sum := &tally{}
	t.Cleanup(func() { sum.tell(t, "crash under a burst, backend proxmox") })
	s := newSite(t, sum, withHTTP(func(t *testing.T, st *stage.Stage) world {
		w := onCluster(t, st)
		if err := st.AddConfig(fmt.Sprintf("quota_sandboxes: %d\n", quota)); err != nil {
			t.Fatal(err)
		}
		return w
	}))
	cl := s.world.(*cluster)
	open := cl.shut()
	defer open()
	var c crowd
	s.gather(t, &c)
	got := c.burst(t.Context(), t, each, 1)
	if got.ready > 0 || got.making != principals*quota || got.refused != principals*(each-quota) {
		t.Errorf("answered: %d ready, %d in the making, %d refused", got.ready, got.making, got.refused)
	}
	inLine := func() (places []int, live int) {
		for who, list := range c.lists(t) {
			if len(list) != quota {
				t.Errorf("client %d has %d, want %d", who, len(list), quota)
			}
			for _, sb := range list {
				live++
				if sb.Place > 0 {
					places = append(places, sb.Place)
				}
			}
		}
		slices.Sort(places)
		return places, live
	}
	want := make([]int, principals*quota-parallel)
	for i := range want {
		want[i] = i + 1
	}
	if places, _ := inLine(); !slices.Equal(places, want) {
		t.Errorf("places in line are %v, want 1 to %d", places, len(want))
	}
	s.await(t, "the backend to be asked for a machine", func() (bool, string) { return cl.mostHeld() > 0, "none was" })
	if err := s.daemon.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-s.daemon.ended
	sum.kills.Add(1)
	c.leave()
	s.start(t)
	s.gather(t, &c)
	defer c.leave()
	if _, live := inLine(); live != principals*quota {
		t.Errorf("%d are left of %d", live, principals*quota)
	}
	open()
	c.destroyAll(t)
	s.vanish(t)
}
