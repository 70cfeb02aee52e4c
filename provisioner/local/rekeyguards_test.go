package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/agentlab-mcp/agentlab/provisioner"
	"github.com/agentlab-mcp/agentlab/provisioner/guest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/sshguest"
	"github.com/agentlab-mcp/agentlab/provisioner/guest/wire"
)

// door stands before a guest's socket and counts who comes in.
type door struct {
	came atomic.Int64

	mu     sync.Mutex
	inside int
	left   *sync.Cond // on mu
}

// pass notes who comes in, or leaves with -1.
func (d *door) pass(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inside += n
	d.left.Broadcast()
}

// door puts one before the socket of a machine.
func (p *place) door(t *testing.T, ref provisioner.Ref) *door {
	t.Helper()
	p.sh(t, ref, "true") // it listens
	dir, err := os.Open(filepath.Join(p.st.machineDir(ref.Sandbox), runDir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	at := fmt.Sprintf("/proc/self/fd/%d/", dir.Fd()) // the path of a socket must be short
	if err := os.Rename(at+guest.Socket, at+"behind"); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", at+guest.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	d := &door{}
	d.left = sync.NewCond(&d.mu)
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			d.came.Add(1)
			d.pass(1)
			go d.lead(nc, at+"behind")
		}
	}()
	return d
}

// lead joins a connection with one to the guest until either ends.
func (d *door) lead(nc net.Conn, to string) {
	defer d.pass(-1)
	defer nc.Close()
	inner, err := net.Dial("unix", to)
	if err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(inner, nc)
		_ = inner.Close()
	}()
	_, _ = io.Copy(nc, inner)
}

// wantEmpty waits until all who came have gone.
func (d *door) wantEmpty(t *testing.T, what string) {
	t.Helper()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		d.mu.Lock()
		defer d.mu.Unlock()
		for d.inside > 0 {
			d.left.Wait()
		}
	}()
	select {
	case <-gone:
	case <-time.After(patience):
		t.Errorf("%s: a channel is still open", what)
	}
}

// dying returns a provisioner over the same place that fails before a step.
func (p *place) dying(step string) *Provisioner {
	dies := p.restarted()
	dies.Step = func(name string, do func() error) error {
		if name == step {
			return errors.New("it dies here")
		}
		return do()
	}
	return dies
}

// An open channel is used and no other made for it, whichever keys it has; where
// there is none, the new keys are tried first: most often they are right, since
// what needs no channel was done before.
func TestRekeyTakesTheShortestWay(t *testing.T) {
	p := newPlace(t, programs(t))
	ref := p.pooled(t, "sb-ways")
	d := p.door(t, ref)
	conn := p.dialled(t, ref)
	came := func(what string, do func() guest.Conn) int64 {
		t.Helper()
		before := d.came.Load()
		if _, err := do().Processes().List(t.Context()); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return d.came.Load() - before
	}
	came("dialled", func() guest.Conn { return conn })
	for _, keys := range []string{"keys from before", "new keys"} {
		if n := came(keys, func() guest.Conn {
			conn = p.rekey(t, ref, claim(ref), conn).(*sshguest.Conn)
			return conn
		}); n != 0 {
			t.Errorf("over a channel with %s %d others were made", keys, n)
		}
	}
	after := &place{Provisioner: p.restarted(), st: p.st}
	want := came("dialled anew", func() guest.Conn { return after.dialled(t, ref) })
	if n := came("without a channel", func() guest.Conn { return after.rekey(t, ref, claim(ref), nil) }); n != want {
		t.Errorf("without a channel %d connections were made, to dial takes %d", n, want)
	}
}

// Whatever becomes of a re-key, no channel is left open by it, and what it was
// refused for is not asked for once more over another.
func TestRekeyLeavesNoChannel(t *testing.T) {
	p := newPlace(t, programs(t))
	ref := p.pooled(t, "sb-open")
	d := p.door(t, ref)
	for name, spec := range map[string]provisioner.Spec{"refused here": claim(ref), "refused by the guest": claim(ref)} {
		conn := p.dialled(t, ref)
		if _, err := conn.Processes().List(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := d.came.Load()
		if name == "refused here" {
			spec.Papers.MemoryMB = 512
		} else {
			spec.Hostname = strings.Repeat("x", 300) // longer than the guest's kernel takes
		}
		if _, err := p.Rekey(t.Context(), ref, spec, conn); err == nil {
			t.Errorf("%s: it was not", name)
		}
		if n := d.came.Load() - want; n != 0 {
			t.Errorf("%s: %d more channels were tried", name, n)
		}
		d.wantEmpty(t, name)
	}
	if _, err := p.dying("local name papers").Rekey(t.Context(), ref, claim(ref), p.dialled(t, ref)); err == nil {
		t.Error("it did not die")
	}
	d.wantEmpty(t, "the papers fail")
	p.rekey(t, ref, claim(ref), nil)
}

// The papers change when the guest has answered its new owner, and not before; a
// draft of them is left neither by what fails then.
func TestRekeyChangesPapersLast(t *testing.T) {
	p := newPlace(t, programs(t))
	ref := p.pooled(t, "sb-last")
	dies := p.restarted()
	dies.Step = func(name string, do func() error) error {
		if name == "local rekey guest" {
			if list, err := p.List(t.Context()); err != nil || len(list) != 1 || list[0].Papers.Keys != 0 {
				t.Errorf("before the guest was re-keyed: %+v, %v", list, err)
			}
		}
		if name != "local name papers" {
			return do()
		}
		b, err := p.bundle(p.st, ref.Sandbox)
		if err != nil || b.papers.Keys != 0 {
			t.Errorf("papers %+v, %v", b.papers, err)
		}
		if out, err := p.hostname(t, ref, 1); err != nil || out != "claimed\n" {
			t.Errorf("the guest, by its new keys, is %q, %v", out, err)
		}
		return errors.New("it dies here")
	}
	if _, err := dies.Rekey(t.Context(), ref, claim(ref), nil); err == nil {
		t.Fatal("it did not die")
	}
	if drafts, err := filepath.Glob(filepath.Join(p.st.machinesDir(), "*", draftLink)); err != nil || len(drafts) > 0 {
		t.Errorf("papers that were not put in force are left: %v, %v", drafts, err)
	}
}

// hostname asks a guest that was re-keyed n times, whatever its papers say.
func (p *place) hostname(t *testing.T, ref provisioner.Ref, n int) (string, error) {
	t.Helper()
	cfg, err := p.channel(p.st, ref.Sandbox, n)
	if err != nil {
		return "", err
	}
	conn := sshguest.New(cfg)
	defer conn.Close()
	var out bytes.Buffer
	_, err = conn.Run(t.Context(), guest.Cmd{Args: []string{"uname", "-n"}}, guest.Streams{Stdout: &out})
	return out.String(), err
}

// Nobody else changes a machine while it is re-keyed.
func TestRekeyHoldsTheMachine(t *testing.T) {
	p := newPlace(t, programs(t))
	ref := p.pooled(t, "sb-held")
	steps := 0
	holds := p.restarted()
	holds.Step = func(name string, do func() error) error {
		if name == "local rekey guest" || name == "local name papers" {
			steps++
			over, cancel := context.WithCancel(t.Context())
			cancel()
			if unlock, err := holds.machine.Lock(over, ref.Sandbox); err == nil {
				unlock()
				t.Errorf("%s: the machine is not held", name)
			}
		}
		return do()
	}
	next, err := holds.Rekey(t.Context(), ref, claim(ref), nil)
	if err != nil || steps != 2 {
		t.Fatalf("after %d steps: %v", steps, err)
	}
	_ = next.Close()
	if err := holds.Relabel(t.Context(), ref, claim(ref).Papers); err != nil { // it is let go
		t.Error(err)
	}
}

// Each re-key gives a guest other random bytes, which it adds to those of its kernel.
func TestRekeyIsRandom(t *testing.T) {
	p := newPlace(t, programs(t))
	ref := p.pooled(t, "sb-random")
	if out, exit := p.sh(t, ref, "rm /dev/urandom && : >/dev/urandom"); exit.Code != 0 {
		t.Fatal(out)
	}
	all := map[string]bool{strings.Repeat("00", randomBytes): true}
	for range 2 {
		p.rekey(t, ref, claim(ref), nil)
		out, _ := p.sh(t, ref, "od -An -v -tx1 /dev/urandom | tr -d ' \\n'")
		if len(out) != 2*randomBytes {
			t.Errorf("the guest was given %q", out)
		}
		all[out] = true
	}
	if len(all) != 3 {
		t.Errorf("the random bytes are the same each time, or none: %v", all)
	}
}

// Who is in a session from before can neither go on nor join it once more, by a
// connection from before or a new one.
func TestSessionsFromBeforeAreGoodForNothing(t *testing.T) {
	p := newPlace(t, programs(t))
	ref := p.pooled(t, "sb-session")
	cfg, err := p.channel(p.st, ref.Sandbox, 0)
	if err != nil {
		t.Fatal(err)
	}
	connect := func() net.Conn {
		nc, err := cfg.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = nc.Close() })
		return nc
	}
	sc, channels, requests, err := ssh.NewClientConn(connect(), "guest", cfg.ClientConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer sc.Close()
	go ssh.DiscardRequests(requests)
	go func() {
		for range channels { // it opens none
		}
	}()
	var sessions []*wire.Session
	for range 2 { // one for calls, one that nobody uses
		_, payload, err := sc.SendRequest(wire.NewSession, true, nil)
		if err != nil {
			t.Fatal(err)
		}
		session, err := wire.ParseSession(payload)
		if err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, session)
	}
	open, err := wire.Frame(wire.Open{For: wire.Calls})
	if err != nil {
		t.Fatal(err)
	}
	inside, early := connect(), []net.Conn{connect(), connect()}
	if err := sessions[0].Join(inside, open); err != nil {
		t.Fatal(err)
	}
	p.rekey(t, ref, claim(ref), nil)
	for name, nc := range map[string]net.Conn{"joined": inside, "early 1": early[0], "early 2": early[1]} {
		_ = nc.SetReadDeadline(time.Now().Add(patience))
		if _, err := nc.Read(make([]byte, 1)); err == nil || errors.Is(err, unix.EAGAIN) || os.IsTimeout(err) {
			t.Errorf("the connection from before, %s: %v", name, err)
		}
	}
	for i, session := range sessions {
		if err := session.Join(connect(), open); err == nil {
			t.Errorf("session %d from before is joined", i)
		}
	}
}
